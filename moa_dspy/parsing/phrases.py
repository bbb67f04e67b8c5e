"""Where a text says what its answer is, and what surrounds a value: markup, labels, boxes, claims."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

from moa_dspy.parsing.negation import is_negated

__all__ = [
    "CHINESE_CLAUSE",
    "CHINESE_CONDITION",
    "CHINESE_END",
    "CORRECTED",
    "IDEOGRAPH",
    "PARTICLE",
    "TEXT_MAX",
    "WIDE",
    "Claim",
    "agreed",
    "answered_part",
    "boxes",
    "claims",
    "last_boxed",
    "plain",
    "undecorated",
    "unlabelled",
    "without_latex",
]

Value = TypeVar("Value")

WIDE: Final = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
"""Translates wide letters, digits and signs, which Chinese and Japanese texts contain: `（Ｂ）` is `(B)`."""
IDEOGRAPH: Final = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Matches a letter of the scripts that are written without spaces around Latin letters and digits."""
CHINESE_CLAUSE: Final = (
    r"(?:^|(?<=[,.;:!?。]))\s{0,4}(?:(?:所以|因此|由此|可见|可知|因而|故|综上(?:所述)?|本题|此题|正?确?答案|我们?|最终|最后|那么|[就则應应会會只]|"
    r"应该|應該|应当|只有|只能),?\s?){0,4}"
)
"""The beginning of a Chinese clause that says nothing else: `因此选B` chooses B, `为什么选B` and `不能选B` do not."""
CHINESE_END: Final = (
    r"\s?(?:选项|選項|[项項吧])?\s?(?:[.;:!。]|,(?!\s?(?:还是|還是|或|也))|\n|\Z|因[为為])(?!\s?[不错錯])"
)
"""The end of a Chinese clause, of the kind that is no question."""
CHINESE_CONDITION: Final = r"(?:如果|假如|要是|若|是否|难道|為什麼|为什么|不知)[^。.!?;\n]{0,60}\Z"
PARTICLE: Final = (
    r"(?:です(?!か)|である|だ(?!\w)|입니다|이다|이며|번(?!\w)|(?:选项|選項|[项項吧])?(?:是?(?:正[确確]|[对對]的)的?)?(?:答案)?"
    r"(?=[。、]|\W|\Z|因[为為]))"
)
"""What may be written after a value without a space, and leaves it as it is: `Bです`, `B正确`, `B项。`."""
TEXT_MAX: Final = 20_000
"""Only this many characters at the end of a text are searched for an answer."""

_PAIRS: Final = {"(": ")", "[": "]", "{": "}", "“": "”", "‘": "’", "«": "»", "„": "“", "「": "」", "【": "】", "<": ">"}
_EDGES: Final = "*_`\"'~ \t\r\n"
_END: Final = ".,;:!。，…।۔"
_VALUES: Final = re.compile(r"\A[(\[{].*[,;]", re.DOTALL)
_LATEX: Final = re.compile(
    r"\A(?:\\boxed|\\fbox|\\text(?:bf|it)?|\\math(?:bf|rm))\s*\{(.*)\}\Z|\A\\[(\[](.*)\\[)\]]\Z|\A\$\$?(.*?)\$\$?\Z",
    re.DOTALL,
)
_FENCE: Final = re.compile(r"\A(```+|~~~+)[\w+-]{0,20}[ \t]{0,4}\n")
_TYPED: Final = re.compile(r"\A(?:Literal|str|int|float|bool|Optional)\s*[\[(](.*)[\])]\Z", re.DOTALL)
_LABEL: Final = re.compile(
    r"\A\W{0,6}(?:(?:so|thus|therefore|hence)[, ]+)?(?:(?:the|my|our)\s+)?(?:final\s+|correct\s+|overall\s+)?"
    r"(?:Q\d{1,3}|(?:[^\W\d_]{2,20}[ _]){0,2}[^\W\d_]{2,20})\s*\W{0,3}(?::|=|->|→|\bis:?\s)\s*",
    re.IGNORECASE,
)

_WRAPPER: Final = re.compile(r"\\(?:text(?:bf|it)?|math(?:rm|bf)|boxed) ?\{([^{}]*)\}")
_LATEX_SPACE: Final = re.compile(r"\\(?:[ ,;:!]|q?quad\b)|~")
_BRACE: Final = re.compile(r"(?P<box>\\(?:boxed|fbox)\s{0,9}\{)|\\.|[{}]", re.DOTALL)

# Where a reply goes on with a question that nobody asked, after it has answered.
_NEXT: Final = re.compile(
    r"^[ \t]{0,4}[*_#]{0,4} ?(?:Question|Q|Problem|Exercise|Human|User|Instruction)(?: ?\d{1,3})?[*_]{0,3}:",
    re.MULTILINE,
)
_ANSWERED: Final = re.compile(r"^####[ \t]*\S|\banswer(?:[*_]{0,3}:| is\b)|\\boxed\{", re.IGNORECASE | re.MULTILINE)
_CLAIMS_MAX: Final = 100
_BULLET: Final = re.compile(r"\A[-*•+–][ \t]+")
_NOT_YET: Final = (
    r"(?:wrong|incorrect|initial|first|tempting|another|other|alternative|previous|possible|common|opposite)"
)
_BETWEEN: Final = r"(?:(?!\b(?:not|wrong|incorrect|if|unless|answers?|is|are)\b)[^.\n:;=?!]){0,80}?"
_MARKER: Final = re.compile(
    rf"""
    (?<![A-Za-z0-9/])(?P<before>{_NOT_YET}[ ]|final[ _]?)?
    (?:answers?|ans\.?(?=[\s*_"'`]*[:=]|\s)|verdict|conclusion|classification|prediction
        |antwort|réponse|respuesta|risposta|resposta|ответ|opción[ ]correcta|opção[ ]correta|option[ ]correcte
        )(?![A-Za-z0-9])[*_"'`]{{0,3}}
    (?:
        \s{{0,3}}(?P<sign>[:=>：]|-{{1,2}}>|→|\s[-–—](?=\s))
        | {_BETWEEN}\b(?:is|ist|lautet|est|es|è|é|are|must\ be|should\ be|will\ be|has\ to\ be|equals
          |(?P<would>would\ be))\b
          \s{{0,3}}[:=]?
    )
    [ \t*_]{{0,8}}
    | (?:答案|答え|回答|正解|正答|정답)\s?(?P<other>(?:应该?|應該?)?(?:[:：=是为為は은】]|[选選](?![项項])){{1,2}})\s?
    | ^[ \t]{{0,8}}\#\#\#\#[ \t]{{0,8}}(?=[^\s\#])(?!\d{{1,2}}[.)]\s+[^\W\d]|[^\W\d]+[ \#]*\d+\b)
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_CONDITION_BEFORE: Final = re.compile(
    r"\b(?:if|whether|unless|hope|suppose|assuming|why|how|when|until)\b[^,.!?\n]{0,60}\Z", re.IGNORECASE
)
_CONDITION: Final = re.compile(r"\b(?:if|for|were|had|in case)\b", re.IGNORECASE)
_REMARK: Final = re.compile(
    r"(?:un)?(?:clear|helpful|useful|correct|right|wrong|sure|certain|reasonable|consistent|above|below|as follows)\b"
    r"|(?:based|obtained|given|derived|found|explained|shown|supported|confirmed|verified|provided|rounded)\b"
    r"|(?:in|on|from|by|not|neither|never|no longer|anything but|unlikely|isn['’]t)\b",
    re.IGNORECASE,
)
_NEGATION: Final = re.compile(r"(?:not|neither|never|no longer|anything but)\b", re.IGNORECASE)
_CONCLUDES: Final = re.compile(
    r"\b(?:so|thus|therefore|hence|finally|consequently|in conclusion|overall)\b[^.!?\n]{0,30}\Z", re.IGNORECASE
)
_CHANGED: Final = re.compile(
    r"\b(?:wait|actually|correction|no(?=[,.!:])|sorry|oops|mistaken?|instead|on second thought|re-?(?:consider|check|"
    r"think|examin|evaluat|read)\w*|however|scratch that|hmm+|revis\w+|updat\w+|changed? my)\b|\bbut\b(?! not)",
    re.IGNORECASE,
)
"""Words after which a later answer replaces an earlier one."""
CORRECTED: Final = r"\b(?:(?:wait|actually|correction|sorry|oops|scratch that|hmm+|i mean)\b|no[,.:;])"
"""A pattern of the words that take back what stands right before them."""


def answered_part(text: str) -> str:
    """Return a text without further questions and their answers, with which base models go on after the answer."""
    answer = _ANSWERED.search(text)
    following = None if answer is None else _NEXT.search(text, answer.end())
    return text if following is None else text[: following.start()]


def undecorated(text: str) -> str:
    """Return a text without markup, quotes, brackets and punctuation around it.

    Brackets around several values stay: ``(0, 1)`` is not ``[0, 1]``.
    """
    for _ in range(8):
        before = text
        text = text.strip(_EDGES).rstrip(_END).strip(_EDGES)
        fenced = _FENCE.match(before.strip())
        latex = _LATEX.match(text)
        if fenced and before.rstrip().endswith(fenced[1]):
            text = before.strip()[fenced.end() : -len(fenced[1])]
        elif latex:
            text = next(part for part in latex.groups() if part is not None)
        elif (
            text[:1] in _PAIRS
            and text.endswith(_PAIRS[text[0]])
            and text.count(text[0]) == 1
            and not _VALUES.match(text)
        ):
            text = text[1:-1]
        elif typed := _TYPED.match(text):
            text = typed[1]
        if text == before:
            break
    return text


def unlabelled(text: str) -> str:
    """Return a text without a label such as ``Answer:`` before it."""
    match = _LABEL.match(text[:200])
    return text[match.end() :] if match else text


def without_latex(text: str) -> str:
    """Return a text without LaTeX commands around its words, and with single spaces."""
    return " ".join(_LATEX_SPACE.sub(" ", _WRAPPER.sub(r"\1", text)).split())


def plain(text: str) -> str:
    """Return a text without LaTeX commands, emphasis marks, quotes around it, and one final full stop."""
    text = re.sub(r"\*\*|`|\$", "", without_latex(text)).strip()
    return text.removesuffix(".").strip().strip("\"'").strip()


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last closed `\boxed{...}`, with nested braces; None if there is none.

    A nested box is part of the outer one. An empty box is used only if there is no other.
    """
    contents = _boxes(text)
    filled = [content for content, _ in contents if content.strip()]
    return filled[-1] if filled else contents[0][0] if contents else None


def boxes(text: str) -> list[tuple[str, int]]:
    """Return the contents of all closed outer boxes that the text does not deny, each with its position."""
    return [box for box in _boxes(text) if not is_negated(text, text.rfind("\\", 0, box[1]))]


def _boxes(text: str) -> list[tuple[str, int]]:
    """Return the contents of all closed outer boxes, each with its position."""
    found: list[tuple[str, int]] = []
    starts: list[int | None] = []  # of each open brace; None for one that is no box
    for match in _BRACE.finditer(text, max(0, len(text) - TEXT_MAX)):
        if match["box"] or match[0] == "{":
            starts.append(match.end() if match["box"] else None)
        elif match[0] == "}" and starts and (start := starts.pop()) is not None:
            while found and found[-1][1] > start:
                found.pop()  # inside of this one
            found.append((text[start : match.start()], start))
    return found


class Claim(NamedTuple):
    """What a text says its answer is.

    Attributes:
        answer: the rest of the line after the marker, or the next line with text.
        start: position of the marker.
        formal: whether the marker is a label ("Answer: B") and not part of a sentence ("the answer is B").
        final: whether it is called the final answer, or concludes ("so the answer is B").
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
    | `Ans: B`, `Answer - B`, `Verdict: B`, `#### B` | `answer-B` |
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
    hashes = match[0].lstrip().startswith("#")
    formal = hashes or bool(match["sign"] or match["other"])
    sentence_so_far = text[max(0, match.start() - 100) : match.start()]
    if not answer or (_REMARK.match(answer) and not remarks and (not formal or _NEGATION.match(answer))):
        return None
    if match["other"] and re.search(CHINESE_CONDITION, sentence_so_far):
        return None
    if not formal and (
        _CONDITION_BEFORE.search(sentence_so_far)
        or is_negated(text, match.start())
        or (match["would"] and (_CONDITION.search(answer) or _CONDITION.search(sentence_so_far.rpartition(".")[2])))
    ):
        return None
    final = before == "final" or hashes or _CONCLUDES.search(sentence_so_far) is not None
    return Claim(answer, match.start(), formal, final)


def _line_after(text: str, position: int) -> str:
    """Return the first line with text from a position on, of at most 500 characters, or the quoted text there."""
    rest = text[position : position + 500]
    line = rest.lstrip().partition("\n")[0].partition("</")[0].strip()
    if rest.lstrip(" \t*_").startswith("\n"):
        line = _BULLET.sub("", line)
    if line[:1] in ('"', "'") and (quoted := line[1:].partition(line[0])[0].strip()):
        return quoted
    return line


def agreed(found: Sequence[tuple[Value, int, bool]], text: str) -> Value | None:
    """Return the value of all candidates, or of the last one if the text says that it replaces the others.

    Args:
        found: value and position of each candidate, and whether it is called final. Final ones outrank the others.
        text: the whole text.
    """
    ranked = [candidate for candidate in found if candidate[2]] or found
    if not ranked:
        return None
    last, start, _ = ranked[-1]
    others = [candidate for candidate in ranked if candidate[0] != last]
    if others and not _CHANGED.search(text, min(others[-1][1], start), start):
        return None
    return last
