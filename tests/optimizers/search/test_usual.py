"""The designs that a search tries first, and the temperatures of their agents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from support.simulated_tasks import exact, examples, simulated

from moa_dspy.optimizers import SearchSpace, search
from moa_dspy.optimizers.search.designs import BoundSpace
from moa_dspy.optimizers.search.usual import UsualDesigns
from moa_dspy.testing import SimulatedLM

TASK = "question -> answer"
SPACE = SearchSpace(
    samples=2,
    temperatures=(0.1, 0.5, 0.9),
    attention=("full", "none"),
    critiques=("single",),
    residual=("synthesis",),
    aggregation=("synthesis",),
    aggregators=("cold",),
    layers=(1,),
)


def everybody() -> list[SimulatedLM]:
    """Agents of which one is good at the lowest temperature, one at the highest, and one at all equally bad."""
    return [
        simulated("cold", knows=lambda request: 0.9 if request.config.temperature < 0.3 else 0.3),
        simulated("warm", knows=lambda request: 0.8 if request.config.temperature > 0.7 else 0.1),
        simulated("weak", knows=0.0),
    ]


def tried(agents: Sequence[SimulatedLM] | None = None, **options: Any) -> list[dict[str, Any]]:
    given: dict[str, Any] = {"trainset": examples(30), "metric": exact, "unit": "calls", "space": SPACE, **options}
    return [trial["params"] for trial in search(TASK, agents or everybody(), **given).report["trials"]]


def is_alone(params: dict[str, Any]) -> bool:
    return params["attention"] == "none" and sum(value for name, value in params.items() if "samples" in name) == 1


@pytest.mark.slow
def test_ensembles_have_the_temperatures_that_are_best_for_each_agent_alone() -> None:
    params = tried(n_trials=30)[:15]
    alone, ensembles = params[:9], params[9:]
    assert all(map(is_alone, alone))
    assert len({tuple(one.items()) for one in alone}) == 9
    repeated, moa, *own, full = ensembles
    assert (repeated["samples.cold"], repeated["temperature.cold"]) == (2, 0.5), "samples must differ"
    best = {"temperature.cold": 0.1, "temperature.warm": 0.9, "temperature.weak": 0.5}
    for one in (moa, full):
        assert best.items() <= one.items()
    assert [{name: one[name] for name in best.keys() & one.keys()} for one in own] == [
        {name: value} for name, value in best.items()
    ]
    assert [one["attention"] for one in ensembles] == ["none", "none", "full", "full", "full", "full"]


@pytest.mark.slow
def test_with_few_trials_or_one_temperature_for_all_agents_the_middle_one_is_taken() -> None:
    params = tried(n_trials=9)
    assert list(map(is_alone, params)) == [True] * 3 + [False] * 6
    assert {value for one in params for name, value in one.items() if "temperature" in name} == {0.5}
    shared = tried(n_trials=9, space=replace(SPACE, shared_temperature=True))
    assert {one["temperature"] for one in shared} == {0.5}


def test_temperatures_are_tried_if_trials_and_examples_suffice() -> None:
    bound = BoundSpace(SPACE, TASK, everybody(), {})
    few, many = UsualDesigns(bound, 29, 30).params, UsualDesigns(bound, 30, 30).params
    assert (len(few), len(many)) == (9, 15)
    assert UsualDesigns(bound, 30, 29).params == few
    assert [one for one in many if one in few] == few, "the others keep their order"


@pytest.mark.slow
def test_designs_of_a_warm_start_keep_their_temperatures() -> None:
    space = replace(SPACE, attention=("none",))
    bound = BoundSpace(space, TASK, everybody(), {})
    cold = {"samples.cold": 1, "samples.warm": 1, "samples.weak": 0, "temperature.cold": 0.9, "temperature.warm": 0.1}
    program = bound.program(bound.design({**cold, "attention": "none", "residual": "synthesis"}))  # type: ignore[arg-type]
    params = tried(n_trials=30, space=space, warm_start=program)
    assert [one for one in params if cold.items() <= one.items()]


@pytest.mark.parametrize("samples", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_single_agent_needs_no_number_of_samples(samples: int) -> None:
    params = tried(n_trials=12, space=replace(SPACE, samples=samples, aggregators=None), agents=everybody()[:1])
    assert [one["temperature.cold"] for one in params[:3]] == [0.5, 0.1, 0.9]
    own = [one for one in params[3:] if one.get("samples.cold", 1) == 1]
    assert own[0] == {**own[0], "attention": "full", "temperature.cold": 0.1}
