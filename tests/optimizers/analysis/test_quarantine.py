"""Who is left out: agents much worse than the others, and nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from support.simulated_tasks import exact, examples, simulated

from moa_dspy import AttentionMoA, ConfigurationError
from moa_dspy.optimizers import measure, quarantine
from moa_dspy.optimizers.analysis.ceiling import proposals_of
from moa_dspy.optimizers.analysis.quarantine import p_values


def program(liar: str, count: int = 4, **options: Any) -> AttentionMoA:
    names = "abcd"[:count]
    lms = [simulated(name, knows=0.7, deceives=float(name == liar), seed=seed) for seed, name in enumerate(names)]
    return AttentionMoA("question -> answer", lms, layers=1, **options)


def test_a_liar_is_left_out_and_aggregates_no_longer() -> None:
    asked = proposals_of(program("a"))
    found = quarantine(asked, measure(asked, examples(40), exact, keep_traces=True).runs, exact)
    assert found.agents == ("a",)
    assert found.scores["a"] == 0
    few = measure(asked, examples(4), exact, keep_traces=True).runs
    assert quarantine(asked, few * 20, exact).agents == ()  # a question asked again shows nothing more
    assert "a (score 0.00" in str(found)
    better = program("a").replace(agents=found.program.agents, aggregator=found.program.aggregator)
    assert [spec.name for spec in better.architecture.agents] == ["b", "c", "d"]
    assert better.aggregator is not None
    assert getattr(better.aggregator.lm, "model", None) != "simulated/a"


def test_honest_agents_stay() -> None:
    asked = proposals_of(program("nobody", 3))
    runs = measure(asked, examples(20), exact, keep_traces=True).runs
    found = quarantine(asked, runs, exact)
    assert (found.agents, found.program) == ((), asked)
    with pytest.raises(ConfigurationError, match="no run has a trace"):
        quarantine(asked, (), exact)


def rows(**scores: Sequence[float | None]) -> list[dict[str, float]]:
    """The scores of each example; None where an agent did not propose."""
    columns = zip(*scores.values(), strict=True)
    return [{name: one for name, one in zip(scores, row, strict=True) if one is not None} for row in columns]


def test_it_takes_three_agents_and_less_than_half_of_the_others_score() -> None:
    bad, good = [0.0] * 60, [1.0] * 60
    assert p_values("ab", rows(a=bad, b=good)) == {"a": 1.0, "b": 1.0}
    p = p_values("abc", rows(a=bad, b=good, c=good))
    assert p["a"] < 0.001
    assert p["b"] > 0.5
    half = [float(number % 2) for number in range(60)]
    assert p_values("abc", rows(a=half, b=good, c=good))["a"] > 0.3  # exactly half is no ground


def test_an_agent_whose_provider_fails_is_judged_by_what_it_answered() -> None:
    good, rarely = [1.0] * 60, [1.0 if number % 6 == 0 else None for number in range(60)]
    assert p_values("abc", rows(a=rarely, b=good, c=good))["a"] > 0.5
    never = p_values("abc", rows(a=[None] * 60, b=good, c=good))
    assert never["a"] == 1.0
