"""Where the answer stands in a text: in a box, after a marker, or in the last line. All answer parsers start here."""

from __future__ import annotations

import re

__all__ = ["TEXT_MAX", "after_last", "final_answer", "final_expression", "last_boxed", "plain", "without_latex"]

TEXT_MAX = 100_000
"""Only this many characters at the end of a text are searched for an answer."""

_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s{0,9}\{)|\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed) ?\{([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\(?:[ ,;:!]|q?quad\b)|~")
_MARKER = re.compile(r"\banswer(?: is\b|:)[ \t]*:?", re.IGNORECASE)
_MARKED_LINE = re.compile(r"(?:\banswer\s*(?:is|:)\s*:?)([^\n]*)", re.IGNORECASE)


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last closed `\boxed{...}`, with nested braces; None if there is none.

    A nested box is part of the outer one. An empty box is used only if there is no other.
    """
    text = text[-TEXT_MAX:]
    content: str | None = None
    starts: list[int | None] = []  # of each open brace; None for one that is no box
    for match in _BRACE.finditer(text):
        if match["box"] or match[0] == "{":
            starts.append(match.end() if match["box"] else None)
        elif match[0] == "}" and starts and (start := starts.pop()) is not None:
            inside = text[start : match.start()]
            content = inside if inside.strip() or content is None else content
    return content


def without_latex(text: str) -> str:
    """Return a text without LaTeX commands around its words, and with single spaces."""
    return " ".join(_LATEX_SPACE.sub(" ", _WRAPPER.sub(r"\1", text)).split())


def after_last(text: str, *markers: re.Pattern[str]) -> str | None:
    """Return the text after the last match of the first marker that occurs, or None."""
    for marker in markers:
        if ends := [match.end() for match in marker.finditer(text)]:
            return text[ends[-1] :]
    return None


def final_answer(text: str) -> str:
    """Return the line after the last "answer is", else the last box, else the whole text, without markup (BBH)."""
    marked = after_last(text, _MARKER)
    if marked is None:
        return plain(last_boxed(text) or text)
    return plain((marked.strip().splitlines() or [""])[0])


def plain(text: str) -> str:
    """Return a text without LaTeX commands, emphasis marks, quotes around it, and one final full stop."""
    text = re.sub(r"\*\*|`|\$", "", without_latex(text)).strip()
    return text.removesuffix(".").strip().strip("\"'").strip()


def final_expression(text: str) -> str:
    r"""Return the final expression of a solution: the last `\boxed{}`, else after "answer is", else the last line."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    marked = [match[1] for match in _MARKED_LINE.finditer(text) if match[1].strip()]
    answer = (marked or text.strip().splitlines() or [""])[-1].strip()
    return re.sub(r"^(\$+|\\\(|\\\[)|(\$+|\\\)|\\\])\.?$", "", answer.removesuffix(".")).strip().strip("*")
