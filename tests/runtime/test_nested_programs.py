"""Models that call programs: under any limit on concurrent calls, to any depth, every run ends."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar

import dspy
import pytest
from support.runs import in_format, until

from moa_dspy import AllProposalsFailedError, AttentionMoA, Budget, Tolerance, limit_concurrency
from moa_dspy.testing import ScriptedLM

SIGNATURE = "question -> answer"
DEADLINE = 30.0
DEPTH = 3
MODELS = tuple(f"own/{name}" for name in "abcd")
T = TypeVar("T")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DSPy's, of LMs with a forward


@pytest.fixture(autouse=True)
def no_limit_stays() -> Iterator[None]:
    yield
    for model in (None, *MODELS):
        limit_concurrency(None, model=model)


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of ``work``; a failure if it does not end."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # noqa: BLE001 (raised in the test)
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"not finished after {seconds} s"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def completion(model: str, text: str = "an answer") -> Any:
    choice = SimpleNamespace(message=SimpleNamespace(content=text, tool_calls=None), finish_reason="stop")
    return SimpleNamespace(model=model, choices=[choice], usage={"prompt_tokens": 7, "completion_tokens": 2})


class Gauge:
    """Counts how many calls are under way, and remembers the most."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.inside -= 1


class Leaf(dspy.BaseLM):
    """A model that calls no program."""

    def __init__(self, model: str = MODELS[0], gauge: Gauge | None = None) -> None:
        super().__init__(model, cache=False)
        self.gauge = gauge or Gauge()

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        with self.gauge:
            await asyncio.sleep(0.001)
        return completion(self.model)


class Nest(dspy.BaseLM):
    """A model that asks a program."""

    def __init__(self, inner: dspy.Module, model: str = MODELS[1], times: int = 1) -> None:
        super().__init__(model, cache=False)
        self.inner, self.times = inner, times


class InThread(Nest):
    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        answers = [self.inner(question=f"inner {time}").answer for time in range(self.times)]
        return completion(self.model, answers[-1])


class Awaiting(Nest):
    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        answers = await asyncio.gather(*(self.inner.acall(question=f"inner {n}") for n in range(self.times)))
        return completion(self.model, answers[-1].answer)


class Blocking(Nest):
    """Calls the program without ``await``, so it blocks the event loop of its own run."""

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        answers = [self.inner(question=f"inner {time}").answer for time in range(self.times)]
        return completion(self.model, answers[-1])


class OwnCall(Nest):
    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        return [(await self.inner.acall(question="inner")).answer]


KINDS: tuple[type[Nest], ...] = (InThread, Awaiting, Blocking, OwnCall)


def program_of(lms: list[Any], **options: Any) -> AttentionMoA:
    return AttentionMoA(SIGNATURE, lms, **{"layers": 1, "attention": "none", "aggregation": "vote", **options})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [1, 2])
def test_a_model_that_calls_a_program_ends_under_a_limit_and_so_do_later_calls(kind: type[Nest], limit: int) -> None:
    gauge = Gauge()
    limit_concurrency(limit)
    inner = program_of([Leaf(gauge=gauge)] * 2, attention="full", aggregation="synthesis")
    outer = program_of([kind(inner), kind(inner)])
    assert within(DEADLINE, lambda: outer(question="?")).answer == "an answer"
    assert gauge.most <= limit
    assert within(DEADLINE, lambda: program_of([Leaf()] * 3)(question="?")).answer == "an answer"


@pytest.mark.parametrize("kind", KINDS)
def test_nesting_ends_at_any_depth(kind: type[Nest]) -> None:
    limit_concurrency(1)
    program = program_of([Leaf(), Leaf()])
    for _ in range(6):
        program = program_of([kind(program)])
    assert within(DEADLINE, lambda: program(question="?")).answer == "an answer"


def test_models_that_call_programs_of_each_other_end_under_limits_of_both() -> None:
    for model in MODELS[:2]:
        limit_concurrency(1, model=model)
    ends = [program_of([Leaf(model)]) for model in MODELS[:2]]
    a, b = InThread(ends[1], MODELS[0]), InThread(ends[0], MODELS[1])
    both = program_of([InThread(program_of([b]), MODELS[0]), InThread(program_of([a]), MODELS[1])] * 2)
    assert within(DEADLINE, lambda: both(question="?")).answer == "an answer"


def test_a_limit_of_one_model_and_of_the_process_do_not_wait_for_each_other() -> None:
    limit_concurrency(1)
    limit_concurrency(1, model=MODELS[0])
    inner = program_of([Leaf(MODELS[0])] * 2)
    outer = program_of([InThread(inner, MODELS[1]), Leaf(MODELS[0]), Awaiting(inner, MODELS[1]), Leaf(MODELS[0])])
    assert within(DEADLINE, lambda: outer(question="?")).answer == "an answer"


class Stuck(dspy.BaseLM):
    """Never answers, until it is let go."""

    def __init__(self) -> None:
        super().__init__(MODELS[2], cache=False)
        self.go = threading.Event()

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        self.go.wait(DEADLINE)
        return completion(self.model)


@pytest.mark.parametrize("kind", [InThread, Awaiting])
def test_an_outer_timeout_ends_the_run_and_later_calls_work(kind: type[Nest]) -> None:
    limit_concurrency(2)
    stuck = Stuck()
    inner = program_of([stuck], tolerance=Tolerance(timeout=1.0, retries=0))
    outer = program_of([kind(inner), kind(inner)], tolerance=Tolerance(timeout=0.3, retries=0))
    with pytest.raises(AllProposalsFailedError):
        within(DEADLINE, lambda: outer(question="?"))
    stuck.go.set()
    answered = within(DEADLINE, lambda: program_of([Leaf()] * 4)(question="?"))
    assert answered.answer == "an answer"


def test_a_budget_in_seconds_ends_a_nested_run_and_later_calls_work() -> None:
    limit_concurrency(1)
    stuck = Stuck()
    outer = program_of([InThread(program_of([stuck]))])
    with pytest.raises(AllProposalsFailedError):
        within(DEADLINE, lambda: outer(question="?", budget=Budget(seconds=0.3)))
    stuck.go.set()
    assert within(DEADLINE, lambda: program_of([Leaf()] * 4)(question="?")).answer == "an answer"


def test_a_limit_is_never_exceeded_by_callers_that_go_on_after_a_nested_call() -> None:
    gauge = Gauge()

    class Working(Nest):
        """Asks a program, and then does work of its own."""

        async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            await self.inner.acall(question="inner")
            with gauge:
                await asyncio.sleep(0.001)
            return completion(self.model)

    limit_concurrency(2)
    outer = program_of([Working(program_of([Leaf(gauge=gauge)] * 3)) for _ in range(6)])
    assert within(DEADLINE, lambda: outer(question="?")).answer == "an answer"
    assert gauge.most == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_nested_program_uses_its_own_formats_and_not_those_of_the_step_around_it(kind: type[Nest]) -> None:
    reply = "[[ ## reasoning ## ]]\nSix times seven.\n\n[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"
    options: dict[str, Any] = {"layers": 1, "attention": "none", "aggregation": "none"}
    typed = AttentionMoA("question -> answer: int", [ScriptedLM(reply)], **options)
    plain = AttentionMoA(SIGNATURE, [ScriptedLM(in_format)] * 2, layers=2)
    assert plain(question="?").trace.layers == 2

    class Text(dspy.Module):
        def forward(self, question: str) -> Any:
            return dspy.Prediction(answer=str(typed(question=question).answer))

        async def aforward(self, question: str) -> Any:
            return dspy.Prediction(answer=str((await typed.acall(question=question)).answer))

    assert within(DEADLINE, lambda: program_of([kind(Text())])(question="?")).answer == "42"
    nested = within(DEADLINE, lambda: program_of([kind(plain)])(question="?"))
    assert nested.answer == "an answer"


def test_the_calls_of_a_nested_program_are_not_in_the_trace_that_an_optimizer_reads() -> None:
    outer = program_of([Awaiting(program_of([Leaf()] * 2))])
    with dspy.context(trace=[]):
        within(DEADLINE, lambda: outer(question="?"))
        outer(question="?")
        assert len(dspy.settings.trace) == 1


def random_program(draw: random.Random, depth: int, gauge: Gauge) -> AttentionMoA:
    lms: list[Any] = []
    for _ in range(draw.randint(1, 3)):
        if depth and draw.random() < 0.6:
            kind = draw.choice(KINDS)
            lms.append(kind(random_program(draw, depth - 1, gauge), draw.choice(MODELS), draw.randint(1, 2)))
        else:
            lms.append(Leaf(draw.choice(MODELS), gauge))
    attention = draw.choice(["none", "none", "self"])
    quorum = draw.choice([None, None, 1])
    tolerance = Tolerance(quorum=quorum, grace=0.0, timeout=20) if quorum else Tolerance(timeout=20)
    return program_of(lms, attention=attention, tolerance=tolerance)


def blocks(program: AttentionMoA) -> bool:
    nests = [agent.lm for agent in program.agents if isinstance(agent.lm, Nest)]
    return any(isinstance(nest, Blocking) or blocks(nest.inner) for nest in nests)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_nestings_under_random_limits_all_end(seed: int) -> None:
    draw, gauge = random.Random(seed), Gauge()
    limit = draw.randint(1, 3)
    limit_concurrency(limit)
    for model in MODELS:
        limit_concurrency(draw.choice([None, 1, 2]), model=model)
    program = random_program(draw, DEPTH, gauge)

    async def several() -> list[Any]:
        return await asyncio.gather(*(program.acall(question=f"question {n}") for n in range(3)))

    answers = within(DEADLINE, lambda: asyncio.run(several()) if draw.random() < 0.5 else [program(question="?")])
    assert {prediction.answer for prediction in answers} == {"an answer"}
    assert gauge.most <= limit + (DEPTH if blocks(program) else 0)
    assert until(lambda: gauge.inside == 0)
    assert within(DEADLINE, lambda: program_of([Leaf()])(question="after")).answer == "an answer"
