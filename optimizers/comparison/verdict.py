"""The verdict of a comparison: which contender to use, given scores and prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from moa_dspy.evaluation.statistics import Gain, examples_needed, holm

__all__ = ["PROGRAM", "RULE", "ContenderScores", "Verdict", "judge"]

PROGRAM: Final = "program"

RULE: Final = (
    "The program is used if it is shown to be better than every baseline, and otherwise a baseline that is shown to be "
    "better than the program. Where neither is shown, the program and the baselines that it is not shown to beat are "
    "left. Of several that are left, the one with the highest score is used; or, of those that spend less than it by "
    "more than the tolerance and score lower by at most the margin, the cheapest. Shown: two-sided paired sign-flip "
    "test over the examples, p adjusted by Holm's method, at most alpha."
)
_POWER: Final = 0.8
_ROUNDING: Final = 1e-9


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
class Verdict:
    """The name of the contender to use, and why.

    Attributes:
        gains: paired gain of the program over each baseline.
        adjusted: the p values of the gains, adjusted by Holm's method.
    """

    use: str
    sentence: str
    gains: Mapping[str, Gain]
    adjusted: Mapping[str, float]


def judge(
    contenders: Mapping[str, ContenderScores], alpha: float, seed: int = 0, tolerance: float = 0.1, margin: float = 0.05
) -> Verdict:
    """Apply ``RULE``.

    Args:
        contenders: by name; the program under ``PROGRAM``, and at least one baseline.
        alpha: the level of the tests.
        seed: seed of the resampling.
        tolerance: relative difference within which two prices count as equal.
        margin: how much lower the score of a cheaper contender may be.
    """
    ours = contenders[PROGRAM]
    gains = {name: Gain.of(one.scores, ours.scores, seed=seed) for name, one in contenders.items() if name != PROGRAM}
    adjusted = dict(zip(gains, holm([gain.p for gain in gains.values()]), strict=True))
    decided = {name for name, p in adjusted.items() if p <= alpha}
    beaten = [name for name in gains if name in decided and gains[name].value > 0]
    better = [name for name in gains if name in decided and gains[name].value < 0]
    left = {name: one for name, one in contenders.items() if name in better or not (better or name in beaten)}
    best = max(left, key=lambda name: (left[name].mean, [-cost for cost in left[name].cost]))
    use = _cheapest_near(left, best, tolerance, margin)
    if better:
        sentence = f"use {contenders[use].words}: it is better than the program"
    elif len(left) == 1:
        all_beaten = contenders[beaten[0]].words if len(beaten) == 1 else "every baseline"
        sentence = f"use the program: it is better than {all_beaten}"
    else:
        sentence = _undecided(left, use, best, margin) + _too_few(left, use, alpha)
    return Verdict(use, sentence, gains, adjusted)


def _cheapest_near(left: Mapping[str, ContenderScores], best: str, tolerance: float, margin: float) -> str:
    """Return the cheapest of the best contender and the cheaper ones whose score is within the margin."""
    least, most = left[best].mean - margin, left[best].cost[0] * (1 - tolerance)
    cheaper = [name for name, one in left.items() if one.cost[0] < most and one.mean >= least - _ROUNDING]
    return min([best, *cheaper], key=lambda name: left[name].cost)


def _undecided(left: Mapping[str, ContenderScores], use: str, best: str, margin: float) -> str:
    """Return the sentence for a comparison in which no test decides."""
    against = " and ".join(one.words for name, one in left.items() if name != PROGRAM)
    if use == best and left[best].mean > max(one.mean for name, one in left.items() if name != best):
        why = "its score is the highest"
    elif left[use].mean == left[best].mean:
        why = "its score is the highest, at the lowest price"
    else:
        why = f"it is the cheapest whose score is at most {margin:g} below the highest"
    return f"no difference shown between the program and {against}; use {left[use].words}: {why}"


def _too_few(left: Mapping[str, ContenderScores], use: str, alpha: float) -> str:
    """Return how many examples are needed to separate the chosen contender from the program or the next contender."""
    others = [name for name in left if name != use]
    other = PROGRAM if use != PROGRAM else max(others, key=lambda name: left[name].mean)
    differences = [one - two for one, two in zip(left[use].scores, left[other].scores, strict=True)]
    if sum(differences) < 0:
        differences = [-difference for difference in differences]
    needed = examples_needed(differences, alpha / 2, _POWER)
    if needed is None or needed <= len(differences):
        return ""
    return (
        f"; {len(differences)} examples are too few to tell it from {left[other].words}: a difference of "
        f"{sum(differences) / len(differences):.3f} takes about {needed}"
    )
