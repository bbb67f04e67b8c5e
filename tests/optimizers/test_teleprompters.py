"""Search and optimization in the form of DSPy's optimizers."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.teleprompt import Teleprompter
from dspy.utils.callback import BaseCallback
from support import planted
from support.simulated_tasks import exact, examples, simulated

from moa_dspy import AttentionMoA, Budget, ConfigurationError
from moa_dspy.files.program_file import digest_of
from moa_dspy.optimizers import ArchitectureSearch, Labeled, MoAOptimizer, SearchSpace, provenance_of, stamp

SPACE = SearchSpace(samples=1, temperatures=(0.7,), layers=(1,), attention=("none",), residual=("synthesis",))


class Recorder(BaseCallback):
    """Records what DSPy reports of ``compile``."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[tuple[Any, dict[str, Any]]] = []
        self.ended: list[tuple[Any, Any]] = []

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.started.append((instance, inputs))

    def on_compile_end(self, call_id: str, outputs: Any | None, exception: Exception | None = None) -> None:
        self.ended.append((outputs, exception))


def two_agents() -> AttentionMoA:
    lms = [simulated("weak", knows=0.1), simulated("strong", knows=0.95)]
    return AttentionMoA("question -> answer", lms, layers=1, attention="none", dissent=True, budget=Budget(calls=50))


def test_a_search_is_a_teleprompter_that_callbacks_see() -> None:
    program, recorder = two_agents(), Recorder()
    program = stamp(program, provenance_of(program, "earlier"))
    before = digest_of(program)
    optimizer = ArchitectureSearch(exact, space=SPACE, n_trials=3, seed=1)
    with dspy.context(callbacks=[recorder]):
        found = optimizer.compile(program, trainset=examples(20))
    assert isinstance(optimizer, Teleprompter)
    assert [spec.name for spec in found.architecture.agents] == ["strong"]
    assert digest_of(program) == before
    assert found.budget == program.budget
    assert found.architecture.dissent
    assert found.provenance == program.provenance
    assert optimizer.result is not None
    assert optimizer.result.program is found
    ((instance, inputs),) = recorder.started
    assert instance is optimizer
    assert inputs["student"] is program
    assert recorder.ended == [(found, None)]
    settings = {"space": SPACE, "budget": None, "seed": 1, "concurrency": 8, "options": {"n_trials": 3}}
    assert optimizer.get_params() == {"metric": exact, **settings}


def test_an_optimization_is_a_teleprompter_that_callbacks_see() -> None:
    program, recorder = planted.program_of(planted.agents(planted.shown, count=2, cache=True)), Recorder()
    optimizer = MoAOptimizer(planted.right, parts=["prompts"], method=Labeled(demos=4), explain=False)
    with dspy.context(callbacks=[recorder]):
        found = optimizer.compile(program, trainset=planted.examples(0, 60))
    assert optimizer.result is not None
    assert optimizer.result.accepted
    assert found is optimizer.result.program
    assert [type(instance).__name__ for instance, _ in recorder.started] == ["MoAOptimizer", "LabeledFewShot"]
    assert recorder.ended[-1] == (found, None)
    assert optimizer.get_params()["options"]["parts"] == ["prompts"]
    assert "result" not in optimizer.get_params()


@pytest.mark.slow
def test_held_out_examples_may_be_given_and_options_set_for_one_call() -> None:
    optimizer = MoAOptimizer(exact, parts=["architecture"], space=SPACE, explain=False)
    tasks = examples(40)
    optimizer.compile(two_agents(), trainset=tasks[:20], valset=tasks[20:], n_trials=3)
    assert optimizer.result is not None
    sizes = optimizer.result.report["data"]
    assert (sizes["tuning"]["examples"], sizes["held-out"]["examples"]) == (20, 20)


@pytest.mark.parametrize("optimizer", [ArchitectureSearch(exact, space=SPACE), MoAOptimizer(exact)])
def test_students_and_teachers_that_do_not_fit_are_refused(optimizer: Any) -> None:
    with pytest.raises(ConfigurationError, match="student must be an AttentionMoA, not Predict"):
        optimizer.compile(dspy.Predict("question -> answer"), trainset=examples(20))
    with pytest.raises(ConfigurationError, match="teacher=AttentionMoA is not used"):
        optimizer.compile(two_agents(), trainset=examples(20), teacher=two_agents())


def test_a_search_takes_no_validation_set() -> None:
    with pytest.raises(ConfigurationError, match="takes no valset"):
        ArchitectureSearch(exact).compile(two_agents(), trainset=examples(20), valset=examples(4))
