"""A search that starts from a program or a study of a similar task."""

from __future__ import annotations

from typing import Any

import pytest
from support.simulated_tasks import exact, examples, simulated

from moa_dspy import Agent, AttentionMoA, ConfigurationError
from moa_dspy.optimizers import SearchSpace, search
from moa_dspy.optimizers.search.designs import BoundSpace
from moa_dspy.optimizers.search.usual import UsualDesigns
from moa_dspy.optimizers.search.warm_start import warm_designs
from moa_dspy.testing import ScriptedLM

TASK = "question -> answer"
SPACE = SearchSpace(samples=2, temperatures=(0.2, 0.9), layers=(1, 2), aggregation=("synthesis", "vote"))


def bound(*names: str, space: SearchSpace = SPACE) -> BoundSpace:
    return BoundSpace(space, TASK, [ScriptedLM("x", f"scripted/{name}", temperature=1.0) for name in names], {})


def ensemble(*agents: tuple[str, float], **options: Any) -> AttentionMoA:
    members = [Agent(ScriptedLM("x", f"scripted/{name}"), temperature=warmth) for name, warmth in agents]
    return AttentionMoA("text -> summary", members, **options)


def test_the_design_of_a_program_of_another_task_is_found_again() -> None:
    source = ensemble(("b", 0.9), ("a", 0.2), ("b", 0.9), attention="self", aggregation="vote", layers=2)
    space = bound("a", "b", "c")
    for one in (source, source.architecture):
        (params,) = warm_designs(space, one)
        design = space.design(params)
        assert design is not None
        assert (design.samples, design.temperatures) == ((1, 2, 0), (0.2, 0.9, None))
        assert (design.attention, design.aggregation, design.residual) == ("self", "vote", "synthesis")


def test_what_the_space_lacks_is_left_out_and_temperatures_are_the_nearest() -> None:
    warm = bound("a", "b").design(warm_designs(bound("a", "b"), ensemble(("a", 0.3), ("b", 1.4)))[0])
    assert warm is not None
    assert warm.temperatures == (0.2, 0.9)
    assert warm_designs(bound("a", "b"), ensemble(("a", 0.2), ("stranger", 0.2))) == []
    few = SearchSpace(samples=1, temperatures=(None,), attention=("none", "full"), layers=(1,))
    assert warm_designs(bound("a", "b", space=few), ensemble(("a", 0.2), ("b", 0.2), attention="self")) == []
    assert warm_designs(bound("a", "b"), []) == []
    with pytest.raises(ConfigurationError, match="warm_start=str is no program"):
        warm_designs(bound("a"), "program.json")  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_best_design_of_a_study_comes_after_the_usual_ensembles() -> None:
    lms = [simulated("a", knows=0.3, finds=0.8), simulated("b", knows=0.6, finds=0.1)]
    space = SearchSpace(samples=2, temperatures=(0.4,), layers=(1,), attention=("full", "none"))
    options: dict[str, Any] = {"metric": exact, "unit": "calls", "space": space}
    before = search(TASK, lms, trainset=examples(12), n_trials=12, **options)
    after = search(TASK, lms, trainset=examples(24)[12:], n_trials=12, warm_start=before.study, **options)
    usual = len(UsualDesigns(BoundSpace(space, TASK, lms, {})).params)
    best = {trial["number"]: trial["params"] for trial in before.report["trials"]}[before.report["best"]["trial"]]
    assert best in [trial["params"] for trial in after.report["trials"][: usual + 1]]
