"""The probability that an answer is right, fitted to agreement."""

from __future__ import annotations

import pytest

from benchmarks.dissent import calibration_errors
from moa_dspy import ConfigurationError
from moa_dspy.optimizers import calibrate, expected_calibration_error


def test_more_agreement_never_means_less_and_rare_levels_are_not_certain() -> None:
    runs = [(1.0, 1.0)] * 80 + [(1.0, 0.0)] * 20 + [(0.5, 1.0)] * 3 + [(0.5, 0.0)] + [(0.75, 0.0)] + [(None, 1.0)]
    fitted = calibrate(runs)
    levels = [(level.agreement, level.runs) for level in fitted.levels]
    assert levels == [(0.5, 4), (0.75, 1), (1.0, 100), (None, 1)]
    probabilities = [fitted(agreement) for agreement in (0.0, 0.5, 0.6, 0.75, 1.0)]
    assert probabilities == sorted(probabilities)
    assert fitted(1.0) == pytest.approx(0.8, abs=0.01)
    assert 0 < fitted(0.75) < 1
    assert 0.8 < fitted(None) < 1
    assert fitted.error == pytest.approx(expected_calibration_error([run for run in runs if run[0] is not None]))
    assert str(fitted).splitlines()[1].split() == ["50%", "4", "75%", f"{fitted(0.5):.0%}"]


@pytest.mark.slow
def test_fitted_agreement_is_calibrated_on_other_questions() -> None:
    raw, fitted = calibration_errors(300, {})
    assert fitted < 0.1
    assert fitted < raw


@pytest.mark.parametrize("runs", [[], [(1.2, 1.0)], [(0.5, -1.0)], [(0.5, None)]])
def test_bad_runs_are_refused(runs: list[tuple[float | None, float]]) -> None:
    with pytest.raises(ConfigurationError, match=r"give (pairs|an agreement)"):
        calibrate(runs)
