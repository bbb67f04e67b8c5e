"""Win rates of AlpacaEval 2.0, raw and length-controlled (Dubois et al. 2024, arXiv 2404.04475)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa_dspy.data.sources import read_file
from moa_dspy.errors import ConfigurationError
from moa_dspy.extras import require_eval

__all__ = ["AUXILIARY_FILE", "Auxiliary", "WinRate", "length_controlled_win_rate", "raw_win_rate", "score_annotations"]

Array = NDArray[np.float64]

AUXILIARY_WEIGHT = 0.2 / 2
"""Weight of an auxiliary row: the regularisation to the two altered baselines (0.2), divided by their number."""

C_GRID = (-4, 4, 10)
"""Inverse regularisation strengths to choose from: ten values from 10^-4 to 10^4, evenly spaced in the exponent."""

FOLDS = 5

VERDICTS_MIN = 30
"""Minimum number of verdicts. With fewer, the auxiliary rows outweigh the model's rows in the regression."""

AUXILIARY_FILE = "df_gamed.csv"
_AUXILIARY_COLUMNS = ("preference", "index", "std_delta_len", "instruction_difficulty")


class WinRate(NamedTuple):
    """A win rate and its standard error, both in percent."""

    value: float
    standard_error: float


class LengthControlledWinRate(WinRate):
    """A length-controlled win rate and its standard error, with the leaderboard's error as an attribute.

    Attributes:
        leaderboard_error: the `lc_standard_error` of the official leaderboard, in percent: the standard error of the
            mean of the predictions at equal length. It takes the regression as known: it only contains how much the
            predictions differ between instructions, and not how much the fit would vary with other instructions.
    """

    leaderboard_error: float

    def __new__(cls, value: float, standard_error: float, *, leaderboard_error: float) -> LengthControlledWinRate:
        """Create a win rate with both errors."""
        rate = super().__new__(cls, value, standard_error)
        rate.leaderboard_error = leaderboard_error
        return rate


@dataclass(frozen=True)
class Auxiliary:
    """The auxiliary rows of the official regression (`df_gamed.csv`): annotations of a longer or shorter baseline.

    Attributes:
        preference: preference for the altered baseline over the baseline, in [0, 1].
        index: row of the instruction.
        std_delta_len: standardised length difference.
        instruction_difficulty: difficulty of the instruction.
    """

    preference: Sequence[float]
    index: Sequence[int]
    std_delta_len: Sequence[float]
    instruction_difficulty: Sequence[float]

    @classmethod
    def of(cls, source: Any) -> Auxiliary:
        """Read the rows from a CSV file, its folder, rows, columns or a data frame.

        Raises:
            ConfigurationError: if the file does not exist, or a column is missing.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, str | Path):
            path = Path(source)
            source = list(read_file(path / AUXILIARY_FILE if path.is_dir() else path))
        if not hasattr(source, "keys"):
            rows = list(source)
            source = {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}
        missing = [name for name in _AUXILIARY_COLUMNS if name not in source]
        if missing:
            have = ", ".join(map(str, source.keys())) or "none"
            raise ConfigurationError(f"the auxiliary rows lack {', '.join(missing)}; they have: {have}")
        columns = {name: [float(value) for value in source[name]] for name in _AUXILIARY_COLUMNS}
        return cls(index=[int(value) for value in columns.pop("index")], **columns)

    def difficulty(self) -> dict[int, float]:
        """Return the difficulty of each instruction row."""
        return dict(zip(reversed(self.index), reversed(self.instruction_difficulty), strict=True))


def raw_win_rate(preferences: Iterable[float | None]) -> WinRate:
    """Return how often the model's output is preferred to the baseline's.

    Args:
        preferences: one for each instruction, from 1 (the baseline wins) to 2 (the model wins). 0 is a tie (1.5). None
            and NaN are missing and excluded.

    Returns:
        The mean of preference - 1 with its standard error, in percent; NaN if there are too few preferences.

    Raises:
        ConfigurationError: if a preference is out of range.
    """
    wins = [win for win in map(_win, preferences) if not math.isnan(win)]
    if not wins:
        return WinRate(math.nan, math.nan)
    error = statistics.stdev(wins) / math.sqrt(len(wins)) if len(wins) > 1 else math.nan
    return WinRate(100 * statistics.fmean(wins), 100 * error)


def _win(preference: float | None) -> float:
    """Return the probability in [0, 1] that the model wins, or NaN if the preference is missing."""
    if preference is None or math.isnan(float(preference)):
        return math.nan
    value = float(preference) or 1.5
    if not 1 <= value <= 2:
        raise ConfigurationError(f"a preference must be 0 (tie) or from 1 to 2, got {preference!r}")
    return value - 1


def length_controlled_win_rate(
    preferences: Sequence[float | None],
    len_baseline: Sequence[float],
    len_model: Sequence[float],
    index: Sequence[int],
    auxiliary: Any,
    *,
    C: float | None = None,  # noqa: N803 - the regression's own name for it
) -> LengthControlledWinRate:
    """Return the win rate that the model would have at the baseline's length (arXiv 2404.04475, section 3).

    It fits a logistic regression without intercept (L1, liblinear) on three features: the tanh of the standardised
    length difference, the instruction's difficulty, and an indicator of the model. An auxiliary row weighs 0.1. The
    regularisation is chosen by five group folds on the weighted log-loss. The prediction sets the length difference to
    zero.

    Args:
        preferences: as for `raw_win_rate`. Rows without a preference are predicted and not used in the fit.
        len_baseline: characters of each baseline output.
        len_model: characters of each model output.
        index: row of each instruction in the official data, which determines its difficulty.
        auxiliary: the official `df_gamed.csv`: its path or folder, its rows, its columns, or `Auxiliary`.
        C: inverse regularisation strength; None chooses one of ten by cross validation.

    Returns:
        Value and both errors, in percent. `standard_error` is that of sampling instructions: the delta method on the
        regression's influence functions, at fixed C. `leaderboard_error` is the official `lc_standard_error`.

    Raises:
        ConfigurationError: if lengths differ, there are fewer than 30 preferences, a row has no finite length, two rows
            have one index, an index is unknown, or scikit-learn is missing.
    """
    if len({len(preferences), len(len_baseline), len(len_model), len(index)}) != 1:
        raise ConfigurationError("preferences, both lengths and index must have one entry for each row")
    _check_rows(index, len_baseline, len_model)
    return controlled_win_rate(preferences, len_baseline, len_model, index, auxiliary, C)


def controlled_win_rate(
    preferences: Sequence[float | None],
    len_baseline: Sequence[float],
    len_model: Sequence[float],
    index: Sequence[int],
    auxiliary: Any,
    c: float | None,
) -> LengthControlledWinRate:
    """Return `length_controlled_win_rate` of checked rows. An instruction may occur twice, as in a bootstrap."""
    if lacking := require_eval("sklearn", "the length-controlled win rate"):
        raise ConfigurationError(lacking)
    extra = Auxiliary.of(auxiliary)
    wins = np.array([_win(preference) for preference in preferences], dtype=float)
    present = ~np.isnan(wins)
    if present.sum() < VERDICTS_MIN:
        raise ConfigurationError(f"length control needs {VERDICTS_MIN} or more verdicts; there are {present.sum()}")
    known = extra.difficulty()
    if unknown := [row for row in index if int(row) not in known]:
        raise ConfigurationError(f"no difficulty is known for instruction row {unknown[0]} ({len(known)} are known)")
    delta = np.asarray(len_baseline, dtype=float) - np.asarray(len_model, dtype=float)
    deviation = delta.std(ddof=1)
    features = _features(
        delta / deviation if deviation else 0 * delta, [known[int(row)] for row in index], is_model=1.0
    )
    # The auxiliary rows come first, as in the official code. The folds depend on this order.
    of_extra = _features(np.asarray(extra.std_delta_len), extra.instruction_difficulty, is_model=0.0)
    problem = _Problem(
        features=np.vstack([of_extra, features[present]]),
        wins=np.concatenate([extra.preference, wins[present]]),
        weights=np.repeat([AUXILIARY_WEIGHT, 1.0], [len(of_extra), present.sum()]),
    )
    coefficients = problem.fit(problem.best_c() if c is None else c)
    return _win_rate_at_equal_length(coefficients, features, wins, problem)


def _features(std_delta: Array, difficulty: Sequence[float], is_model: float) -> Array:
    return np.column_stack([np.tanh(std_delta), difficulty, np.full(len(std_delta), is_model)])


@dataclass(frozen=True)
class _Problem:
    """A weighted logistic regression. Each row enters with label 1 and label 0, weighted by their probabilities."""

    features: Array
    wins: Array
    weights: Array

    def fit(self, c: float, rows: Any = slice(None)) -> Array:
        """Return the coefficients at an inverse regularisation strength, fitted on some of the rows."""
        from sklearn.linear_model import LogisticRegression

        features, wins = self.features[rows], self.wins[rows]
        model = LogisticRegression(C=c, solver="liblinear", l1_ratio=1.0, fit_intercept=False, random_state=123)
        model.fit(
            np.vstack([features, features]),
            np.repeat([1.0, 0.0], len(wins)),
            sample_weight=np.concatenate([wins, 1 - wins]) * np.tile(self.weights[rows], 2),
        )
        return np.asarray(model.coef_[0], dtype=float)

    def best_c(self) -> float:
        """Return the strength with the smallest mean weighted log-loss over the folds."""
        from sklearn.model_selection import GroupKFold

        copies = np.tile(np.arange(len(self.wins)), 2)  # both copies of a row are in the same fold
        folds = [(copies[train], copies[test]) for train, test in GroupKFold(FOLDS).split(copies, groups=copies)]
        grid = np.logspace(*C_GRID)
        losses = [np.mean([self._loss(float(c), *map(np.unique, fold)) for fold in folds]) for c in grid]
        return float(grid[int(np.argmin(losses))])

    def _loss(self, c: float, train: Any, test: Any) -> float:
        predicted = np.clip(_sigmoid(self.features[test] @ self.fit(c, train)), 1e-15, 1 - 1e-15)
        loss = -(self.wins[test] * np.log(predicted) + (1 - self.wins[test]) * np.log(1 - predicted))
        return float(np.mean(loss * self.weights[test]))


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0, -x)), dtype=float)


def _win_rate_at_equal_length(
    coefficients: Array, features: Array, wins: Array, problem: _Problem
) -> LengthControlledWinRate:
    at_equal_length = features.copy()
    at_equal_length[:, 0] = 0
    predicted = _sigmoid(at_equal_length @ coefficients)
    value, n = float(predicted.mean()), len(predicted)
    gradient = (predicted * (1 - predicted)) @ at_equal_length / n
    fitted = _sigmoid(problem.features @ coefficients)
    curvature = (problem.features * (problem.weights * fitted * (1 - fitted))[:, None]).T @ problem.features
    residual = np.where(np.isnan(wins), 0.0, wins - _sigmoid(features @ coefficients))
    through_fit = (features * residual[:, None]) @ np.linalg.pinv(curvature) @ gradient
    influence = (predicted - value) / n + through_fit
    return LengthControlledWinRate(
        value=100 * value,
        standard_error=100 * float(np.sqrt(n / (n - 1) * np.sum((influence - influence.mean()) ** 2))),
        leaderboard_error=100 * float(predicted.std(ddof=1) / np.sqrt(n)),
    )


def score_annotations(annotations: Iterable[Mapping[str, Any]], auxiliary: Any = None) -> dict[str, Any]:
    """Return the win rates of annotations, official ones (`annotations.json` of a model) or those of our judge.

    Args:
        annotations: rows with `preference` and either both outputs (`output_1` is the baseline's) or both lengths
            (`len_baseline`, `len_model`). `index` is the instruction's row; without it the position counts, as in the
            official code.
        auxiliary: as for `length_controlled_win_rate`. Without it, only the raw win rate is computed.

    Returns:
        `win_rate`, `standard_error`, `annotated` (number of rows with a preference) and `rows`. With the auxiliary rows
        also `length_controlled_win_rate`, `length_controlled_standard_error` and `lc_standard_error` (the official
        leaderboard's, see `WinRate`), or the reason `not_length_controlled`.

    Raises:
        ConfigurationError: if a row cannot be read or has no finite length, or two rows have one index.
    """
    rows = list(annotations)
    preferences = [_preference(row, position) for position, row in enumerate(rows)]
    index = [_index(row, position) for position, row in enumerate(rows)]
    lengths = [
        [_length(row, position, *names) for position, row in enumerate(rows)]
        for names in (("len_baseline", "output_1"), ("len_model", "output_2"))
        if auxiliary is not None or any(names[0] in row or names[1] in row for row in rows)
    ]
    _check_rows(index, *lengths)
    raw = raw_win_rate(preferences)
    figures: dict[str, Any] = {
        "win_rate": raw.value,
        "standard_error": raw.standard_error,
        "annotated": len(rows) - preferences.count(None),
        "rows": len(rows),
    }
    if auxiliary is None:
        return figures
    try:
        controlled = length_controlled_win_rate(preferences, lengths[0], lengths[1], index, auxiliary)
    except ConfigurationError as error:
        return {**figures, "not_length_controlled": str(error)}
    figures["length_controlled_win_rate"] = controlled.value
    figures["length_controlled_standard_error"] = controlled.standard_error
    figures["lc_standard_error"] = controlled.leaderboard_error
    return figures


def _preference(row: Mapping[str, Any], position: int) -> float | None:
    value = row.get("preference")
    if value in (None, ""):
        return None
    number = _number(value, position, "preference")
    if math.isnan(number):
        return None
    if number != 0 and not 1 <= number <= 2:
        raise ConfigurationError(
            f"annotation row {position} has preference={value!r}; it must be 0 (tie) or from 1 to 2"
        )
    return number


def _index(row: Mapping[str, Any], position: int) -> int:
    number = _number(row.get("index", position), position, "index")
    if not number.is_integer():
        raise ConfigurationError(f"annotation row {position} has the index {row['index']!r}; it must be a whole number")
    return int(number)


def _length(row: Mapping[str, Any], position: int, length: str, output: str) -> float:
    if length in row:
        return _number(row[length], position, length)
    if output not in row:
        raise ConfigurationError(f"annotation row {position} has neither {length!r} nor {output!r}; give one of them")
    text = row[output]
    if text is not None and not isinstance(text, str):
        raise ConfigurationError(f"annotation row {position} has {output}={text!r}; it must be a text")
    return float(len(text or ""))


def _number(value: Any, position: int, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"annotation row {position} has {name}={value!r}; it must be a number") from None


def _check_rows(index: Sequence[int], *lengths: Sequence[float]) -> None:
    """Check that the rows are of different instructions, and that all lengths are finite.

    Raises:
        ConfigurationError: with the first row that is not so. Left in, it would spoil the figures of all rows.
    """
    first: dict[int, int] = {}
    for position, row in enumerate(index):
        if (earlier := first.setdefault(int(row), position)) != position:
            raise ConfigurationError(
                f"annotation rows {earlier} and {position} are both of instruction {row}; leave one of them out"
            )
    for position, row in enumerate(index):
        for column in lengths:
            if not 0 <= float(column[position]) < math.inf:
                raise ConfigurationError(
                    f"annotation row {position} (instruction {row}) has the length {column[position]!r}; "
                    "it must be a finite number of characters"
                )
