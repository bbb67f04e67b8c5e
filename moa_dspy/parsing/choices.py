"""Members of a closed set in a model's text, where it is clear which one is meant: words, letters, yes or no."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar, overload

from moa_dspy.parsing.members import CLOSE, SAYING, MemberSet, folded, member_set
from moa_dspy.parsing.negation import is_negated
from moa_dspy.parsing.numbers import read_number
from moa_dspy.parsing.phrases import (
    CHINESE_CONDITION,
    TEXT_MAX,
    WIDE,
    agreed,
    answered_part,
    boxes,
    claims,
    plain,
    undecorated,
    unlabelled,
    without_latex,
)

__all__ = ["choice_letter", "read_bool", "read_choice"]

Value = TypeVar("Value")
Found = tuple[Value | None, int, bool]
"""A value, its position, and whether the text calls it final. None is a statement of several values."""

_SENTENCE_MAX: Final = 1000  # characters of a text that states its answer without saying so
_SCANNED: Final = 50  # places where a member may be
_VERDICT_ENDS: Final = re.compile(rf"{CLOSE}(?:[.,;:!—–]|\s[-–—]|\s*\n|\s*\Z|\s(?:because|since|as|for)\b)")


@overload
def read_choice(text: str, members: Sequence[str], texts: Sequence[str] = (), *, prose: bool = True) -> str | None: ...
@overload
def read_choice(
    text: str, members: Mapping[str, Value], texts: Sequence[str] = (), *, prose: bool = True
) -> Value | None: ...
def read_choice(
    text: str, members: Sequence[str] | Mapping[str, Any], texts: Sequence[str] = (), *, prose: bool = True
) -> Any:
    r"""Return the member that a text chooses; None if it chooses none, or several.

    The rules are tried in this order. The first one that finds a member decides.

    | rule | examples, all B |
    |---|---|
    | the text is a member, or the text of one | `B`, `(b).`, `**B**`, `Answer: B`, `Rome` |
    | a box, a labelled line, JSON | `\boxed{\text{B}}`, `**Answer:** B`, `Ans: B`, `Choice: B`, `{"answer": "B"}` |
    | "the answer is" | `The answer is likely (B).`, `The best answer here is option B.`, `The answer is Rome.` |
    | a member that is called right or chosen | `Select B.`, `B is correct.`, `A is wrong, so B.`, `not A but B` |
    | the first or last line begins with it | `B) Rome`, `B: Rome`, `Option B`, `B, because ...` |
    | an option that is mentioned, and not called wrong | `I like option B` |
    | the only member, or text of one, in a sentence | `It was Rome that they built.`, `a positive review` |

    "A or B" chooses nothing. A rule that finds different members chooses nothing, unless the text says between them
    that it changed ("Wait", "however"), or calls one of them the final answer. What is denied ("not B", "B is wrong")
    and an answer under another condition ("answer A would be right for England") is no choice. A single letter in a
    sentence may be a word, so it must be marked.

    Args:
        text: a model's whole answer.
        members: the members, or their names with what they stand for.
        texts: what the members stand for, in their order, if they are letters.
        prose: whether a sentence may choose it. If not, the text must be the member, or say that it is the answer.
    """
    text = text.translate(WIDE)
    labels = members.items() if isinstance(members, Mapping) else zip(members, members, strict=True)
    known: MemberSet[Any] = member_set(tuple(labels), tuple(texts))
    if (whole := _whole(text.strip(), known)) is not None:
        return whole
    lines = dict.fromkeys((text[:TEXT_MAX].strip().partition("\n")[0], text[-TEXT_MAX:].strip().rpartition("\n")[2]))
    text = text[-TEXT_MAX:]
    said = claims(text)
    rules: list[Callable[[], list[Found[Any]]]] = [
        lambda: sorted(
            [
                *_claimed(((content, start, False) for content, start in boxes(text)), known),
                *_claimed(((claim.answer, claim.start, claim.final) for claim in said if claim.formal), known),
                *_found(text, known.key, known),
            ],
            key=lambda found: found[1],
        ),
        lambda: _claimed(((claim.answer, claim.start, claim.final) for claim in said if not claim.formal), known),
    ]
    if prose and known.letters:
        rules.append(lambda: _found(text, known.asserted, known) or _named(text, known))
        if known.one_of_several.match(text.strip()[:200]):
            prose = False
    if prose:
        rules.append(lambda: [one for line in lines for one in _labelled(without_latex(line), known)])
    if prose and known.letters:
        rules.append(lambda: _found(text, known.mentioned, known))
    if prose:
        rules.append(lambda: _by_number(text, known) if known.numbers else _in_sentence(text, known))
    return next((agreed(found, text) for rule in rules if (found := rule())), None)


def choice_letter(text: str, choices: Sequence[str] | int = 26) -> str | None:
    """Return the upper-case letter that a text chooses, or None if it chooses none or several.

    `read_choice` has the rules. Letters beyond the choices, or beyond their number, are ignored.
    """
    texts = [] if isinstance(choices, int) else list(map(str, choices))
    text = answered_part(text)
    return read_choice(text, string.ascii_uppercase[: choices if isinstance(choices, int) else len(texts)], texts)


_TRUTH: Final = {"true": True, "yes": True, "false": False, "no": False}
_WHOLE_TRUTH: Final = {
    **dict.fromkeys(("y", "t", "1", "1.0", "on", "correct", "right", "affirmative", "✓", "✔", "✅", "👍"), True),
    **dict.fromkeys(("n", "f", "0", "0.0", "off", "incorrect", "wrong", "negative", "✗", "✘", "❌", "👎"), False),
    # German, French, Spanish, Italian, Portuguese, Russian, Chinese, Japanese, Korean.
    **dict.fromkeys(("ja", "wahr", "oui", "vrai", "sí", "sì", "vero", "verdadero", "sim", "verdadeiro"), True),
    **dict.fromkeys(("да", "верно", "是", "对", "正确", "はい", "예", "네"), True),
    **dict.fromkeys(("nein", "falsch", "non", "faux", "falso", "não"), False),
    **dict.fromkeys(("нет", "неверно", "否", "不是", "错", "错误", "いいえ", "아니요", "아니오"), False),
}


def read_bool(text: str, *, prose: bool = True) -> bool | None:
    """Return whether a text says yes or true; None if it says neither, or both."""
    plain_text = undecorated(text[:TEXT_MAX])
    for form in (plain_text, undecorated(unlabelled(plain_text))):
        if form.casefold() in _WHOLE_TRUTH:
            return _WHOLE_TRUTH[form.casefold()]
    return read_choice(text, _TRUTH, prose=prose)


_ECHO: Final = re.compile(r"[^\n:?]{1,60}[)\w]\s?[:?][*_]{0,3}\s+(?=\S)")
"""The question with its choices, repeated before the answer: `Yes or no? No`, `Answer (yes/no): no`."""


def _whole(text: str, known: MemberSet[Value]) -> Value | None:
    """Return the member that the text is, with or without markup and a label; or the member whose text it is."""
    if text in known.labels:
        return known.labels[text]
    plain_text = undecorated(text[:TEXT_MAX] if len(text) > TEXT_MAX else text)
    echo = _ECHO.match(plain_text)
    if echo and len({one.casefold() for one in known.word.findall(echo[0])}) > 1:
        plain_text = undecorated(plain_text[echo.end() :])
    rest = unlabelled(plain_text)
    label = plain_text[: len(plain_text) - len(rest)]
    named = label and (known.word.search(label) or any(folded(label.rstrip(" :=")) == f for f in known.folded))
    for form in (plain_text, plain_text if named else undecorated(rest)):
        if form in known.labels:
            return known.labels[form]
        same = known.folded.get(folded(form), []) or known.folded.get(folded(form.strip("().:[] ")), [])
        qualified = re.fullmatch(r"<?[A-Za-z_]\w{0,40}\.(\w{1,80})(?::[^<>]{0,80}>)?", form)
        same = same or (known.folded.get(folded(qualified[1]), []) if qualified else [])
        if len(same) == 1:
            return known.labels[same[0]]
        if (by_text := _by_text(form, known)) is not None:
            return by_text
    return None


def _claimed(said: Iterable[tuple[str, int, bool]], known: MemberSet[Value]) -> list[Found[Value]]:
    """Return the members that the contents of claims begin with, or are."""
    found: list[Found[Value]] = []
    for content, start, final in said:
        answer = without_latex(content)
        value = _whole(plain(answer), known)
        if value is None:
            first = _found(f" {answer}", known.stated, known)[:1]
            value = first[0][0] if first else _beginning(plain(answer), known)
            if first and (value := _corrected(f" {answer}", first[0][1], value, known)) is None:
                continue
        if value is None and not known.letters:
            named: list[Found[Value]] = _in_sentence(answer, known)
            value = agreed(named, answer)
        if value is not None or known.one_of_several.match(f" {answer}"):
            found.append((value, start, final))
    return found


def _corrected(text: str, at: int, value: Value | None, known: MemberSet[Value]) -> Value | None:
    """Return what a text says instead of the member at a position (`A... no, B`); else that member."""
    written = known.beginning.match(text, at)
    later = known.corrected.match(text[written.end() :]) if written else None
    return value if later is None else _member(later["m"], known)


_BRACKETED: Final = re.compile(r"\W{0,4}[A-Za-z]\W{0,4} [(\[]")
"""A letter, and its text in brackets."""


def _labelled(line: str, known: MemberSet[Value]) -> list[Found[Value]]:
    if _BRACKETED.match(line) and (value := _by_text(line, known)) is not None:
        return [(value, 0, False)]
    found = _found(line, known.labelled, known)
    return [(_corrected(line, start, value, known), start, final) for value, start, final in found]


def _found(text: str, patterns: Iterable[re.Pattern[str]], known: MemberSet[Value]) -> list[Found[Value]]:
    """Return the members that the patterns find and that are not negated, in the order of the text."""
    found: list[Found[Value]] = []
    for pattern in patterns:
        for match in islice(pattern.finditer(text), _SCANNED):
            value = _member(match["m"], known)
            if value is None or _is_word(match) or is_negated(text, match.start("m"), match.end("m")):
                continue
            if not _is_conditional(text, match.start("m"), match.end("m")):
                found.append((value, match.start("m"), False))
    return sorted(found, key=lambda one: one[1])


def _member(written: str, known: MemberSet[Value]) -> Value | None:
    if written in known.labels:
        return known.labels[written]
    same = known.folded.get(folded(written), [])
    return known.labels[same[0]] if len(same) == 1 else None


def _is_word(match: re.Match[str]) -> bool:
    """Return whether a match is a word of a sentence: the article "a", the pronoun "I", or a "no" before a noun."""
    member, end = match["m"], match.end("m")
    if member in ("a", "i", "I") and re.match(r"\s+\w", match.string[end : end + 8]):
        return True
    return member.casefold() == "no" and _VERDICT_ENDS.match(match.string, end) is None


_UNSURE: Final = (
    r"(?:\b(?:wonder\w*|un(?:clear|sure|certain|known)|ask\w*|check|decid\w+|determin\w+|question is)"
    r"|(?:\bnot|n['’]t) (?:sure|certain|clear)"
    r"|(?:\b(?:hard|difficult|impossible|not)|n['’]t) (?:to )?(?:know|tell|say|see))"
)
_OPEN_QUESTION: Final = re.compile(
    rf"(?:(?<!regardless of )(?<!no matter )\bwhether\b(?! or not\b)|{_UNSURE} if\b)[^,.!?;:\n]{{0,60}}\Z"
    r"|\b(?:if|unless) (?:(?:it|this|that|the \w{1,12}) is |(?:only )?(?:option|answer) )?\W{0,4}\Z"
    rf"|{CHINESE_CONDITION}",
    re.IGNORECASE,
)


def _is_conditional(text: str, start: int, end: int) -> bool:
    """Return whether a member would only be right under another condition, or is asked for."""
    return (
        _OPEN_QUESTION.search(text, max(0, start - 80), start) is not None
        or re.match(r"\s?(?:or|/)\s?not\b", text[end : end + 8], re.IGNORECASE) is not None
        or re.match(
            rf"{CLOSE}\s(?:would|could|might) be (?:right|correct|true|wrong)\b(?:[^.\n]{{0,20}}\b(?:if|for)\b)?",
            text[end : end + 80],
        )
        is not None
    )


_NAMED: Final = re.compile(
    rf"\b(?:{SAYING}|(?:correct|right|best|final|my) (?:option|choice) (?:is|would be))\b[ :*\"'`]{{0,6}}"
    r"(?P<rest>[^\n]{1,300})",
    re.IGNORECASE,
)
"""What stands before a choice that is named by its text."""


def _named(text: str, known: MemberSet[Value]) -> list[Found[Value]]:
    read = ((_beginning(plain(match["rest"]), known), match.start()) for match in islice(_NAMED.finditer(text), 50))
    return [(value, start, False) for value, start in read if value is not None]


_WEAKENED: Final = re.compile(
    r"\b(?:(?:could|might|may)\s(?:well\s|also\s)?be\s(?:an?\s)?|less\s|lack(?:s|ed|ing)?\s(?:of\s|any\s)?)\W?\Z",
    re.IGNORECASE,
)


def _in_sentence(text: str, known: MemberSet[Value]) -> list[Found[Value]]:
    """Return the words, or texts of letters, that a text contains and does not deny."""
    if len(text) > _SENTENCE_MAX:
        return []
    found = [
        (None if _WEAKENED.search(text, max(0, start - 30), start) else value, start, final)
        for value, start, final in _found(text, [known.word], known)
    ]
    values = list(known.labels.values())
    spans: list[tuple[int, int]] = []
    for choice in sorted(known.texts, key=len, reverse=True):
        if len(choice) < 2:
            continue
        pattern = rf"(?<![\w.,$-]){re.escape(choice.strip(' .'))}(?![\w%]|[.,]\d)"
        for match in islice(re.finditer(pattern, text, re.IGNORECASE), _SCANNED):
            inside = any(start <= match.start() < end for start, end in spans)
            if not inside and not is_negated(text, match.start(), match.end()):
                spans.append(match.span())
                found.append((values[known.texts.index(choice)], match.start(), False))
    return found if all(one[0] == found[0][0] for one in found) else [(None, 0, True)]


_NUMBERED: Final = re.compile(
    r"(?:\b(?:option|choice|alternative|item|letter)s?\b(?:\s?(?:is\b|[:=(#]|no\.|number))*"
    r"|\b(?:answer|statement)s?\b(?:\s?(?:#|no\.|number))?|#)[\s*_]{0,3}(\d{1,3})(?!\w|[.,]\d)",
    re.IGNORECASE,
)


def _by_number(text: str, known: MemberSet[Value]) -> list[Found[Value]]:
    """Return the member whose text is the number that a text states, if that is not the number of a choice as well."""
    if any(int(match[1]) <= len(known.numbers) for match in islice(_NUMBERED.finditer(text), _SCANNED)):
        return []
    number = read_number(text)
    return [(value, 0, True) for value, one in zip(known.labels.values(), known.numbers, strict=False) if one == number]


def _by_text(text: str, known: MemberSet[Value]) -> Value | None:
    """Return the only member whose text, or letter and text, equals a text."""
    wanted = _normal(text)
    equal = [
        value
        for (label, value), choice in zip(known.labels.items(), known.texts, strict=False)
        if wanted and wanted in (_normal(choice), _normal(f"{label} {choice}"))
    ]
    return equal[0] if len(equal) == 1 else None


def _normal(text: str) -> str:
    kept = re.sub(r"(?!(?<=\d)(?:\.|,(?!\d{3}(?!\d)))\d)[^\w\s%+#$<>=/*-]|_", "", text.casefold())
    return " ".join(re.sub(r"\b(?:a|an|the)\b(?=.)", " ", kept).split()) or text.strip().casefold()


def _beginning(text: str, known: MemberSet[Value]) -> Value | None:
    """Return the member with the longest text with which a text begins, if it does not go on to another one."""
    folded = text.casefold()
    fitting = [
        (len(choice), at)
        for at, choice in enumerate(known.texts)
        if len(choice) > 1
        and folded.startswith(choice.casefold())
        and re.match(r"(?![\w%]|[.,]\d)", text[len(choice) :])
    ]
    if not fitting:
        return None
    length, at = max(fitting)
    going_on = re.match(r"\W{0,3}(?:or|and|is (?:not|wrong|incorrect))\b", text[length:], re.IGNORECASE)
    return None if going_on else list(known.labels.values())[at]
