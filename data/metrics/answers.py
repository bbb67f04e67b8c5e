"""Where the answer stands in a text: in a box, after a marker, or in the last line. All answer parsers start here."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

__all__ = [
    "TEXT_MAX",
    "Claim",
    "claims",
    "final_answer",
    "final_expression",
    "last_boxed",
    "plain",
    "without_latex",
]

TEXT_MAX = 20_000
"""Only this many characters at the end of a text are searched for an answer."""

_CLAIMS_MAX = 100
_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s{0,9}\{)|\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed) ?\{([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\(?:[ ,;:!]|q?quad\b)|~")
_MARKED_LINE = re.compile(r"(?:\banswer\s*(?:is|:)\s*:?)([^\n]*)", re.IGNORECASE)

_NOT_YET = r"(?:wrong|incorrect|initial|first|tempting|another|other|alternative|previous|possible|common|opposite)"
_BETWEEN = r"(?:(?!\b(?:not|wrong|incorrect|if|unless|answers?|is|are)\b)[^.\n:;=?!]){0,80}?"
_MARKER = re.compile(
    rf"""
    (?<![A-Za-z0-9/])(?P<before>{_NOT_YET}[ ]|final[ _]?)?answers?\b[*_"'`]{{0,3}}
    (?:
        \s{{0,3}}(?P<sign>[:=>\uff1a])
        | {_BETWEEN}\b(?:is|are|must\ be|should\ be|will\ be|has\ to\ be|equals|(?P<would>would\ be))\b\s{{0,3}}:?
    )
    [ \t*_]{{0,8}}
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CONDITION_BEFORE = re.compile(
    r"\b(?:if|whether|unless|hope|suppose|assuming|why|how|when|until)\b[^,.!?\n]{0,60}\Z", re.IGNORECASE
)
_CONDITION = re.compile(r"\b(?:if|for|were|had|in case)\b", re.IGNORECASE)
_REMARK = re.compile(
    r"(?:un)?(?:clear|helpful|useful|correct|right|wrong|sure|certain|reasonable|consistent|above|below|as follows)\b"
    r"|(?:based|obtained|given|derived|found|explained|shown|supported|confirmed|verified|provided|rounded)\b"
    r"|(?:in|on|from|by|not)\b",
    re.IGNORECASE,
)


class Claim(NamedTuple):
    """What a text says its answer is.

    Attributes:
        answer: the rest of the line after the marker, or the next line with text.
        start: position of the marker.
        formal: whether the marker is a label ("Answer: B") and not part of a sentence ("the answer is B").
        final: whether it is called the final answer.
    """

    answer: str
    start: int
    formal: bool
    final: bool


def claims(text: str, *, remarks: bool = False) -> list[Claim]:
    """Return what a text says its answer is, in order; of more than 100 markers, only the last 100 are read.

    | counts | does not count |
    |---|---|
    | `Answer: B`, `**Answer**: B`, `answer = B`, `<answer>B</answer>`, `{"answer": "B"}` | `wrong answer: B` |
    | `the answer is B`, `The most appropriate answer here is B` | `if the answer is unclear`, `the answer is not B` |
    | `the answer would be B` | `the answer would be B if ...`, `answer B would be right for ...` |
    | `Answer:`, and B in the next line with text | `the answer is based on ...` |

    With `remarks`, sentences such as the last one count as well.
    """
    last = deque(_MARKER.finditer(text), _CLAIMS_MAX)
    found = (_claim(text, match, remarks) for match in last)
    return [claim for claim in found if claim is not None]


def _claim(text: str, match: re.Match[str], remarks: bool) -> Claim | None:
    before = (match["before"] or "").strip(" _").casefold()
    if before not in ("", "final"):
        return None
    answer = _line_after(text, match.end())
    formal = match["sign"] is not None
    sentence_so_far = text[max(0, match.start() - 100) : match.start()]
    if not answer or (
        not formal
        and (
            _CONDITION_BEFORE.search(sentence_so_far)
            or (_REMARK.match(answer) and not remarks)
            or (match["would"] and (_CONDITION.search(answer) or _CONDITION.search(sentence_so_far.rpartition(".")[2])))
        )
    ):
        return None
    return Claim(answer, match.start(), formal, before == "final")


def _line_after(text: str, position: int) -> str:
    """Return the first line with text from a position on, of at most 500 characters, or the quoted text there."""
    line = text[position : position + 500].lstrip().partition("\n")[0].partition("</")[0].strip()
    if line[:1] in ('"', "'") and (quoted := line[1:].partition(line[0])[0].strip()):
        return quoted
    return line


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


def final_answer(text: str, accepts: Callable[[str], object] | None = None) -> str:
    """Return the answer of a text, without markup (BBH).

    It is the last claim that is accepted, else the last claim, else the last box, else the whole text.

    Args:
        text: a model's whole answer.
        accepts: tells whether a claim has the form of an answer.
    """
    text = text[-TEXT_MAX:]
    found = [plain(claim.answer) for claim in claims(text) or claims(text, remarks=True)]
    if not found:
        return plain(last_boxed(text) or text)
    fitting = [answer for answer in found if accepts is None or accepts(answer)]
    return (fitting or found)[-1]


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
