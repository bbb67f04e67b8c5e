"""The verdict of a comparison: which contender to use, given scores and prices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from moa_dspy.evaluation.statistics import Gain, examples_needed, improvement_p_value

__all__ = ["PROGRAM", "RULE", "ComparisonVerdict", "ContenderScores", "Prefer", "judge"]

PROGRAM: Final = "program"

Prefer: TypeAlias = Literal["cheapest", "score"]
"""What decides among the contenders that are not shown to be worse than another one."""

RULE: Final = (
    "A contender is shown to be worse if a one-sided paired test shows that another one is better: p, times the number "
    "of other contenders, at most alpha. Of those that are not shown to be worse, the cheapest is used, or, with "
    "prefer=score, the one with the highest score. If several cost the same within the tolerance, the score decides."
)


@dataclass(frozen=True)
class ContenderScores:
    """The scores of a contender, one for each example, and its name in a sentence.

    Attributes:
        cost: the spend on an example in the matched unit, then in tokens. Contenders are ordered by it.
    """

    words: str
    scores: Sequence[float]
    cost: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean score."""
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True)
class ComparisonVerdict:
    """The name of the contender to use, and why.

    Attributes:
        gains: paired gain of the program over each baseline. An interval leaves out 0 if and only if the rule's test
            shows that one of the two is better.
        adjusted: the one-sided p values in the direction of the gains, times the number of baselines.
    """

    use: str
    sentence: str
    gains: Mapping[str, Gain]
    adjusted: Mapping[str, float]


def judge(
    contenders: Mapping[str, ContenderScores], alpha: float, *, prefer: Prefer = "cheapest", tolerance: float = 0.1
) -> ComparisonVerdict:
    """Apply ``RULE`` to the program, under the name ``PROGRAM``, and at least one baseline.

    If a contender is as good as all others, one that costs more is preferred to it with a probability of at most alpha.
    """
    ours = contenders[PROGRAM]
    level = 1 - 2 * alpha / (len(contenders) - 1)
    gains = {name: Gain.of(one.scores, ours.scores, level=level) for name, one in contenders.items() if name != PROGRAM}
    adjusted = {name: min(1.0, len(gains) * _directed(contenders[name].scores, ours.scores)) for name in gains}
    better = {name: _shown_better(contenders, name, alpha) for name in contenders}
    left = {name: one for name, one in contenders.items() if not better[name]}
    limit = math.inf if prefer == "score" else min(one.cost[0] for one in left.values()) * (1 + tolerance)
    affordable = [name for name, one in left.items() if one.cost[0] <= limit]
    use = max(affordable, key=lambda name: (left[name].mean, [-cost for cost in left[name].cost]))
    beaten = [name for name in gains if PROGRAM in better[name]]
    if use == PROGRAM and len(beaten) == len(gains):
        sentence = (
            f"use the program: it is better than {contenders[beaten[0]].words if len(gains) == 1 else 'every baseline'}"
        )
    elif use in better[PROGRAM]:
        sentence = f"use {contenders[use].words}: it is better than the program"
    else:
        why = "its score is the highest" if prefer == "score" else "it is the cheapest"
        sentence = f"use {contenders[use].words}: {why} of those that are not shown to be worse"
    others = [name for name in left if name != use]
    return ComparisonVerdict(
        use, sentence + (_not_excluded(left, use, others, level) if others else ""), gains, adjusted
    )


def _directed(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the one-sided p value in the direction of the difference; 1 if nothing differs."""
    return min(improvement_p_value(one, other), improvement_p_value(other, one))


def _shown_better(contenders: Mapping[str, ContenderScores], name: str, alpha: float) -> list[str]:
    """Return the other contenders that are shown to be better than this one."""
    others, scores = [other for other in contenders if other != name], contenders[name].scores
    p_values = {other: improvement_p_value(scores, contenders[other].scores) for other in others}
    return [other for other, p in p_values.items() if p * len(others) <= alpha]


def _not_excluded(left: Mapping[str, ContenderScores], use: str, others: Sequence[str], level: float) -> str:
    """Return by how much the program, or else the best other contender, may still be better than the chosen one."""
    other = PROGRAM if PROGRAM in others else max(others, key=lambda name: left[name].mean)
    gain = Gain.of(left[use].scores, left[other].scores, level=level)
    words = f"; not excluded: {left[other].words} is better than it by up to {gain.high:.3f} (its gain: {gain})"
    differences = [one - two for one, two in zip(left[other].scores, left[use].scores, strict=True)]
    needed = examples_needed(differences, (1 - level) / 2)
    if needed is None or needed <= gain.examples:
        return words
    return f"{words}; {gain.examples} examples are too few: to show such a gain takes about {needed}"
