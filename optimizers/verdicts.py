"""From scores and prices to a verdict: which of several contenders to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from moa_dspy.optimizers.paired import Gain
from moa_dspy.optimizers.significance import holm

__all__ = ["PROGRAM", "RULE", "Standing", "Verdict", "judge"]

PROGRAM: Final = "program"

RULE: Final = (
    "The program is used if it is shown to be better than every baseline, and otherwise a baseline that is shown to be "
    "better than the program. Where neither is shown, the program and the baselines that it is not shown to beat are "
    "left. Of several that are left, the cheapest is used that is not shown to be worse than the one with the highest "
    "score. Shown: two-sided paired sign-flip test over the examples, p adjusted by Holm's method, at most alpha."
)


@dataclass(frozen=True)
class Standing:
    """A contender.

    Attributes:
        words: what it is called in a sentence.
        scores: one for each example.
        cost: what orders contenders by price: what is spent on an example in the matched unit, then in tokens.
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
    """What to use, and why.

    Attributes:
        use: name of the contender.
        sentence: for a reader.
        gains: of the program on each baseline.
        adjusted: their p values, adjusted for one another.
    """

    use: str
    sentence: str
    gains: Mapping[str, Gain]
    adjusted: Mapping[str, float]


def judge(field: Mapping[str, Standing], alpha: float, seed: int = 0) -> Verdict:
    """Apply ``RULE``.

    Args:
        field: contenders by name, the program under ``PROGRAM``, and at least one baseline.
        alpha: level of the tests.
        seed: of the resampling.
    """
    ours = field[PROGRAM]
    gains = {name: Gain.of(one.scores, ours.scores, seed=seed) for name, one in field.items() if name != PROGRAM}
    adjusted = dict(zip(gains, holm([gain.p for gain in gains.values()]), strict=True))
    shown = {name for name, p in adjusted.items() if p <= alpha}
    beaten = [name for name in gains if name in shown and gains[name].value > 0]
    better = [name for name in gains if name in shown and gains[name].value < 0]
    left = better or [name for name in field if name not in beaten]
    use = _cheapest({name: field[name] for name in left}, alpha, seed)
    return Verdict(use, _sentence(field, use, beaten, better), gains, adjusted)


def _cheapest(left: Mapping[str, Standing], alpha: float, seed: int) -> str:
    """The cheapest that is not shown to be worse than the one with the highest score."""
    best = max(left, key=lambda name: (left[name].mean, [-cost for cost in left[name].cost]))
    cheaper = [name for name in left if left[name].cost < left[best].cost]
    p_values = holm([Gain.of(left[name].scores, left[best].scores, seed=seed).p for name in cheaper])
    fair = [best, *(name for name, p in zip(cheaper, p_values, strict=True) if p > alpha)]
    return min(fair, key=lambda name: left[name].cost)


def _sentence(field: Mapping[str, Standing], use: str, beaten: Sequence[str], better: Sequence[str]) -> str:
    words = field[use].words
    if better:
        return f"use {words}: it is better than the program"
    if len(beaten) == len(field) - 1:
        over = field[beaten[0]].words if len(beaten) == 1 else "every baseline"
        return f"use the program: it is better than {over}"
    left = {name: one for name, one in field.items() if name not in beaten}
    against = " and ".join(one.words for name, one in left.items() if name != PROGRAM)
    if all(one.cost > field[use].cost for name, one in left.items() if name != use):
        which = "the cheaper one" if len(left) == 2 else "the cheapest one"
    else:
        which = "the cheapest of the best"
    return f"no difference shown between the program and {against}; use {which}: {words}"
