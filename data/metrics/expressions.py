"""The mathematical expression that a solution gives as its answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, repeat
from typing import NamedTuple

from moa_dspy.parsing.negation import is_negated
from moa_dspy.parsing.numbers import stated_number
from moa_dspy.parsing.phrases import TEXT_MAX, WIDE, boxes, claims, undecorated

__all__ = ["final_expression", "in_latex"]

_LINES_MAX = 20
_RUNS_MAX = 100  # in a line
_UNIT_MAX = 2
_IS = re.compile(r"\b(?:is|are|equals?|gives?|gets?|becomes?|yields?|makes?)\b", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_DOLLAR = re.compile(r"(\\\\)|\\\$")  # or a line break, which may stand before a formula
_DISPLAY = re.compile(r"\$\$[^$]{1,500}\$\$|\\\[.{1,500}?\\\]", re.DOTALL)
_FORMULA = re.compile(r"\$\$([^$]{1,500})\$\$|(?<!\\)\$([^$]{1,500})(?<!\\)\$|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]")
_ARGUMENT = r"\\(?:text\w*|math\w+|mbox|begin|end|operatorname)\s?\{[^{}]{0,100}\}"
_FUNCTIONS = r"(?:sin|cos|tan|cot|sec|csc|arc\w+|ln|log|exp|sqrt|pi|inf|infty|mod|gcd|lcm|min|max)\b"
_SHORT = r"(?:an|as|at|be|by|do|if|in|is|it|my|no|of|on|or|so|to|up|us|we)\b"
_PROSE = re.compile(
    rf"{_ARGUMENT}|\\[A-Za-z]+|(?P<word>(?<![A-Za-z\d])(?!{_FUNCTIONS})(?:{_SHORT}|[^\W\d_][^\W\d_'\u2019-]*[^\W\d_]{{2}}))",
    re.IGNORECASE,
)
_CONTENT = re.compile(r"[\d\\=+*/^<>≤≥∞π√]")
_JOINT = re.compile(r"[\s,;*]*(?:(?:and|or)\b[\s*]*)?", re.IGNORECASE)
_NUMERAL = re.compile(r"\A\s*(?:\d{1,2}[.)]|[-*•])\s+")
_SENTENCE_END = re.compile(r"[.!?]\s+(?=[^\W\d_]{2}|I\b)")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RAISED_RUN = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_ROOT = re.compile(r"√\s?(?:\(([^()]{1,100})\)|(\d+|\w))")
_SIGNS = str.maketrans(
    {
        "\u2212": "-",
        "\u00d7": r"\times ",
        "\u00b7": r"\cdot ",
        "\u00f7": r"\div ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u221e": r"\infty ",
        "\u03c0": r"\pi ",
    }
)


class _Run(NamedTuple):
    """An expression in a text, with its position."""

    expression: str
    start: int
    end: int


def final_expression(text: str) -> str:
    r"""Return the expression that a solution gives as its answer, or an empty text.

    The first of these that is there and not denied is used.

    | form | examples, all `\frac{1}{2}` |
    |---|---|
    | the last box | `\boxed{\frac{1}{2}}` |
    | the last claim | `**Answer:** $\frac{1}{2}$`, `The answer is \(\frac{1}{2}\), because ...`, `#### \frac{1}{2}` |
    | the last expression of the last line with one | `Therefore, the sum is $\frac{1}{2}$.`, `\frac{1}{2}` |

    In a line, formulas (`$...$`, `\(...\)`) outrank what is between words, and both outrank a single letter.
    Expressions with "and", "or" or a comma between them are one: `$x = 2$ and $x = 3$` is `x = 2, x = 3`.
    A formula or a code block that was cut off contains no answer, and neither does a sentence that only mentions an
    expression.
    """
    text = text[-TEXT_MAX:].translate(WIDE)
    text = _DOLLAR.sub(r"\1", text)  # dollars are no formula
    text = _DISPLAY.sub(lambda match: " ".join(match[0].split()), text)
    if boxed := [content.strip() for content, _ in boxes(text) if content.strip()]:
        return boxed[-1]
    text, is_cut = _complete(text)
    said = [claim.answer for claim in claims(text)]
    for answer in reversed(said):
        sentence = _SENTENCE_END.split(answer, maxsplit=1)[0]
        if (run := next(_stated(sentence), None)) is not None:
            return run.expression
        if (number := stated_number(sentence)) is not None:
            return str(number)
    if said or is_cut:
        return undecorated(said[-1]) if said else ""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for line in islice(map(_NUMERAL.sub, repeat(""), reversed(lines)), _LINES_MAX):
        if (run := next(_stated(line, backwards=True), None)) is not None:
            return run.expression if _concludes(line, run) else ""
    return undecorated(lines[-1]) if lines and not _CONTENT.search(lines[-1]) else ""


def in_latex(expression: str) -> str:
    """Return an expression with LaTeX commands in place of mathematical signs: `x²` is `x^{2}`, `√2` is a root."""
    raised = _RAISED_RUN.sub(lambda match: f"^{{{match[0].translate(_RAISED)}}}", expression)
    rooted = _ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", raised)
    return rooted.translate(_SIGNS)


def _complete(text: str) -> tuple[str, bool]:
    r"""Return a text without a formula or a code block at its end that was cut off, and whether there is one."""
    fences = [match.start() for match in _FENCE.finditer(text)]
    opened = max(map(text.rfind, (r"\(", r"\[")))
    cuts = [fences[-1]] if len(fences) % 2 else []
    if opened > max(map(text.rfind, (r"\)", r"\]"))):
        cuts.append(opened)
    return text[: min(cuts, default=len(text))], bool(cuts)


def _concludes(line: str, run: _Run) -> bool:
    """Return whether a line says that an expression is the result: it ends in it, or is about it."""
    rest = line[run.end :].strip(" \t.,;:!?*`$_\"')]")
    return len(rest.split()) <= _UNIT_MAX or _IS.match(rest) is not None or _IS.search(line[: run.start]) is not None


def _stated(line: str, *, backwards: bool = False) -> Iterator[_Run]:
    """Yield the expressions of a line that it does not deny, of the first ones, or of the last ones backwards."""
    formulas = [_run(line, *match.span(match.lastindex or 0)) for match in _FORMULA.finditer(line)]
    others = list(_between_words(line))
    ranked = (
        [run for run in formulas if _CONTENT.search(run.expression)],
        [run for run in others if _CONTENT.search(run.expression)],
        formulas or (others if len(others) == 1 and others[0].expression.isalpha() else []),
    )
    best = _joined(next((runs for runs in ranked if runs), []), line)
    nearest = islice(reversed(best) if backwards else best, _RUNS_MAX)
    return (run for run in nearest if not is_negated(line, run.start, run.end))


def _between_words(line: str) -> Iterator[_Run]:
    """Yield what is between the words of a line."""
    start = 0
    for match in _PROSE.finditer(line):
        if match["word"]:
            if (run := _run(line, start, match.start())).expression:
                yield run
            start = match.end()
    if (run := _run(line, start, len(line))).expression:
        yield run


def _run(line: str, start: int, end: int) -> _Run:
    """Return a part of a line without the marks around it."""
    text = line[start:end]
    bare = text.lstrip(" \t,;:?!*`_\"'=)").rstrip(" \t,;:.?!*`_\"'=(\\")
    start += len(text) - len(text.lstrip(" \t,;:?!*`_\"'=)"))
    if bare.count("$") % 2:
        bare = bare.replace("$", "")
    if bare[-1:] in (")", "]") and sum(map(bare.count, "([")) < sum(map(bare.count, ")]")):
        bare = bare[:-1].rstrip()
    return _Run(bare, start, start + len(bare))


def _joined(runs: list[_Run], line: str) -> list[_Run]:
    """Return the runs, with those as one that only "and", "or" or a comma separates."""
    joined: list[_Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        between = line[last.end : run.start].replace("$", "").replace(r"\)", "").replace(r"\(", "") if last else ""
        if last and _JOINT.fullmatch(between):
            joined[-1] = _Run(f"{last.expression}, {run.expression}", last.start, run.end)
        else:
            joined.append(run)
    return joined
