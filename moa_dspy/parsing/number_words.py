"""Numbers in English words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

__all__ = ["number_in_words"]

_WORDS: Final = {
    word: value
    for value, word in [
        *enumerate("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen".split()),  # noqa: SIM905
        *enumerate("fifteen sixteen seventeen eighteen nineteen".split(), 15),  # noqa: SIM905
        *zip(range(20, 100, 10), "twenty thirty forty fifty sixty seventy eighty ninety".split(), strict=True),  # noqa: SIM905
    ]
}


def number_in_words(text: str) -> Fraction | None:
    """Return a number below a million in English words."""
    words = re.findall(r"[a-z]+", text.lower()) if len(text) < 100 else []
    if not words or re.search(r"[^a-z\s.-]", text.lower()):
        return None
    if words.count("thousand") == 1 and words[0] != "thousand":
        at = words.index("thousand")
        thousands, rest = (_below_thousand(part) for part in (words[:at], words[at + 1 :] or ["zero"]))
        return None if thousands is None or rest is None else 1000 * thousands + rest
    return _below_thousand(words)


def _below_thousand(words: Sequence[str]) -> Fraction | None:
    total, last = 0, 1000
    for at, word in enumerate(words):
        if word == "hundred" and 0 < total < 10:
            total, last = total * 100, 100
        elif word in _WORDS and (value := _WORDS[word]) < last and not (last < 20):
            total, last = total + value, value if value >= 20 else 10
        elif word != "and" or at == len(words) - 1 or (total < 100 and at > 0):
            return None
    return Fraction(total)
