"""One step: one predictor asked once, with everything about it written down.

A step that fails does not raise. It becomes a failed ``Step`` in the record and ``None`` for those that wait for it, so
that no error text can reach a prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dspy
from dspy.adapters.decision import record_evidence
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.usage_tracker import UsageTracker
from pydantic_core import to_jsonable_python

from moa_dspy.agents import Voice
from moa_dspy.cost.guard import Ledger
from moa_dspy.cost.metering import Meter, estimated_usage, is_free
from moa_dspy.errors import ConfigurationError, StepFailedError
from moa_dspy.events import StepStarted, emit
from moa_dspy.run.adapters import adapters_for
from moa_dspy.run.concurrency import admitted
from moa_dspy.run.failures import REFUSED, failure_of, is_transient, is_unanswered
from moa_dspy.run.knn_demos import shown_demos
from moa_dspy.run.lm_proxy import Send, view_of
from moa_dspy.run.reading import Text, is_visible, prompt_in, refuse_endless_repair, texts_in, unusable
from moa_dspy.run.tolerance import Tolerance
from moa_dspy.trace import STAGES, Failure, Stage, Status, Step

__all__ = ["Place", "Prompt", "Recorder", "Reply", "Session", "ask", "written"]

# DSPy keeps the last 10,000 calls in every model and every predictor, prompts and replies included. A program that
# makes a hundred calls for each question would fill them all; what happened in a run is in its trace.
_HISTORY: Final = 1000
# How often another reply is drawn where the response cache holds useless ones only.
_REDRAWS: Final = 5


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

    @property
    def lms_of_adapter(self) -> list[dspy.BaseLM]:
        """Return the LMs that the configured adapter asks besides the agents'."""
        return [self.adapter.extraction_model] if isinstance(self.adapter, dspy.TwoStepAdapter) else []

    def clock(self) -> float:
        """Return the seconds since the run began."""
        return time.perf_counter() - self._began

    def settings_for(self, place: Place, meter: Meter, adapter: dspy.Adapter) -> dict[str, Any]:
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


@dataclass(frozen=True)
class Session:
    """What the steps of one run share.

    Attributes:
        recorder: the run's record.
        ledger: what it has spent.
        tolerance: what it puts up with.
        refused: the LMs whose key or account the provider has refused, by identity; they are not asked again.
    """

    recorder: Recorder
    ledger: Ledger
    tolerance: Tolerance
    refused: dict[int, Failure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ledger.budget.usd is not None and not self.recorder.sees_prices:
            raise ConfigurationError(
                "a budget in dollars needs DSPy's history, which holds the prices; leave disable_history off and "
                "max_history_size above 0, or limit calls, tokens or seconds instead"
            )


@dataclass(frozen=True)
class Prompt:
    """What a step would send first.

    Attributes:
        lm: to whom.
        messages: in DSPy's form.
        longest: the most tokens that the model may write; None where nobody says.
    """

    lm: dspy.BaseLM
    messages: list[dict[str, Any]]
    longest: int | None


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
    call = _Call(session, place, predictor, voice, inputs, text_of)
    emit(StepStarted(place.layer, place.stage, place.agent_name, place.target_name))
    try:
        await call.make()
    except asyncio.CancelledError as error:
        call.fail(Failure(kind="cancelled", message=str(error) or "the run ended without waiting for this step"))
        raise
    finally:
        session.recorder.add(place, call.step())
    if call.failure is not None and session.tolerance.strict and call.failure.kind != "budget":
        raise StepFailedError(place.stage, place.agent_name, call.failure.kind, call.failure.message)
    return Reply(call.outputs, call.failure)


async def written(
    session: Session, place: Place, predictor: dspy.Predict, voice: Voice, inputs: Mapping[str, Any]
) -> Prompt:
    """Return what ``ask`` would send first, without sending it; no message where it cannot be written."""
    return await _Call(session, place, predictor, voice, inputs, str).prompt()


class _Call:
    """A step under way: its attempts, and what they cost."""

    def __init__(
        self,
        session: Session,
        place: Place,
        predictor: dspy.Predict,
        voice: Voice,
        inputs: Mapping[str, Any],
        text_of: Callable[[Mapping[str, Any]], str],
    ) -> None:
        self.outputs: dict[str, Any] | None = None
        self.failure: Failure | None = None
        self._session, self._place, self._predictor, self._inputs = session, place, predictor, inputs
        self._text_of = text_of
        self._lm = voice.lm()
        self._config = voice.config(
            self._lm, predictor.lm or session.recorder.ambient, place.target_name if place.stage == "critique" else None
        )
        declared: Any = predictor.signature
        self._signature = _with_persona(declared, voice.agent.persona)
        self._meter = Meter()
        # Calls whose prompts begin alike: one agent's in one stage, but for its critique of itself.
        self._group = (session.recorder, place.layer, place.stage, place.agent, place.agent == place.target)
        self._probabilities: dict[str, float] = {}
        self._failures: list[Failure] = []
        self._calls = self._cached_calls = self._unanswered = 0
        self._queued = 0.0
        self._start = session.recorder.clock()

    async def prompt(self) -> Prompt:
        """Write the first request."""
        adapter = adapters_for(self._signature, self._lm, self._session.recorder.adapter)[0]
        options = {**getattr(self._lm, "kwargs", {}), **self._config}
        limits = [options[name] for name in ("max_tokens", "max_completion_tokens") if options.get(name) is not None]
        messages: list[dict[str, Any]] = []
        # Whatever keeps an adapter from writing a prompt, it is the step that fails of it, and says so.
        with contextlib.suppress(Exception), dspy.context(callbacks=[]):
            demos = await shown_demos(self._predictor, self._inputs)
            signature: Any = adapter._call_preprocess(self._lm, dict(self._config), self._signature, dict(self._inputs))
            messages = adapter.format(signature, demos, dict(self._inputs))
        return Prompt(self._lm, messages, min(limits, default=None))

    async def make(self) -> None:
        """Try until there is an answer, or no further try is allowed."""
        for adapter in adapters_for(self._signature, self._lm, self._session.recorder.adapter):
            try:
                await self._with_retries(adapter)
            except AdapterParseError as error:
                self.fail(failure_of(error))
            else:
                return

    def fail(self, failure: Failure) -> None:
        """Note down that a try has failed."""
        self._failures.append(failure)
        self.failure = failure

    async def _with_retries(self, adapter: dspy.Adapter) -> None:
        allowed = self._session.tolerance.retries
        retries = int(getattr(self._lm, "num_retries", 0)) if allowed is None else allowed
        for attempt in range(retries + 1):
            try:
                self.outputs = await self._attempt(adapter)
            except (AdapterParseError, ConfigurationError):
                raise
            except _NotAskedError as error:
                self.failure = self.failure or error.failure
                return
            except Exception as error:  # noqa: BLE001 (a model is an outside party: whatever it raises is its failure)
                self.fail(failure_of(error))
                delay = self._delay(attempt) if attempt < retries and is_transient(error) else None
                if delay is None:
                    return
                await asyncio.sleep(delay)
            else:
                self.failure = None
                return

    async def _attempt(self, adapter: dspy.Adapter) -> dict[str, Any]:
        """Ask once; again where what the response cache holds is of no use, since it would never be of any."""
        draw = 0
        while True:
            paid = self._calls - self._cached_calls
            try:
                return await self._asked(adapter, draw)
            except AdapterParseError:
                if draw == _REDRAWS or self._calls - self._cached_calls > paid:
                    raise
            draw += 1

    async def _asked(self, adapter: dspy.Adapter, draw: int) -> dict[str, Any]:
        demos = await shown_demos(self._predictor, self._inputs)
        config = self._config if not draw else {**self._config, "rollout_id": _redrawn(self._config, draw)}
        before = self._calls
        through = functools.partial(self._request, lambda text: self._check(adapter, text, self._calls - before <= 1))
        settings = self._session.recorder.settings_for(self._place, self._meter, _counted(adapter, through))
        with (
            dspy.context(**settings),
            _probabilities_into(self._probabilities) if self._predictor.fields else contextlib.nullcontext(),
        ):
            prediction = await self._predictor.acall(
                lm=view_of(self._lm, through), signature=self._signature, config=config, demos=demos, **self._inputs
            )
        outputs = dict(prediction)
        text = self._text_of(outputs)
        if not is_visible(text):
            raise unusable(adapter, self._signature, text, "there is nothing in it that can be seen")
        return outputs

    def _check(self, adapter: dspy.Adapter, text: str, first: bool) -> None:
        refuse_endless_repair(adapter, self._signature, text, first=first)

    async def _request(
        self, check: Callable[[str], None], lm: dspy.BaseLM, send: Send, *args: Any, **options: Any
    ) -> Any:
        """Send one request to ``lm`` when its turn has come; each one is counted, whichever adapter makes it."""
        ledger, clock, meter = self._session.ledger, self._session.recorder.clock, self._meter
        self._may_be_asked(lm)
        before, waiting, sent, answered, reply = (meter.calls, meter.cached), clock(), None, None, None
        whole = asyncio.timeout(_finite(ledger.seconds_left(self._place.stage)))
        try:
            async with whole, admitted(lm.model, self._group):
                sent = clock()
                async with asyncio.timeout(self._session.tolerance.timeout):
                    reply = await send(*args, **options)
                answered = clock()
        except BaseException as error:
            cut = sent is not None and answered is None and is_unanswered(error)
            self._unanswered += cut and not is_free(lm)
            if isinstance(error, TimeoutError) and whole.expired():
                ledger.refused = True
                raise _NotAskedError(_of_budget("the budget's time was over before the reply came")) from None
            self._note_refusal(lm, error)
            raise
        finally:
            self._queued += (clock() if sent is None else sent) - waiting
            self._calls += sent is not None
            took = None if sent is None or answered is None else answered - sent
            await self._book(before, lm, prompt_in(args, options), reply, took, unsent=sent is None)
        for text in texts_in(reply):
            check(text)
        return reply

    async def _book(
        self, before: tuple[int, int], lm: dspy.BaseLM, prompt: Text, reply: Any, took: float | None, *, unsent: bool
    ) -> None:
        """Enter what became of a request: a bill, an answer from the cache, or nothing.

        Args:
            before: the meter's billed and cached calls before it.
            lm: who was asked.
            prompt: what.
            reply: what it said.
            took: how many seconds; None where there was no answer.
            unsent: whether it was never asked.
        """
        meter, (billed, cached) = self._meter, before
        untold = meter.calls == billed
        from_cache = untold and meter.cached > cached
        self._cached_calls += from_cache
        if took is not None and untold and not from_cache:
            meter.bill_untold()
        meter.settle(billed, free=is_free(lm))
        try:
            if took is not None:
                await self._estimate(billed, lm, prompt, "".join(texts_in(reply)))
        finally:
            self._session.ledger.book(*meter.spent_since(billed), took, unpaid=from_cache or unsent)

    def _may_be_asked(self, lm: dspy.BaseLM) -> None:
        """Take a call from the budget, unless ``lm`` is out of this run."""
        refusal = self._session.refused.get(id(lm))
        if refusal is not None:
            raise _NotAskedError(refusal)
        if not self._session.ledger.reserve(self._place.stage):
            raise _NotAskedError(_of_budget("the budget allows no further call"))

    def _note_refusal(self, lm: dspy.BaseLM, error: BaseException) -> None:
        failure = failure_of(error) if isinstance(error, Exception) else None
        if failure is not None and failure.kind in REFUSED:
            message = f"not asked again, since it was refused before: {failure.message}"
            self._session.refused.setdefault(id(lm), failure.model_copy(update={"message": message}))

    async def _estimate(self, billed: int, lm: dspy.BaseLM, prompt: Text, text: str) -> None:
        """Estimate what a server does not say it used, and the price of that where the budget is in dollars."""
        if not text:
            return  # no completion, so most likely no bill
        priced = self._session.ledger.budget.usd is not None and self._meter.lacks_price(billed)
        if priced or self._meter.lacks_usage(billed):
            tokens, usd = await estimated_usage(lm, prompt, text, priced=priced)
            self._meter.estimate(billed, tokens, usd if priced else None)

    def _delay(self, attempt: int) -> float | None:
        """Seconds to wait before the next attempt; None where that would be too long, or too late."""
        hint = None if self.failure is None else self.failure.retry_after
        delay = min(0.5 * 2**attempt, 30.0) if hint is None else hint
        if delay > self._session.tolerance.patience:
            return None
        if delay >= self._session.ledger.seconds_left(self._place.stage):
            self._session.ledger.refused = True
            return None
        return delay

    def step(self) -> Step:
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
            text="" if outputs is None else self._text_of(outputs),
            outputs={} if outputs is None else to_jsonable_python(outputs, fallback=str),
            probabilities={} if outputs is None else dict(self._probabilities),
            calls=self._calls,
            cached_calls=self._cached_calls,
            cached=0 < self._calls == self._cached_calls,
            unanswered=self._unanswered,
            tokens=meter.tokens,
            cost_usd=meter.cost,
            estimated=meter.estimated,
            truncated=meter.truncated,
            saved_tokens=saved_tokens,
            saved_usd=saved_usd,
            start=self._start,
            queued=self._queued,
            end=self._session.recorder.clock(),
            failures=tuple(self._failures),
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


def _counted(adapter: dspy.Adapter, through: Callable[..., Any]) -> dspy.Adapter:
    """The adapter, whose own calls, if it makes any of another LM, go ``through`` as well."""
    if not isinstance(adapter, dspy.TwoStepAdapter):
        return adapter
    counted = copy.copy(adapter)
    counted.extraction_model = view_of(adapter.extraction_model, through)
    return counted


class _NotAskedError(Exception):
    """A request was not sent, or was given up, for a reason that is not the model's."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _of_budget(message: str) -> Failure:
    return Failure(kind="budget", message=message)


def _status(failure: Failure | None, calls: int) -> Status:
    if failure is None:
        return "ok"
    if failure.kind in REFUSED | {"budget"} and not calls:
        return "skipped"
    return "cancelled" if failure.kind in ("cancelled", "budget") else "failed"


def _redrawn(config: Mapping[str, Any], draw: int) -> int:
    """Another rollout, for a reply that the cache does not hold."""
    digest = hashlib.blake2b(repr((config.get("rollout_id"), "again", draw)).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")


def _finite(seconds: float) -> float | None:
    return None if seconds == math.inf else max(seconds, 0.0)


@functools.lru_cache(maxsize=256)
def _with_persona(signature: Any, persona: str | None) -> Any:
    if persona is None:
        return signature
    return signature.with_instructions(f"{persona.strip()}\n\n{signature.instructions}")
