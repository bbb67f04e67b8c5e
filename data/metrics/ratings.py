"""What judges say: verdicts on two answers, grades, and scores by skill.

A reader returns a value only if the reply is unambiguous. Values out of range are never clipped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from moa_dspy.parsing.choices import read_choice
from moa_dspy.parsing.numbers import read_number, stated_number, without_scale
from moa_dspy.parsing.structures import NOTHING, decode

__all__ = [
    "UNPARSED",
    "alternatives",
    "letter_probability",
    "parse_grade",
    "parse_score",
    "parse_scores",
    "parse_verdict",
    "probability_of_first",
    "skill_score",
]

UNPARSED = -1.0
"""MT-Bench's value for a judgment without a score."""

_LITERAL_MAX = 4000
_PARENTHESES_MAX = 20
_ROUNDING = 1e-3

_VERDICTS = {"A": 1.0, "B": 0.0, "tie": 0.5, "draw": 0.5, "a tie": 0.5, "a draw": 0.5}
_OUT_OF = r"(?:/|out of(?: an? (?:possible|total of|maximum of))?)"
_MARK = r"\d{1,4}(?:[.,]\d{1,4})?"
_OF_TEN = re.compile(rf"(?<=\d)\s?{_OUT_OF}\s?10(?:\.0)?(?!\d|\.\d)", re.IGNORECASE)
_OTHER_SCALE = re.compile(r"\d\s?(?:/|out of)\s?\d|\d\s?%")
_GRADES = (
    re.compile(r"\[\[([^\[\]\n]{1,40})\]\]"),
    re.compile(
        r"\b(?:score|grade|rating)\b[\s*_`'\"()\[\].:]*(?:(?:is|of|would be)\b)?[\s:*]*"
        r"([-\u2212+]?\s?\d[\d.,]*(?:\s?(?:/|out of|[-\u2013])\s?\d+)?%?)",
        re.IGNORECASE,
    ),
    re.compile(
        rf"(?<![\d.,])((?:{_MARK}[-\u2212\u2013\u2014])?[-\u2212+]?{_MARK})(?=\s?{_OUT_OF}\s?10(?!\d|\.\d))",
        re.IGNORECASE,
    ),
)
_RATED = (
    re.compile(r"\[\[\s*([+\u2212-]?\d[^\[\]\n]{0,40})\]\]"),
    re.compile(r"\[\s*([+\u2212-]?\d[^\[\]\n]{0,40})\](?!\()"),
)
_RATING = re.compile(r"\d{1,2}(?:\.\d*)?")
_BRACES = re.compile(r"\{[^{}]*\}")
_BARE_NOT_APPLICABLE = re.compile(r"(:\s*)(?:n/?a|n\.a\.|not applicable|none|null)(?=\s*[,}])")
_NOT_APPLICABLE = re.compile(r"(?:n/?a|n\.a|not applicable|none|null)(?:\s*\([^()]*\))?", re.IGNORECASE)
_OF_FIVE = re.compile(r"(?<=\d)\s*(?:/|out of)\s*5(?=\s*(?:[,}]|\Z))")
_MARKUP_AROUND = " \t\n.*_`"


def parse_verdict(reply: str) -> float | None:
    """Return 1 for A, 0 for B, 0.5 for a tie; None for any other reply. `parsing.read_choice` has the rules.

    | read | not read |
    |---|---|
    | `A`, `**A**`, `[[A]]`, `answer_a`, `The better answer is A`, `A is better` | `A or B`, `A > B`, `not A` |
    | `tie`, `Verdict: tie`, `a draw`, `It is a tie.` | `C`, `neither` |
    """
    return read_choice(reply, _VERDICTS)


def parse_grade(reply: str) -> float | None:
    """Return a grade from 1 to 10; None for any other reply. `parsing.read_number` has the forms of numbers.

    | read | not read |
    |---|---|
    | `8`, `**8**`, `8.5`, `8/10`, `8 out of 10`, `[[8]]` | `0`, `11`, `-8`, `8/5`, `80/100`, `80%`, `7-8` |
    | `Rating: 8. It has 2 errors.`, `It has 2 errors, so 8/10` | `7 or 8`, `Score: 7. Score: 8` |
    """
    reply = without_scale(reply[-_LITERAL_MAX:])
    stated = next(filter(None, (form.findall(reply) for form in _GRADES)), [reply])
    numbers = {_grade(text) for text in stated}
    grade = numbers.pop() if len(numbers) == 1 else None
    return float(grade) if isinstance(grade, Fraction) and 1 <= grade <= 10 else None


def _grade(text: str) -> Fraction | float | None:
    text = _OF_TEN.sub("", text)
    if _OTHER_SCALE.search(text):
        return None
    number = read_number(text, integer=False)
    return stated_number(text, integer=False) if number is None else number


def parse_score(judgment: str) -> float:
    """Return the score of an MT-Bench judgment, from 1 to 10; -1 if it cannot be read.

    | read | not read |
    |---|---|
    | `[[7]]`, `[[7.5]]`, and without double brackets `[7]` | `7`, `7/10`, `[[7/10]]` (as in the official code) |
    | `[[7]]` twice | `[[7]]` and `[[8]]` |
    | `[[1]]`, `[[10]]` | `[[0]]`, `[[11]]`, `[[100]]`, `[[-7]]`: values out of range are not clipped |
    """
    for form in _RATED:
        if written := {match[1].strip() for match in form.finditer(judgment)}:
            scores = {float(text) if _RATING.fullmatch(text) else UNPARSED for text in written}
            score = scores.pop() if len(scores) == 1 else UNPARSED
            return score if 1 <= score <= 10 else UNPARSED
    return UNPARSED


def parse_scores(review: str) -> dict[str, float | None]:
    """Return the scores at the end of a FLASK judge's reply.

    The last `{...}` is used. It is lower-cased, `_` becomes a space, and it is parsed as a literal and never evaluated.
    "N/A" may be unquoted, Python's None or JSON's null, which the authors' own parser does not read.

    Returns:
        The score of each skill: None for "not applicable", NaN for a value that is not a number from 1 to 5. Empty if
        no dict can be read.
    """
    literals = _BRACES.findall(review)
    literal = literals[-1].lower().replace("_", " ").replace("\n", " ") if literals else ""
    literal = _OF_FIVE.sub("", _BARE_NOT_APPLICABLE.sub(r"\1None", literal)).strip()
    parsed = {} if literal.count("(") > _PARENTHESES_MAX else decode(literal, dict)
    return {} if parsed is NOTHING else {str(skill).strip(): skill_score(value) for skill, value in parsed.items()}


def skill_score(value: object) -> float | None:
    """Return a value as a score from 1 to 5: None for "not applicable", NaN for anything else."""
    value = value.strip(_MARKUP_AROUND) if isinstance(value, str) else value
    if value is None or (isinstance(value, str) and _NOT_APPLICABLE.fullmatch(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        score = float(_OF_FIVE.sub("", value) if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return math.nan
    return score if 1 <= score <= 5 else math.nan


def letter_probability(tokens: Iterable[Any], first: str, second: str, chosen: str = "") -> float | None:
    """Return the probability of the first of two single-token answers.

    `tokens` are the reply's tokens with log-probabilities, as objects (`dspy.lm15`) or dicts (DSPy predictions). If the
    reply is known to choose one of the two, only positions with that one (`chosen`) count.

    Returns:
        P(first) / (P(first) + P(second)) at the last position with one of the two tokens; None if there is no such
        position. A token that is not among the reported alternatives has probability 0, and so has one whose
        log-probability is no finite number from 0 down (null, NaN, a text).
    """
    for token in reversed(list(tokens)):
        if _text(token) in ((chosen,) if chosen else (first, second)):
            logprobs: dict[str, float] = {}
            for one in [token, *(_get(token, "top") or _get(token, "top_logprobs") or ())]:
                text = _text(one)
                logprobs[text] = max(logprobs.get(text, -math.inf), _logprob(_get(one, "logprob")))
            return _share(logprobs, first, second)
    return None


def probability_of_first(reply: Any) -> float | None:
    """Return the probability that AlpacaEval's official judge prefers the first output, model "m".

    As in the official parser, the alternatives reported for the first token are used, whatever token was sampled. Their
    text must be exactly "m" or "M". If a server reports no alternatives, the token itself is used.

    Returns:
        P("m") / (P("m") + P("M")), or None if neither is reported.
    """
    if logprobs := alternatives(reply):
        return _share(logprobs, "m", "M")
    return {"m": 1.0, "M": 0.0}.get(str(reply.text or "").strip())


def alternatives(reply: Any) -> dict[str, float]:
    """Return the log-probabilities of the alternatives to a reply's first token; -inf for an impossible token."""
    reported = (reply.logprobs[0].top or ()) if reply.logprobs else ()
    return {str(token.token): _logprob(token.logprob) for token in reported}


def _logprob(value: object) -> float:
    """Return a log-probability; -inf for anything that is not a finite number of at most 0, up to rounding."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < _ROUNDING:
        return -math.inf
    return min(float(value), 0.0)


def _share(logprobs: Mapping[str, float], first: str, second: str) -> float | None:
    one, other = (logprobs.get(name, -math.inf) for name in (first, second))
    highest = max(one, other)
    if highest == -math.inf:
        return None
    weights = math.exp(one - highest), math.exp(other - highest)
    return weights[0] / sum(weights)


def _text(token: Any) -> str:
    return str(_get(token, "token") or "").strip()


def _get(token: Any, name: str) -> Any:
    return token.get(name) if isinstance(token, Mapping) else getattr(token, name, None)
