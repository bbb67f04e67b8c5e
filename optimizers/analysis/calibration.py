"""From agreement to the probability that an answer is right, fitted on recorded runs.

Agreement alone is no probability: agents that share their errors agree on wrong answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import ClassVar, Final

import numpy as np
from scipy.optimize import isotonic_regression

from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.reported import ReportRow, Tabulated
from moa_dspy.text_table import text_table

__all__ = ["AgreementLevel", "Calibration", "calibrate", "expected_calibration_error"]

_BINS: Final = 10


class AgreementLevel(ReportRow):
    """One level of agreement.

    Attributes:
        agreement: as in ``Trace.agreement``; None for runs in which it is not known.
        runs: number of recorded runs.
        score: their mean score.
        probability: the fitted probability that such an answer is right.
    """

    agreement: float | None
    runs: int
    score: float
    probability: float


class Calibration(Tabulated):
    """The probability that an answer is right, by agreement. Call it with ``trace.agreement``.

    Attributes:
        levels: those of the recorded runs, the lowest agreement first.
        runs: number of recorded runs.
        error: expected calibration error of agreement itself, taken as a probability, on these runs; None if no
            agreement is known.
    """

    record_kind: ClassVar[str] = "calibration"

    levels: tuple[AgreementLevel, ...]
    runs: int
    error: float | None

    def __call__(self, agreement: float | None) -> float:
        """Return the probability that an answer is right.

        Between two levels it is interpolated, and outside it is that of the nearest level. For an unknown agreement
        without such runs on record it is the mean score of all runs.
        """
        known = {one.agreement: one.probability for one in self.levels if one.agreement is not None}
        unknown = [level for level in self.levels if level.agreement is None]
        if agreement is not None and known:
            return float(np.interp(agreement, list(known), list(known.values())))
        if unknown:
            return unknown[0].probability
        return sum(level.score * level.runs for level in self.levels) / self.runs

    def to_table(self) -> str:
        """Return the levels as text."""
        rows = [
            (_percent(one.agreement), str(one.runs), _percent(one.score), _percent(one.probability))
            for one in self.levels
        ]
        return text_table([("agreement", "runs", "right", "probability"), *rows], left=())


def calibrate(runs: Iterable[tuple[float | None, float]]) -> Calibration:
    """Fit the probability that an answer is right to recorded runs, by isotonic regression.

    More agreement never means a lower probability. Each level counts as one further run with the mean score of all
    runs, so that a level with few runs is not taken for certain.

    Args:
        runs: for each run ``trace.agreement`` and the score of its answer, from 0 to 1.

    Raises:
        ConfigurationError: if there is no run, or a score or an agreement is not from 0 to 1.

    Example:
        ``calibrate((run.trace.agreement, run.score) for run in runs)(prediction.trace.agreement)``
    """
    pairs = _checked(runs)
    if not pairs:
        raise ConfigurationError("there is no run to calibrate with; give pairs of agreement and score")
    groups: defaultdict[float | None, list[float]] = defaultdict(list)
    for agreement, score in pairs:
        groups[agreement].append(score)
    prior = float(np.mean([score for _, score in pairs]))
    smooth = {agreement: (sum(scores) + prior) / (len(scores) + 1) for agreement, scores in groups.items()}
    known = sorted(agreement for agreement in groups if agreement is not None)
    if known:
        fitted = isotonic_regression(
            [smooth[one] for one in known], weights=[len(groups[one]) + 1.0 for one in known]
        ).x
        smooth.update(zip(known, map(float, fitted), strict=True))
    levels = tuple(
        AgreementLevel(agreement=one, runs=len(groups[one]), score=float(np.mean(groups[one])), probability=smooth[one])
        for one in [*known, *([None] if None in groups else [])]
    )
    raw = [(agreement, score) for agreement, score in pairs if agreement is not None]
    return Calibration(levels=levels, runs=len(pairs), error=expected_calibration_error(raw) if raw else None)


def expected_calibration_error(pairs: Iterable[tuple[float, float]], *, bins: int = _BINS) -> float:
    """Return the mean distance of probability and score over equal bins of the probability, weighted by their runs.

    Args:
        pairs: for each run the probability that its answer is right, and its score, from 0 to 1.
        bins: number of bins.

    Raises:
        ConfigurationError: if there is no pair, a value is not from 0 to 1, or there is no bin.
    """
    if bins < 1:
        raise ConfigurationError(f"bins={bins} is too small; give at least 1")
    values = _checked(pairs)
    if not values:
        raise ConfigurationError(
            "there is no run, so there is no calibration error; give pairs of probability and score"
        )
    told, scores = np.array(values, dtype=float).T
    groups = np.minimum((told * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(groups, told - scores)).sum() / len(values))


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"


def _checked(pairs: Iterable[tuple[float | None, float]]) -> list[tuple[float | None, float]]:
    values = list(pairs)
    for pair in values:
        if any(value is not None and not 0 <= value <= 1 for value in pair) or pair[1] is None:
            raise ConfigurationError(
                f"{pair!r} is out of range; give an agreement or a probability and a score, 0 to 1"
            )
    return values
