"""Win rates of AlpacaEval 2.0, raw and length-controlled (Dubois et al. 2024, arXiv 2404.04475)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["AUXILIARY_FILE", "Auxiliary", "WinRate", "length_controlled_win_rate", "raw_win_rate", "score_annotations"]

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
            ConfigurationError: if a column is missing.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, str | Path):
            return cls.read(Path(source))
        columns = source if hasattr(source, "keys") else _columns(source)
        missing = [name for name in _AUXILIARY_COLUMNS if name not in columns]
        if missing:
            have = ", ".join(map(str, columns.keys())) or "none"
            raise ConfigurationError(f"the auxiliary rows lack {', '.join(missing)}; they have: {have}")
        floats = {name: [float(value) for value in columns[name]] for name in _AUXILIARY_COLUMNS if name != "index"}
        return cls(index=[int(float(value)) for value in columns["index"]], **floats)

    @classmethod
    def read(cls, path: Path) -> Auxiliary:
        """Read the rows from `df_gamed.csv` or its folder."""
        file = path / AUXILIARY_FILE if path.is_dir() else path
        try:
            with file.open(newline="", encoding="utf-8") as lines:
                return cls.of(list(csv.DictReader(lines)))
        except OSError as error:
            raise ConfigurationError(f"cannot read the auxiliary rows {file.name}: {error.strerror}") from error

    def difficulty(self) -> dict[int, float]:
        """Return the difficulty of each instruction row."""
        return dict(zip(reversed(self.index), reversed(self.instruction_difficulty), strict=True))


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}


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
    mean = math.fsum(wins) / len(wins)
    if len(wins) == 1:
        return WinRate(100 * mean, math.nan)
    variance = math.fsum((win - mean) ** 2 for win in wins) / (len(wins) - 1)
    return WinRate(100 * mean, 100 * math.sqrt(variance / len(wins)))


def _win(preference: float | None) -> float:
    """Return the probability in [0, 1] that the model wins, or NaN if the preference is missing."""
    if preference is None or math.isnan(float(preference)):
        return math.nan
    value = float(preference) or 1.5
    if not 1 <= value <= 2:
        raise ConfigurationError(f"a preference is 0 (tie) or from 1 to 2, not {preference!r}")
    return value - 1


@dataclass(frozen=True)
class _Problem:
    """A weighted logistic regression. Each row enters twice, with labels 1 and 0 and its probability as weight.

    The columns are the tanh of the standardised length difference, the difficulty, and an indicator of the model.
    """

    features: Array
    wins: Array
    weights: Array

    def duplicated(self) -> tuple[Array, Array, Array, NDArray[np.int64]]:
        """Return the features, labels, sample weights and groups of all copies."""
        import numpy as np

        n = len(self.wins)
        share = np.concatenate([self.wins, 1 - self.wins])
        return (
            np.vstack([self.features, self.features]),
            np.concatenate([np.ones(n), np.zeros(n)]),
            share * np.concatenate([self.weights, self.weights]),
            np.concatenate([np.arange(n), np.arange(n)]),
        )


def length_controlled_win_rate(
    preferences: Sequence[float | None],
    len_baseline: Sequence[float],
    len_model: Sequence[float],
    index: Sequence[int],
    auxiliary: Any,
    *,
    C: float | None = None,  # noqa: N803 - the regression's own name for it
) -> WinRate:
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
        Value and standard error, in percent. The error is that of sampling instructions: the delta method on the
        regression's influence functions, at fixed C.

    Raises:
        ConfigurationError: if lengths differ, there are fewer than 30 preferences, an index is unknown, or scikit-learn
            is missing.
    """
    import numpy as np

    if len({len(preferences), len(len_baseline), len(len_model), len(index)}) != 1:
        raise ConfigurationError("preferences, both lengths and index must have one entry for each row")
    rows = Auxiliary.of(auxiliary)
    wins = np.array([_win(preference) for preference in preferences], dtype=float)
    verdicts = int(np.sum(~np.isnan(wins)))
    if verdicts < VERDICTS_MIN:
        raise ConfigurationError(f"length control needs {VERDICTS_MIN} or more verdicts; there are {verdicts}")
    features = _model_features(len_baseline, len_model, _difficulties(rows, index))
    present = ~np.isnan(wins)
    problem = _with_auxiliary(features[present], wins[present], rows)
    coefficients = _fit(problem, _best_c(problem) if C is None else C)
    return _win_rate_at_equal_length(coefficients, features, wins, problem)


def _difficulties(rows: Auxiliary, index: Sequence[int]) -> list[float]:
    known = rows.difficulty()
    unknown = [int(row) for row in index if int(row) not in known]
    if unknown:
        raise ConfigurationError(f"no difficulty is known for instruction row {unknown[0]} ({len(known)} are known)")
    return [known[int(row)] for row in index]


def _model_features(len_baseline: Sequence[float], len_model: Sequence[float], difficulty: Sequence[float]) -> Array:
    import numpy as np

    delta = np.asarray(len_baseline, dtype=float) - np.asarray(len_model, dtype=float)
    deviation = float(delta.std(ddof=1))
    scaled = np.tanh(delta / deviation) if deviation > 0 else np.zeros_like(delta)
    return np.column_stack([scaled, np.asarray(difficulty, dtype=float), np.ones_like(delta)])


def _with_auxiliary(features: Array, wins: Array, rows: Auxiliary) -> _Problem:
    """Return the regression with the auxiliary rows first, as in the official code. The folds depend on this order."""
    import numpy as np

    std_delta = np.asarray(rows.std_delta_len, dtype=float)
    difficulty = np.asarray(rows.instruction_difficulty, dtype=float)
    auxiliary = np.column_stack([np.tanh(std_delta), difficulty, np.zeros_like(std_delta)])
    return _Problem(
        features=np.vstack([auxiliary, features]),
        wins=np.concatenate([np.asarray(rows.preference, dtype=float), wins]),
        weights=np.concatenate([np.full(len(std_delta), AUXILIARY_WEIGHT), np.ones(len(wins))]),
    )


def _fit(problem: _Problem, c: float) -> Array:
    import numpy as np

    features, labels, weights, _ = problem.duplicated()
    model = _regression(c).fit(features, labels, sample_weight=weights)
    return np.asarray(model.coef_[0], dtype=float)


def _regression(c: float) -> Any:
    try:
        import sklearn
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ConfigurationError("the length-controlled win rate needs scikit-learn: install moa-dspy[eval]") from None
    major, minor = (int(part) for part in sklearn.__version__.split(".")[:2])
    penalty: dict[str, Any] = {"l1_ratio": 1.0} if (major, minor) >= (1, 8) else {"penalty": "l1"}
    return LogisticRegression(C=c, solver="liblinear", fit_intercept=False, random_state=123, **penalty)


def _best_c(problem: _Problem) -> float:
    """Return the strength with the smallest mean weighted log-loss over the folds."""
    import numpy as np
    from sklearn.model_selection import GroupKFold

    features, labels, _weights, groups = problem.duplicated()
    folds = list(GroupKFold(n_splits=FOLDS).split(features, labels, groups))
    grid = np.logspace(*C_GRID)
    losses = [np.mean([_fold_loss(problem, float(c), train, test) for train, test in folds]) for c in grid]
    return float(grid[int(np.argmin(losses))])


def _fold_loss(problem: _Problem, c: float, train: NDArray[np.int64], test: NDArray[np.int64]) -> float:
    import numpy as np

    features, labels, weights, groups = problem.duplicated()
    model = _regression(c).fit(features[train], labels[train], sample_weight=weights[train])
    predicted = np.clip(model.predict_proba(features[test])[:, 1], 1e-15, 1 - 1e-15)
    rows = groups[test]
    wins = problem.wins[rows]
    loss = -(wins * np.log(predicted) + (1 - wins) * np.log(1 - predicted))
    return float(np.mean(loss * problem.weights[rows]))


def _sigmoid(x: Array) -> Array:
    import numpy as np

    return np.asarray(np.exp(-np.logaddexp(0, -x)), dtype=float)


def _win_rate_at_equal_length(coefficients: Array, features: Array, wins: Array, problem: _Problem) -> WinRate:
    import numpy as np

    at_equal_length = features.copy()
    at_equal_length[:, 0] = 0
    predicted = _sigmoid(at_equal_length @ coefficients)
    value = float(predicted.mean())
    gradient = (predicted * (1 - predicted)) @ at_equal_length / len(predicted)
    fitted = _sigmoid(problem.features @ coefficients)
    curvature = (problem.features * (problem.weights * fitted * (1 - fitted))[:, None]).T @ problem.features
    residual = np.where(np.isnan(wins), 0.0, wins - _sigmoid(features @ coefficients))
    through_fit = (features * residual[:, None]) @ np.linalg.pinv(curvature) @ gradient
    influence = (predicted - value) / len(predicted) + through_fit
    n = len(influence)
    return WinRate(100 * value, 100 * float(np.sqrt(n / (n - 1) * np.sum((influence - influence.mean()) ** 2))))


def score_annotations(annotations: Iterable[Mapping[str, Any]], auxiliary: Any = None) -> dict[str, Any]:
    """Return the win rates of annotations, official ones (`annotations.json` of a model) or those of our judge.

    Args:
        annotations: rows with `preference` and either both outputs (`output_1` is the baseline's) or both lengths
            (`len_baseline`, `len_model`). `index` is the instruction's row; without it the position counts, as in the
            official code.
        auxiliary: as for `length_controlled_win_rate`. Without it, only the raw win rate is computed.

    Returns:
        `win_rate`, `standard_error`, `annotated` (number of rows with a preference) and `rows`. With the auxiliary rows
        also `length_controlled_win_rate` and `length_controlled_standard_error`, or the reason `not_length_controlled`.
    """
    rows = list(annotations)
    preferences = [_number(row.get("preference")) for row in rows]
    raw = raw_win_rate(preferences)
    figures: dict[str, Any] = {
        "win_rate": raw.value,
        "standard_error": raw.standard_error,
        "annotated": sum(preference is not None for preference in preferences),
        "rows": len(rows),
    }
    if auxiliary is None:
        return figures
    baseline = [_length(row, "len_baseline", "output_1") for row in rows]
    model = [_length(row, "len_model", "output_2") for row in rows]
    index = [int(row.get("index", position)) for position, row in enumerate(rows)]
    try:
        controlled = length_controlled_win_rate(preferences, baseline, model, index, auxiliary)
    except ConfigurationError as error:
        return {**figures, "not_length_controlled": str(error)}
    figures["length_controlled_win_rate"] = controlled.value
    figures["length_controlled_standard_error"] = controlled.standard_error
    return figures


def _number(value: Any) -> float | None:
    number = math.nan if value in (None, "") else float(value)
    return None if math.isnan(number) else number


def _length(row: Mapping[str, Any], length: str, output: str) -> float:
    return float(row[length]) if length in row else float(len(str(row[output] or "")))
