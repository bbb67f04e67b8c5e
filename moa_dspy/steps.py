"""One step: one predictor asked once, with everything about it written down.

A step that fails does not raise. It becomes a failed ``Step`` in the record and ``None`` for those that wait for it, so
that no error text can reach a prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import dspy
from dspy.adapters.decision import record_evidence
from dspy.clients.call_result import usage_dict
from dspy.lm15 import Response
from dspy.utils.exceptions import AdapterParseError, is_retryable_lm_error
from dspy.utils.usage_tracker import UsageTracker
from pydantic_core import to_jsonable_python

from moa_dspy.adapters import adapters_for
from moa_dspy.agents import Voice
from moa_dspy.concurrency import admitted
from moa_dspy.errors import ConfigurationError, StepFailedError
from moa_dspy.events import StepStarted, emit
from moa_dspy.ledger import Ledger
from moa_dspy.limits import Tolerance
from moa_dspy.nearest import shown_demos
from moa_dspy.trace import STAGES, Failure, Stage, Status, Step, Tokens

__all__ = ["TRANSIENT", "Place", "Recorder", "Reply", "Session", "ask"]

# Kinds of failures after which another try may succeed, as DSPy's ``is_retryable_lm_error`` has them.
TRANSIENT: Final = frozenset({"rate_limit", "timeout", "server", "transport", "lock_timeout"})

# DSPy keeps the last 10,000 calls in every model and every predictor, prompts and replies included. A program that
# makes a hundred calls for each question would fill them all; what happened in a run is in its trace.
_HISTORY: Final = 1000


@dataclass(frozen=True)
class Place:
    """Where in a run a step stands; orders canonically."""

    layer: int
    stage: Stage
    agent: int
    agent_name: str
    target: int = -1
    target_name: str | None = None
    attempt: int = 0

    @property
    def final(self) -> bool:
        """Return whether the step writes a layer's answer."""
        return self.stage in ("aggregate", "synthesize")

    @property
    def order(self) -> tuple[int, int, int, int, int]:
        """Return the sort key of the canonical order: layer, stage, acting agent, target, attempt."""
        return (self.layer, STAGES.index(self.stage), self.agent, self.target, self.attempt)


class Recorder:
    """The record of one run, and what the run takes from the caller's DSPy settings.

    The settings are read once, here, at the edge; the steps get what they need explicitly.
    """

    def __init__(self) -> None:
        settings = dspy.settings
        self.ambient: dspy.BaseLM | None = settings.lm
        self.adapter: dspy.Adapter | None = settings.adapter
        self._tracker: UsageTracker | None = settings.usage_tracker
        self._callers: tuple[Any, ...] = tuple(settings.caller_modules or ())
        self._outer_trace: list[Any] | None = settings.trace
        self._max_trace: int = settings.max_trace_size
        self._max_history: int = min(settings.max_history_size, _HISTORY)
        self.sees_prices: bool = not settings.disable_history and settings.max_history_size != 0
        self._began = time.perf_counter()
        self._steps: list[tuple[Place, Step]] = []
        self._entries: list[tuple[Place, list[Any]]] = []

    def clock(self) -> float:
        """Return the seconds since the run began."""
        return time.perf_counter() - self._began

    def settings_for(self, place: Place, meter: _Meter, adapter: dspy.Adapter) -> dict[str, Any]:
        """Return the DSPy settings under which the step at ``place`` makes its call."""
        entries: list[Any] | None = None
        if self._outer_trace is not None:
            entries = []
            self._entries.append((place, entries))
        return {
            "adapter": adapter,
            "caller_modules": [*self._callers, meter],
            "max_history_size": self._max_history,
            "trace": entries,
            "usage_tracker": meter.tracker(self._tracker),
        }

    def add(self, place: Place, step: Step) -> None:
        """Write down a finished step."""
        self._steps.append((place, step))
        emit(step)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the steps so far, in canonical order."""
        return tuple(step for _, step in sorted(self._steps, key=lambda item: item[0].order))

    def publish_trace(self) -> None:
        """Append the run's entries to the caller's DSPy trace, in canonical order."""
        if self._outer_trace is None:
            return
        for _, entries in sorted(self._entries, key=lambda item: item[0].order):
            for entry in entries:
                if len(self._outer_trace) >= self._max_trace > 0:
                    self._outer_trace.pop(0)
                self._outer_trace.append(entry)


class _Meter(list[dict[str, Any]]):
    """Stands among DSPy's calling modules, and so sees the history entry of each LM call of a step.

    DSPy tells a usage tracker of every call that is billed, just before it writes the call's history entry; an entry
    without such notice was answered from the response cache and cost nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history = self
        self.billed: list[dict[str, Any]] = []
        self._costs: list[float | None] = []
        self._cached: list[dict[str, Any]] = []

    def append(self, entry: dict[str, Any]) -> None:
        """Take note of a call's price (called by DSPy)."""
        missing = len(self.billed) - len(self._costs)
        if missing:  # of a billed call that failed afterwards there is no history entry, and so no price
            self._costs += [None] * (missing - 1) + [entry["cost"]]
        else:
            self._cached.append(entry)

    def tracker(self, outer: UsageTracker | None) -> UsageTracker:
        """Return the usage tracker that goes with this meter and passes everything on to ``outer``."""
        return _Billing(self.billed, outer)

    @property
    def tokens(self) -> Tokens:
        """Return the billed tokens."""
        return self.spent_since(0)[0]

    def spent_since(self, calls: int) -> tuple[Tokens, float]:
        """Return tokens and known dollars of the billed calls after the first ``calls``."""
        tokens = sum((_tokens(usage) for usage in self.billed[calls:]), start=Tokens())
        return tokens, sum(cost or 0.0 for cost in self._costs[calls:])

    def cost(self, lm: dspy.BaseLM) -> float | None:
        """Return the dollars billed, or None where DSPy knows no price for one of the calls."""
        if getattr(getattr(lm, "engine", None), "free", False):
            return 0.0
        known = [cost for cost in self._costs if cost is not None]
        return float(sum(known)) if len(known) == len(self.billed) else None

    def saved(self, lm: dspy.BaseLM) -> tuple[Tokens, float | None]:
        """Return the tokens and dollars that the cached calls cost when they were made; None for an unknown price."""
        tokens = sum((_tokens_of_cached(entry, lm.model) for entry in self._cached), start=Tokens())
        costs = [entry["cost"] for entry in self._cached]
        if getattr(getattr(lm, "engine", None), "free", False):
            return tokens, 0.0
        return tokens, None if None in costs else float(sum(costs))


class _Billing(UsageTracker):
    """Hears of every billed call (DSPy leaves out cached ones) and passes it on to the caller's tracker."""

    def __init__(self, billed: list[dict[str, Any]], outer: UsageTracker | None) -> None:
        super().__init__()
        self._billed = billed
        self._outer = outer

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        self._billed.append(usage_entry)
        if self._outer is not None:
            self._outer.add_usage(lm, usage_entry)


@dataclass(frozen=True)
class Session:
    """What the steps of one run share.

    Attributes:
        recorder: the run's record.
        ledger: what it has spent.
        tolerance: what it puts up with.
    """

    recorder: Recorder
    ledger: Ledger
    tolerance: Tolerance

    def __post_init__(self) -> None:
        if self.ledger.budget.usd is not None and not self.recorder.sees_prices:
            raise ConfigurationError(
                "a budget in dollars needs DSPy's history, which holds the prices; leave disable_history off and "
                "max_history_size above 0, or limit calls, tokens or seconds instead"
            )


@dataclass(frozen=True)
class Reply:
    """What came of a step: what was written, by output field, or why nothing was."""

    outputs: dict[str, Any] | None
    failure: Failure | None = None


async def ask(
    session: Session,
    place: Place,
    predictor: dspy.Predict,
    voice: Voice,
    inputs: Mapping[str, Any],
    text_of: Callable[[Mapping[str, Any]], str],
) -> Reply:
    """Ask ``voice`` what ``predictor`` asks, and record the step.

    Args:
        session: what the run's steps share.
        place: where the step stands in the run.
        predictor: the role's predictor; its own ``lm`` is not used.
        voice: the agent that answers.
        inputs: the role's input fields.
        text_of: makes of the outputs what other agents read.

    Raises:
        StepFailedError: the step failed, and the run is strict.
        ConfigurationError: the agent has no model.
    """
    call = _Call(session, place, predictor, voice, inputs)
    emit(StepStarted(place.layer, place.stage, place.agent_name, place.target_name))
    try:
        await call.make()
    except asyncio.CancelledError:
        call.failure = Failure(kind="cancelled", message="the run went on, or ended, without waiting for this step")
        raise
    finally:
        session.recorder.add(place, call.step(text_of))
    if call.failure is not None and session.tolerance.strict and call.failure.kind != "budget":
        raise StepFailedError(place.stage, place.agent_name, call.failure.kind, call.failure.message)
    return Reply(call.outputs, call.failure)


class _Call:
    """A step under way: its attempts, and what they cost."""

    def __init__(
        self, session: Session, place: Place, predictor: dspy.Predict, voice: Voice, inputs: Mapping[str, Any]
    ) -> None:
        self.outputs: dict[str, Any] | None = None
        self.failure: Failure | None = None
        self._session, self._place, self._predictor, self._inputs = session, place, predictor, inputs
        self._lm = voice.lm()
        self._config = voice.config(
            self._lm, predictor.lm or session.recorder.ambient, place.target if place.stage == "critique" else None
        )
        declared: Any = predictor.signature
        self._signature = _with_persona(declared, voice.agent.persona)
        self._meter = _Meter()
        self._counted_lm = _with_acall(self._lm, self._request)
        # Calls whose prompts begin alike: one agent's in one stage, but for its critique of itself.
        self._group = (session.recorder, place.layer, place.stage, place.agent, place.agent == place.target)
        self._probabilities: dict[str, float] = {}
        self._calls = self._cached_calls = 0
        self._queued = 0.0
        self._start = session.recorder.clock()

    async def make(self) -> None:
        """Try until there is an answer, or no further try is allowed."""
        for adapter in adapters_for(self._signature, self._lm, self._session.recorder.adapter):
            try:
                await self._with_retries(adapter)
            except AdapterParseError as error:
                self.failure = _failure(error)
            else:
                return

    async def _with_retries(self, adapter: dspy.Adapter) -> None:
        allowed = self._session.tolerance.retries
        retries = int(getattr(self._lm, "num_retries", 0)) if allowed is None else allowed
        for attempt in range(retries + 1):
            try:
                self.outputs = await self._attempt(adapter)
            except (AdapterParseError, ConfigurationError):
                raise
            except _OutOfBudgetError as error:
                self.failure = self.failure or Failure(kind="budget", message=str(error))
                return
            except Exception as error:  # noqa: BLE001 (a model is an outside party: whatever it raises is its failure)
                self.failure = _failure(error)
                delay = self._delay(error, attempt)
                if attempt == retries or delay is None:
                    return
                await asyncio.sleep(delay)
            else:
                self.failure = None
                return

    async def _attempt(self, adapter: dspy.Adapter) -> dict[str, Any]:
        demos = await shown_demos(self._predictor, self._inputs)
        with (
            dspy.context(**self._session.recorder.settings_for(self._place, self._meter, adapter)),
            _probabilities_into(self._probabilities) if self._predictor.fields else contextlib.nullcontext(),
        ):
            prediction = await self._predictor.acall(
                lm=self._counted_lm, signature=self._signature, config=self._config, demos=demos, **self._inputs
            )
        return dict(prediction)

    async def _request(self, send: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        """Send one request to the model when its turn has come; each one is counted, whichever adapter makes it."""
        ledger, clock = self._session.ledger, self._session.recorder.clock
        if not ledger.reserve(final=self._place.final):
            raise _OutOfBudgetError("the budget allows no further call")
        billed, waiting, sent, answered = len(self._meter.billed), clock(), None, None
        whole = asyncio.timeout(_finite(ledger.seconds_left(final=True)))
        try:
            async with whole, admitted(self._lm.model, self._group):
                sent = clock()
                async with asyncio.timeout(self._session.tolerance.timeout):
                    reply = await send(*args, **options)
                answered = clock()
        except TimeoutError:
            if whole.expired():
                ledger.refused = True
                raise _OutOfBudgetError("the budget's time was over before the reply came") from None
            raise
        finally:
            self._queued += (clock() if sent is None else sent) - waiting
            cached = answered is not None and len(self._meter.billed) == billed
            self._calls += sent is not None
            self._cached_calls += cached
            took = None if sent is None or answered is None else answered - sent
            ledger.book(*self._meter.spent_since(billed), took, unpaid=cached or sent is None)
        return reply

    def _delay(self, error: Exception, attempt: int) -> float | None:
        """Seconds to wait before the next attempt; None where it would be no use, or too late."""
        if not (isinstance(error, TimeoutError) or is_retryable_lm_error(error)):
            return None
        hint = getattr(error, "retry_after", None)
        delay = float(hint) if hint is not None else min(0.5 * 2**attempt, 30.0)
        if delay >= self._session.ledger.seconds_left(final=self._place.final):
            self._session.ledger.refused = True
            return None
        return delay if delay <= self._session.tolerance.patience else None

    def step(self, text_of: Callable[[Mapping[str, Any]], str]) -> Step:
        """Return the record of the step."""
        place, outputs, meter = self._place, self.outputs, self._meter
        saved_tokens, saved_usd = meter.saved(self._lm)
        return Step(
            layer=place.layer,
            stage=place.stage,
            agent=place.agent_name,
            target=place.target_name,
            model=self._lm.model,
            status=_status(self.failure, self._calls),
            text="" if outputs is None else text_of(outputs),
            outputs={} if outputs is None else to_jsonable_python(outputs, fallback=str),
            probabilities={} if outputs is None else dict(self._probabilities),
            calls=self._calls,
            cached_calls=self._cached_calls,
            cached=0 < self._calls == self._cached_calls,
            tokens=meter.tokens,
            cost_usd=meter.cost(self._lm),
            saved_tokens=saved_tokens,
            saved_usd=saved_usd,
            start=self._start,
            queued=self._queued,
            end=self._session.recorder.clock(),
            error=self.failure,
        )


@contextlib.contextmanager
def _probabilities_into(found: dict[str, float]) -> Iterator[None]:
    """Note the probabilities by which DSPy decides the graded yes-or-no outputs of a call, by output field.

    A collector around this one (ReAnchor's) still hears of all evidence.
    """
    outer = dspy.settings.get("_decision_evidence")
    with record_evidence() as evidence:
        yield
    found.update({name: float(values["noul"]) for _, name, values in evidence if "noul" in values})
    if outer is not None:
        log, lock = outer
        with lock:
            log.extend(evidence)


class _OutOfBudgetError(Exception):
    """A request was not sent, or was given up, because the budget is spent."""


def _status(failure: Failure | None, calls: int) -> Status:
    if failure is None:
        return "ok"
    if failure.kind == "budget" and not calls:
        return "skipped"
    return "cancelled" if failure.kind in ("cancelled", "budget") else "failed"


def _with_acall(lm: dspy.BaseLM, request: Callable[..., Awaitable[Any]]) -> dspy.BaseLM:
    """The LM, whose every ``acall`` goes through ``request`` and is tried once.

    Retries are made, and counted, by the step: so they stop where the budget or the deadline says so. History and
    callbacks stay those of the user's LM.
    """
    counted: Any = lm.copy(num_retries=0) if hasattr(lm, "num_retries") else lm.copy()
    counted.history, counted.callbacks = lm.history, lm.callbacks
    counted._warned_zero_temp_rollout = True  # at temperature 0 a rollout still keeps equal requests apart in the cache
    itself = weakref.ref(counted)  # no cycle: hundreds of these come and go with every run

    async def send(*args: Any, **options: Any) -> Any:
        return await type(lm).acall(cast("dspy.BaseLM", itself()), *args, **options)

    counted.acall = functools.partial(request, vars(lm).get("acall", send))
    return counted


def _finite(seconds: float) -> float | None:
    return None if seconds == math.inf else max(seconds, 0.0)


@functools.lru_cache(maxsize=256)
def _with_persona(signature: Any, persona: str | None) -> Any:
    if persona is None:
        return signature
    return signature.with_instructions(f"{persona.strip()}\n\n{signature.instructions}")


def _failure(error: Exception) -> Failure:
    if isinstance(error, TimeoutError):
        return Failure(kind="timeout", message="no reply in time")
    kind = getattr(error, "code", None) or type(error).__name__
    message = " ".join(str(error).split())
    return Failure(kind=str(kind), message=message[:500])


def _tokens(usage: Mapping[str, Any]) -> Tokens:
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return Tokens(
        prompt=usage.get("prompt_tokens") or 0, cached=cached or 0, completion=usage.get("completion_tokens") or 0
    )


def _tokens_of_cached(entry: Mapping[str, Any], model: str) -> Tokens:
    """What a cached call used when it was made; a guess of four letters a token where its cache entry does not say."""
    responses = entry["response"] if isinstance(entry["response"], tuple) else (entry["response"],)
    if all(isinstance(response, Response) for response in responses):
        provider = model.partition("/")[0]
        return sum((_tokens(usage_dict(response, provider)) for response in responses), start=Tokens())
    letters = sum(len(str(message.get("content"))) for message in entry.get("messages") or ())
    return Tokens(prompt=letters // 4, completion=len(str(entry["outputs"])) // 4)
