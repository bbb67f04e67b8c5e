"""Language models that users wrote: without an asynchronous side, with a state and retries of their own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any, ClassVar

import dspy
import pytest
from dspy.lm15 import Message, Request, Response, ServerError, Usage
from support.runs import environment, in_format

from moa_dspy import AllProposalsFailedError, AttentionMoA, Budget, ConfigurationError, Tolerance, limit_concurrency
from moa_dspy.testing import ScriptedLM

SIGNATURE = "question -> answer"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DSPy's, of LMs with a forward


def completion(model: str) -> Any:
    message = SimpleNamespace(content="an answer", tool_calls=None)
    choice = SimpleNamespace(message=message, finish_reason="stop")
    return SimpleNamespace(model=model, choices=[choice], usage={"prompt_tokens": 7, "completion_tokens": 2})


class ThreadsOnly:
    """An engine that only threads can use; its calls of one stage meet."""

    def __init__(self, together: int) -> None:
        self._meeting = threading.Barrier(together, timeout=10)

    def complete(self, request: Request) -> Response:
        self._meeting.wait()
        usage = Usage(input_tokens=7, output_tokens=2)
        text = Message.assistant(in_format(request))
        return Response(id=None, model=request.model, message=text, finish_reason="stop", usage=usage)


class ForwardOnly(dspy.BaseLM):
    """What DSPy has told people to write: ``forward``, and a state of one's own."""

    def __init__(self, **options: Any) -> None:
        super().__init__("own/forward", cache=False, **options)
        self.calls = 0

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        self.calls += 1
        return completion(self.model)


class Both(ForwardOnly):
    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return self.forward(prompt, messages, **kwargs)


class OnTop(ScriptedLM):
    """A subclass of ``dspy.LM`` that counts its calls."""

    calls = 0

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return await super().acall(*args, **kwargs)


def test_an_engine_without_an_async_counterpart_is_called_in_threads() -> None:
    lms = [dspy.LM(f"own/{i}", engine=ThreadsOnly(together=1), cache=False) for i in range(2)]
    trace = AttentionMoA(SIGNATURE, lms, layers=2)(question="?").trace
    assert {step.status for step in trace.steps} == {"ok"}
    assert trace.tokens.total == 9 * trace.calls


def test_calls_in_threads_are_under_way_together() -> None:
    engine = ThreadsOnly(together=3)
    lms = [dspy.LM(f"own/{i}", engine=engine, cache=False) for i in range(3)]
    moa = AttentionMoA(SIGNATURE, lms, layers=1, attention="none", aggregation="vote")
    assert moa(question="?").answer == "an answer"


@pytest.mark.parametrize("kind", [ForwardOnly, Both])
def test_a_model_with_a_forward_of_its_own_works_and_keeps_its_state(kind: type[ForwardOnly]) -> None:
    lm = kind()
    trace = AttentionMoA(SIGNATURE, [lm, lm], layers=1)(question="?").trace
    assert {step.status for step in trace.steps} == {"ok"}
    assert lm.calls == trace.calls == 9
    assert trace.tokens.total == 9 * 9
    assert len(lm.history) == 9


def test_a_forward_on_top_of_dspys_own_is_not_passed_over() -> None:
    class Shouting(dspy.LM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return completion(self.model)

    lm = Shouting("own/shouting", cache=False)
    moa = AttentionMoA(SIGNATURE, [lm], layers=1, attention="none", aggregation="none")
    assert moa(question="?").answer == "an answer"


def test_what_a_subclass_notes_down_in_a_call_is_there_afterwards() -> None:
    lm = OnTop(in_format)
    trace = AttentionMoA(SIGNATURE, [lm, lm], layers=2)(question="?").trace
    assert lm.calls == trace.calls == len(lm.requests)


def test_a_models_own_retries_are_left_as_they_are_and_not_used() -> None:
    failures = iter([ServerError("busy", retry_after=0.0)] * 2)

    def reply(request: Request) -> str:
        for failure in failures:
            raise failure
        return in_format(request)

    lm = OnTop(reply, num_retries=5)
    moa = AttentionMoA(SIGNATURE, [lm], layers=1, attention="none", aggregation="none", tolerance=Tolerance(retries=2))
    trace = moa(question="?").trace
    assert (trace.calls, lm.calls, lm.num_retries) == (3, 3, 5)
    assert [failure.kind for failure in trace.steps[0].failures] == ["server", "server"]


class Aside(dspy.BaseLM):
    """Answers in an ``acall`` of its own, of which DSPy hears nothing."""

    def __init__(self, reply: str) -> None:
        super().__init__("own/aside")
        self.reply, self.calls = reply, 0

    async def acall(self, *args: Any, **kwargs: Any) -> list[str]:
        self.calls += 1
        await asyncio.sleep(0.01)
        return [self.reply]


def test_a_call_of_which_dspy_hears_nothing_is_counted_and_estimated() -> None:
    lm = Aside("an answer")
    moa = AttentionMoA(SIGNATURE, [lm] * 3, layers=1)
    trace = moa(question="?", budget=Budget(calls=3)).trace
    assert lm.calls == trace.calls == 3
    assert trace.cached_calls == 0
    assert all(step.estimated and step.cost_usd is None for step in trace.steps if step.calls)


def test_an_unusable_reply_of_such_a_model_is_not_drawn_again() -> None:
    lm = Aside("   ")
    moa = AttentionMoA(SIGNATURE, [lm], layers=1, attention="none", aggregation="none")
    with pytest.raises(AllProposalsFailedError):
        moa(question="?", budget=Budget(calls=3))
    assert lm.calls <= 3


COLD = """
import asyncio, sys, time
import dspy
from moa_dspy import AttentionMoA, Budget

class Aside(dspy.BaseLM):
    async def acall(self, *args, **kwargs):
        await asyncio.sleep(0.05)
        return ["an answer"]

moa = AttentionMoA("question -> answer", [Aside("own/aside")], layers=1, attention="none", aggregation="none")
assert "litellm" not in sys.modules
began = time.perf_counter()
moa(question="?", budget=Budget(**{limits}))
print(time.perf_counter() - began)
"""


@pytest.mark.parametrize("limits", [{"seconds": 3}, {"seconds": 3, "tokens": 100_000}])
@pytest.mark.slow
def test_what_is_only_bookkeeping_takes_no_time_of_the_run(limits: dict[str, Any]) -> None:
    code = COLD.replace("{limits}", repr(limits))
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 3


def test_an_image_is_not_estimated_as_the_text_that_it_is_sent_as() -> None:
    picture = dspy.Image("data:image/png;base64," + "A" * 100_000)
    moa = AttentionMoA(
        "image: dspy.Image -> answer", [Aside("an answer")], layers=1, attention="none", aggregation="none"
    )
    assert moa(image=picture).trace.tokens.prompt < 1500


def test_a_run_without_an_answer_always_says_why() -> None:
    moa = AttentionMoA(SIGNATURE, [Aside("an answer")], layers=1, attention="none", aggregation="none")
    with pytest.raises(AllProposalsFailedError, match="budget: "):
        moa(question="?", budget=Budget(seconds=1e-6, tokens=100_000))


class Hanging(ForwardOnly):
    """Every call lasts until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.under_way = self.peak = 0
        self._lock = threading.Lock()

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        with self._lock:
            self.under_way += 1
            self.peak = max(self.peak, self.under_way)
        self.go.wait(30)
        with self._lock:
            self.under_way -= 1
        return super().forward(prompt, messages, **kwargs)


def test_calls_that_hang_in_threads_take_no_other_model_along() -> None:
    lm = Hanging()
    try:
        hanging = AttentionMoA(
            SIGNATURE, [lm] * 12, layers=1, attention="none", tolerance=Tolerance(timeout=0.3, retries=0)
        )
        with pytest.raises(AllProposalsFailedError):
            hanging(question="?")
        assert lm.under_way == 12
        healthy = AttentionMoA(
            SIGNATURE, [ScriptedLM(in_format)] * 2, layers=1, tolerance=Tolerance(timeout=3, retries=0)
        )
        assert {step.status for step in healthy(question="?").trace.steps} == {"ok"}
    finally:
        lm.go.set()


@pytest.mark.slow
def test_a_call_in_a_thread_keeps_its_place_until_the_thread_ends() -> None:
    lm = Hanging()
    lm.model = "own/limited"
    limit_concurrency(1, model=lm.model)
    try:
        moa = AttentionMoA(SIGNATURE, [lm] * 4, layers=1, attention="none", tolerance=Tolerance(timeout=0.2, retries=0))
        with pytest.raises(AllProposalsFailedError):
            moa(question="?", budget=Budget(seconds=2))
        assert lm.peak == 1
    finally:
        lm.go.set()
        limit_concurrency(None, model=lm.model)


class Free(Aside):
    engine = SimpleNamespace(free=True)

    async def acall(self, *args: Any, **kwargs: Any) -> list[str]:
        await asyncio.sleep(5)
        return [self.reply]


def test_a_free_call_that_is_cut_short_may_not_be_billed() -> None:
    moa = AttentionMoA(
        SIGNATURE, [ScriptedLM("an answer"), Free("late")], layers=1, attention="none", aggregation="vote",
        tolerance=Tolerance(quorum=1, grace=0.0),
    )  # fmt: skip
    trace = moa(question="?").trace
    assert sum(step.calls for step in trace.steps) == 2
    assert trace.total.usage.unanswered == 0


def test_an_input_that_dspy_takes_for_its_own_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="completions"):
        AttentionMoA("completions -> answer", [ScriptedLM("an answer")], layers=1)


class Slotted(Aside):
    __slots__ = ("token",)

    def __init__(self) -> None:
        super().__init__("an answer")
        self.token = "secret"

    async def acall(self, *args: Any, **kwargs: Any) -> list[str]:
        return [self.token, self.copy(num_retries=2).reply][1:]


def test_a_model_may_keep_its_state_in_slots_and_copy_itself() -> None:
    moa = AttentionMoA(SIGNATURE, [Slotted()], layers=1, attention="none", aggregation="none")
    assert moa(question="?").answer == "an answer"


class Tagged(ScriptedLM):
    """A base class whose subclasses have to say something; see case O5."""

    kinds: ClassVar[list[str]] = []

    def __init_subclass__(cls, *, tag: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        Tagged.kinds.append(tag)


class Mine(Tagged, tag="mine"):
    pass


def test_no_class_is_made_of_a_users_class() -> None:
    trace = AttentionMoA(SIGNATURE, [Mine(in_format), Mine(in_format)], layers=1)(question="?").trace
    assert {step.status for step in trace.steps} == {"ok"}
    assert Tagged.kinds == ["mine"]


class Mistaken(ForwardOnly):
    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return self.no_such_method(messages)  # type: ignore[attr-defined]


class MistakenToo(ScriptedLM):
    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        return len(5)  # type: ignore[arg-type]


def mistaken(request: Request) -> str:
    return request.no_such_field  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("lm", "error"),
    [(Mistaken(), AttributeError), (MistakenToo("x"), TypeError), (ScriptedLM(mistaken), AttributeError)],
)
def test_a_programming_error_in_a_users_model_is_raised_as_such(lm: dspy.BaseLM, error: type[Exception]) -> None:
    moa = AttentionMoA(SIGNATURE, [ScriptedLM(in_format), lm], layers=1)
    with pytest.raises(error):
        moa(question="?")


def test_a_model_is_seen_as_what_it_is() -> None:
    seen = list[Any]()

    class Looking(dspy.ChatAdapter):
        async def acall(self, lm: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append((isinstance(lm, OnTop), isinstance(lm, dspy.LM), lm.model, lm.num_retries, lm.calls))
            return await super().acall(lm, *args, **kwargs)

    lm = OnTop("[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]", num_retries=4)
    moa = AttentionMoA(SIGNATURE, [lm], layers=1, attention="none", aggregation="none")
    with dspy.context(adapter=Looking(use_json_adapter_fallback=False)):
        moa(question="?")
    assert seen == [(True, True, "scripted/model", 0, 0)]
    assert lm.num_retries == 4


def test_dspys_own_dummy_works() -> None:
    lm = dspy.utils.DummyLM([{"answer": "42"}] * 9)
    moa = AttentionMoA("question -> answer: int", [lm], layers=1, attention="none", aggregation="none", reasoning=False)
    assert moa(question="?").answer == 42
