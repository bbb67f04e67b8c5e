"""What judges say: verdicts on two answers, grades, and scores by skill.

A reader returns a value only if the reply is unambiguous. Values out of range are never clipped.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "UNPARSED",
    "alternatives",
    "letter_probability",
    "parse_dict",
    "parse_grade",
    "parse_score",
    "parse_scores",
    "parse_verdict",
    "probability_of_first",
    "skill_score",
]

UNPARSED = -1.0
"""MT-Bench's value for a judgment without a score."""

_REPLY_MAX = 100
_LITERAL_MAX = 4000
_DEPTH_MAX = 20

_MARKS = r"[\s*_`'\"()\[\].:]*"
_VERDICT = re.compile(rf"{_MARKS}(?:(?:the\s+)?(?:answer|verdict))?{_MARKS}(a|b|tie){_MARKS}", re.IGNORECASE)
_GRADE = re.compile(
    rf"{_MARKS}(?:score|grade|rating)?{_MARKS}(\d{{1,2}}(?:\.\d{{1,9}})?)(?:\s*(?:/|out of)\s*10)?{_MARKS}",
    re.IGNORECASE,
)
_BRACKETED = (re.compile(r"\[\[(\d{1,9}(?:\.\d*)?)\]\]"), re.compile(r"\[(\d{1,9}(?:\.\d*)?)\]"))
_BRACES = re.compile(r"\{[^{}]*\}")
_BARE_NOT_APPLICABLE = re.compile(r"(:\s*)(?:n/?a|n\.a\.|not applicable|none|null)(?=\s*[,}])")
_NOT_APPLICABLE = frozenset({"na", "n/a", "n.a.", "not applicable", "none", "null"})
_OF_FIVE = re.compile(r"\s*/\s*5\s*\Z")


def parse_verdict(reply: str) -> float | None:
    """Return 1 for A, 0 for B, 0.5 for a tie, whatever decorates the word (`**A**`); None for any other reply."""
    match = _VERDICT.fullmatch(reply[:_REPLY_MAX])
    return {"a": 1.0, "b": 0.0, "tie": 0.5}[match[1].casefold()] if match else None


def parse_grade(reply: str) -> float | None:
    """Return a grade from 1 to 10, whatever decorates the number (`8/10`, `**8**`); None for any other reply."""
    match = _GRADE.fullmatch(reply[:_REPLY_MAX])
    grade = float(match[1]) if match else 0.0
    return grade if 1 <= grade <= 10 else None


def parse_score(judgment: str) -> float:
    """Return the score of an MT-Bench judgment: the first `[[7]]` or `[[7.5]]`, else the first `[7]`, else -1."""
    match = next(filter(None, (form.search(judgment) for form in _BRACKETED)), None)
    return float(match[1]) if match else UNPARSED


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
    parsed = parse_dict(_BARE_NOT_APPLICABLE.sub(r"\1None", literal)) or {}
    return {str(skill).strip(): skill_score(value) for skill, value in parsed.items()}


def skill_score(value: object) -> float | None:
    """Return a value as a score from 1 to 5: None for "not applicable", NaN for anything else."""
    if value is None or (isinstance(value, str) and value.strip().casefold() in _NOT_APPLICABLE):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        score = float(_OF_FIVE.sub("", value) if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return math.nan
    return score if 1 <= score <= 5 else math.nan


def parse_dict(text: str) -> dict[object, object] | None:
    """Return a Python dict literal as a dict, or None for anything else.

    More than 4000 characters or 20 opening brackets are not parsed: they could exhaust the parser's stack or memory.
    """
    if len(text) > _LITERAL_MAX or sum(text.count(bracket) for bracket in "([{") > _DEPTH_MAX:
        return None
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def letter_probability(tokens: Iterable[Any], first: str, second: str) -> float | None:
    """Return the probability of the first of two single-token answers.

    `tokens` are the reply's tokens with log-probabilities, as objects (`dspy.lm15`) or dicts (DSPy predictions).

    Returns:
        P(first) / (P(first) + P(second)) at the last position with one of the two tokens; None if there is no such
        position. A token that is not among the reported alternatives has probability 0.
    """
    for token in reversed(list(tokens)):
        if _get(token, "token").strip() in (first, second):
            logprobs: dict[str, float] = {}
            for one in [token, *(_get(token, "top") or _get(token, "top_logprobs") or ())]:
                text = _get(one, "token").strip()
                logprobs[text] = max(logprobs.get(text, -math.inf), _get(one, "logprob"))
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
    """Return the log-probabilities of the alternatives to a reply's first token."""
    return {token.token: token.logprob for token in (reply.logprobs[0].top or ())} if reply.logprobs else {}


def _share(logprobs: Mapping[str, float], first: str, second: str) -> float | None:
    one, other = (math.exp(logprobs.get(name, -math.inf)) for name in (first, second))
    return one / (one + other) if one + other else None


def _get(token: Any, name: str) -> Any:
    return token.get(name) if isinstance(token, Mapping) else getattr(token, name, None)
