"""What an optimization will take: no design, and no run of a metric that likes nothing, takes more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.simulated_tasks import examples, simulated

from moa_dspy import Agent, AttentionMoA, optimizers
from moa_dspy.optimizers import SearchSpace
from moa_dspy.optimizers.optimize import forecast
from moa_dspy.optimizers.prompts.compile import split_off
from moa_dspy.optimizers.search.designs import BoundSpace

CHEAP = [Agent("openai/gpt-4.1-nano", name=f"a{number}", temperature=0.5 + number / 10) for number in range(3)]
DEAR = Agent("openai/gpt-4.1", name="boss")
ONCE: dict[str, Any] = {"samples": 1, "temperatures": (0.7,), "shared_temperature": True}
SPACES = [SearchSpace(**ONCE, layers=(1, 2)), SearchSpace(**ONCE, layers=(3,), attention=(3,))]


def wrong(*_: Any) -> float:
    return 0.0


@pytest.mark.parametrize(("space", "aggregator"), list(zip(SPACES, [DEAR, None], strict=True)))
@pytest.mark.slow
def test_no_design_takes_more_than_the_estimate_has_it(space: SearchSpace, aggregator: Agent | None) -> None:
    program = AttentionMoA("question -> answer", CHEAP, layers=1, attention="none", aggregator=aggregator)
    tasks, heldout = examples(10), examples(12)[10:]
    options: Any = {"valset": heldout, "parts": ["architecture"], "explain": False}
    most = forecast(program, trainset=tasks, metric=wrong, space=space, n_trials=1, **options).parts[0].most
    bound = BoundSpace(space, "question -> answer", CHEAP, {}, [] if aggregator is None else [aggregator])
    programs = sorted(map(bound.program, bound.designs()), key=lambda program: program.architecture.max_calls)
    plans = [program.plan(tasks[0]).full for program in (*programs[:-12:15], *programs[-12:])]
    assert most.calls >= 10 * max(plan.calls for plan in plans)
    assert most.usd is not None
    assert most.usd >= 10 * max(plan.usd or 0 for plan in plans)


@pytest.mark.parametrize("effort", ["light", "heavy"])
@pytest.mark.slow
def test_bootstrapping_that_never_succeeds_takes_no_more_calls(effort: Any) -> None:
    program = AttentionMoA("question -> answer", [simulated("a", knows=0.5), simulated("b", knows=0.5)], layers=1)
    learn, hold = split_off(examples(30), 0)
    heldout = examples(36)[30:]
    options: dict[str, Any] = {"metric": wrong, "method": "bootstrap", "effort": effort}
    estimated = forecast(program, trainset=examples(30), valset=heldout, parts=["prompts"], explain=False, **options)
    assert (
        optimizers.compile(program, trainset=learn, valset=hold, **options).cost.paid_calls
        <= estimated.parts[0].most.calls
    )


@pytest.mark.slow
def test_nothing_is_written_by_an_estimate(tmp_path: Path) -> None:
    program = AttentionMoA("question -> answer", CHEAP, layers=1)
    forecast(program, trainset=examples(12), metric=wrong, space=SPACES[0], n_trials=1, storage=tmp_path / "study.db")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_later_round_starts_from_what_the_search_may_have_found() -> None:
    program = AttentionMoA("question -> answer", CHEAP, layers=1, attention="none")
    options: dict[str, Any] = {"metric": wrong, "space": SPACES[0], "n_trials": 2, "parts": ["architecture"]}
    first, second, *_ = forecast(program, trainset=examples(30), rounds=2, **options).parts
    assert second.most.calls > first.most.calls
