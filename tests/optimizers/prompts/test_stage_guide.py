"""GEPA guided by stage scores: it works on the stage that loses, and keeps what helps that stage."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from support import planted

from moa_dspy import AttentionMoA, ConfigurationError
from moa_dspy.optimizers import Gepa, compile  # noqa: A004 (DSPy's word)
from moa_dspy.optimizers.prompts.stage_guide import StageGuide
from moa_dspy.testing import ScriptedLM

ROLES = ("propose", "critique", "self_critique", "refine", "aggregate")


def program(knows: float, adopts: float = 0.9, aggregator: Any = None, **options: Any) -> AttentionMoA:
    agents = planted.agents(knows, finds=1.0, adopts=adopts, misled=0.0)
    return planted.program_of(agents, attention="full", aggregator=aggregator, **options)


def runs_of(asked: AttentionMoA, count: int = 6) -> list[dict[str, Any]]:
    examples = planted.examples(0, count)
    return [{"example": one, "prediction": asked(**one.inputs())} for one in examples]


@pytest.mark.parametrize(
    ("asked", "loses"),
    [
        (program(1.0, aggregator=ScriptedLM("wrong", "scripted/aggregator")), "aggregate"),
        (program(0.0, adopts=1.0), "propose"),
    ],
    ids=["aggregate", "propose"],
)
def test_the_stage_that_loses_most_is_worked_on_most(asked: AttentionMoA, loses: str) -> None:
    guide, runs = StageGuide(planted.right, asked, seed=0), runs_of(asked)
    chosen = Counter(guide(None, runs, [], 0, dict.fromkeys(ROLES, ""))[0] for _ in range(400))
    assert set(chosen) == set(ROLES), "each has its chance"
    assert chosen.most_common(1)[0][0] in {loses, "critique", "self_critique"}
    assert chosen[loses] > 2 * chosen["aggregate" if loses != "aggregate" else "propose"]


def proposal(before: AttentionMoA, after: AttentionMoA, scores: tuple[float, float], role: str) -> Any:
    old = SimpleNamespace(trajectories=runs_of(before), scores=[scores[0]])
    new = SimpleNamespace(trajectories=runs_of(after), scores=[scores[1]])
    return SimpleNamespace(eval_before=old, eval_after=new, candidate={role: "new"}, parent_program_ids=[0])


def test_a_proposal_is_kept_by_the_score_and_by_its_stage() -> None:
    weak, strong = program(0.2), program(0.9)
    guide = StageGuide(planted.right, weak, seed=0)
    state = SimpleNamespace(program_candidates=[{"propose": "old", "aggregate": "old"}])

    def kept(before: AttentionMoA, after: AttentionMoA, *scores: float, role: str = "propose") -> bool:
        return guide.should_accept(proposal(before, after, (scores[0], scores[1]), role), state)

    assert kept(weak, strong, 1.0, 2.0)
    assert kept(weak, strong, 1.0, 1.0), "the stage is better, although the answers are not yet"
    assert not kept(strong, weak, 1.0, 2.0), "the answers are better by chance, the stage is worse"
    assert not kept(weak, strong, 2.0, 1.0)
    assert not kept(weak, weak, 1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_guided_gepa_finds_what_is_planted(shared: bool) -> None:
    asked = planted.program_of(planted.agents(planted.told, cache=True), attention="full", shared_prompts=shared)
    done = compile(
        asked,
        trainset=planted.examples(0, 12),
        valset=planted.examples(12, 20),
        metric=planted.right,
        method=Gepa(runs=60),
        prompt_lm=planted.writer(),
    )
    assert done.cost.paid_calls
    assert done.score.value >= done.before.value


def test_an_unknown_guide_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="use 'stages' or 'text'"):
        Gepa(guide="stars")  # type: ignore[arg-type]
