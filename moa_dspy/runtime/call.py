"""One step of a run: call its predictor until it answers, and record everything.

A failed step does not raise. It is recorded as a failed ``Step``, and later steps get None from it, so no error text
reaches a prompt. A programming error in a user's LM is raised unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dspy
from dspy.utils.exceptions import AdapterParseError
from pydantic_core import to_jsonable_python

from moa_dspy._dspy import CALLERS, USAGE_TRACKER, decision_evidence, preprocess
from moa_dspy.agents import AgentSlot
from moa_dspy.batches.batcher import Sending, UndeliveredError, current_sending
from moa_dspy.cost.usage import Tokens, Usage
from moa_dspy.errors import BudgetInterruptError, ConfigurationError, StepFailedError
from moa_dspy.identity import rollout_of
from moa_dspy.runtime import accepted, concurrency
from moa_dspy.runtime.adapters import LENIENT, PlainTextAdapter, fields_in_tags, refuse_endless_repair
from moa_dspy.runtime.answer_line import NoValueError
from moa_dspy.runtime.answer_stream import (
    LastCall,
    ReplyReader,
    cannot_stream,
    current_answer,
    ignores_streaming,
    is_readable,
    note_reply,
)
from moa_dspy.runtime.event_loop import in_thread
from moa_dspy.runtime.failures import REFUSED, failure_of, is_transient, is_unanswered, programming_error, unfinished
from moa_dspy.runtime.forecast import Prompt
from moa_dspy.runtime.formats import default_adapters
from moa_dspy.runtime.knn_demos import shown_demos
from moa_dspy.runtime.lm_proxy import proxy_of
from moa_dspy.runtime.outputs import unusable
from moa_dspy.runtime.reading import any_visible, as_text, prompt_in, read, text_in, with_texts
from moa_dspy.runtime.session import RunLM, Session, StepId
from moa_dspy.runtime.shared_prefix import marked, shared_text
from moa_dspy.runtime.step_meter import StepMeter
from moa_dspy.runtime.step_span import in_span
from moa_dspy.trace import Failure, Status, Step, StepStarted

__all__ = ["Reply", "ask", "write_prompt"]

_NO_ANSWERS: Final = frozenset({"critique", "agree", "dissent"})  # stages that do not write the task's outputs
# How many replies are drawn again if the response cache holds only unusable ones.
_REDRAWS: Final = 5
_AT_ONCE: Final = contextlib.nullcontext()


@dataclass(frozen=True)
class Reply:
    """The result of a step.

    Attributes:
        outputs: by output field; None if the step failed.
        text: the text that other agents read.
        failed: the kind of failure of a failed step; empty if it succeeded.
    """

    outputs: dict[str, Any] | None
    text: str = ""
    failed: str = ""


async def ask(
    session: Session,
    step_id: StepId,
    predictor: dspy.Predict,
    agent: AgentSlot,
    inputs: Mapping[str, Any],
    last: LastCall | None = None,
) -> Reply:
    """Call the predictor of a role with an agent's LM, and record the step. The predictor's own ``lm`` is not used.

    ``last`` is given if the step writes the answer of the run, so that its text can be sent while it is written.

    Raises:
        StepFailedError: if the step failed and the run is strict.
    """
    call = _Call(session, step_id, predictor, agent, inputs, last)
    for watcher in session.watchers:
        watcher(StepStarted(step_id.layer, step_id.stage, step_id.agent_name, step_id.target_name))
    try:
        with _AT_ONCE if session.batcher is None else session.batcher.step():
            if session.spans:
                await in_span(step_id, call.run, lambda: call.outputs or call.failure)
            else:
                await call.run()
    except asyncio.CancelledError as error:
        call.fail(Failure(kind="cancelled", message=str(error) or "the run ended without waiting for this step"))
        raise
    except _UserError as wrapped:
        call.fail(failure_of(wrapped.error))
        raise wrapped.error from wrapped.error.__cause__
    finally:
        step = call.step()
        session.recorded.append((step_id, step))
        for watcher in session.watchers:
            watcher(step)
    if call.failure is not None and session.tolerance.strict and call.failure.kind != "budget":
        raise StepFailedError(step_id.stage, step_id.agent_name, call.failure.kind, call.failure.message)
    return Reply(call.outputs, call.text, "" if call.failure is None else call.failure.kind)


async def write_prompt(
    session: Session, step_id: StepId, predictor: dspy.Predict, agent: AgentSlot, inputs: Mapping[str, Any]
) -> Prompt:
    """Return the first request of ``ask`` without sending it. It has no messages if the adapter cannot write them."""
    return await _Call(session, step_id, predictor, agent, inputs).prompt()


class _Call:
    """A step in progress: its attempts and their usage."""

    def __init__(
        self,
        session: Session,
        step_id: StepId,
        predictor: dspy.Predict,
        agent: AgentSlot,
        inputs: Mapping[str, Any],
        last: LastCall | None = None,
    ) -> None:
        self.outputs: dict[str, Any] | None = None
        self.text = ""
        self.failure: Failure | None = None
        self._session, self._id, self._predictor, self._inputs, self._last = session, step_id, predictor, inputs, last
        self._lm = known = session.lms[id(agent)]
        target = step_id.target_name if step_id.stage == "critique" else None
        self._config = agent.config(known.lm, predictor.lm or session.ambient, target, known.server)
        signature: Any = predictor.signature  # declared as an instance, but it is a class
        self._signature: Any = _with_persona(signature, agent.agent.persona)
        self._adapters = session.reading or default_adapters(self._signature, known.enforces_schema)
        self._adapter: dspy.Adapter | None = None
        free = {known.lm.model, *session.free} if known.free else session.free
        self._meter = StepMeter(session.tracker, free=free)
        # Calls whose prompts begin alike: one agent's calls in one stage, except its critique of itself.
        self._group = (session, step_id.layer, step_id.stage, step_id.agent, step_id.agent == step_id.target)
        self._proxies: dict[int, dspy.BaseLM] = {}  # by the identity of the LM
        self._probabilities: dict[str, float] = {}  # that decide yes-or-no outputs, by output field
        self._failures: list[Failure] = []
        self._prompts: list[str] = []
        self._calls = self._unanswered = 0
        self._truncated = False  # whether the last reply ended at max_tokens
        self._cut_replies = 0  # those of all tries that did
        self._calls_before = 0  # of the current attempt
        self._adapts = False  # whether the same request, without what was just rejected, may succeed
        self._queued = 0.0
        self._start = session.clock() - session.began

    async def prompt(self) -> Prompt:
        """Return the first request."""
        adapter, lm = self._adapters[0], self._lm.lm
        options = {**getattr(lm, "kwargs", {}), **self._config}
        limits = [options[name] for name in ("max_tokens", "max_completion_tokens") if options.get(name) is not None]
        messages: list[dict[str, Any]] = []
        # If an adapter cannot write a prompt, the step itself fails and reports it.
        with contextlib.suppress(Exception), dspy.context(callbacks=[]):
            demos = await shown_demos(self._predictor, self._inputs)
            signature: Any = preprocess(adapter, lm, dict(self._config), self._signature, dict(self._inputs))
            messages = adapter.format(signature, demos, dict(self._inputs))
        return Prompt(lm, messages, min(limits, default=None))

    async def run(self) -> None:
        """Attempt until there is an answer or no further attempt is allowed.

        After a failed attempt: if the reply came from the response cache, draw another one. If it could not be parsed,
        try the next adapter. If the failure is transient, wait and retry. Otherwise stop.
        """
        retries = self._session.tolerance.retries
        if retries is None:
            retries = int(getattr(self._lm.lm, "num_retries", 0))
        adapters = iter(self._adapters)
        adapter: dspy.Adapter | None = next(adapters)
        retry = draw = 0
        while adapter is not None:
            paid = self._calls - self._meter.from_cache
            try:
                await self._attempt(adapter, draw)
            except ConfigurationError:
                raise
            except _NotSentError as error:
                self.failure = self.failure or error.failure
                return
            except AdapterParseError as error:
                second = error.second if isinstance(error, NoValueError) else None
                if second is None and draw < _REDRAWS and self._calls - self._meter.from_cache == paid:
                    draw += 1
                    continue
                failure = failure_of(error)
                if self._truncated:
                    message = f"the reply was cut at max_tokens; raise max_tokens: {failure.message}"
                    failure = failure.model_copy(update={"message": message})
                self.fail(failure)
                adapters = adapters if second is None else iter((second,))
                adapter, retry, draw = next(adapters, None), 0, 0
            except Exception as error:  # noqa: BLE001 (any error of a model or its adapter fails the step)
                self.fail(failure_of(error))
                if self._adapts:
                    continue
                delay = self._delay(retry) if retry < retries and is_transient(error) else None
                if delay is None:
                    return
                await asyncio.sleep(delay)
                # The cache may have kept an error that came as a successful response.
                retry, draw = retry + 1, draw + 1 if self._meter.response is not None else 0
            else:
                self.failure = None
                return

    def fail(self, failure: Failure) -> None:
        """Record a failed attempt."""
        self._failures.append(failure)
        self.failure = failure

    async def _attempt(self, adapter: dspy.Adapter, draw: int) -> None:
        """Call the predictor once. Its LM requests go through ``_request``."""
        predictor, session = self._predictor, self._session
        is_choosing = "nearest" in vars(predictor)
        demos = await shown_demos(predictor, self._inputs, self._embed) if is_choosing else list(predictor.demos)
        config = self._config
        if draw:  # the cache has no reply for another rollout
            config = {**config, "rollout_id": rollout_of(config.get("rollout_id"), "again", draw)}
        self._adapter, self._calls_before, self._adapts = adapter, self._calls, False
        entries: list[Any] | None = None
        if session.traces is not None:
            entries = []
            session.traces.append((self._id, entries))
        with (
            dspy.context(
                adapter=self._counted(adapter),
                max_history_size=session.max_history,
                send_stream=None,
                trace=entries,
                **{CALLERS: [*session.callers, self._meter], USAGE_TRACKER: self._meter},
            ),
            decision_evidence() if predictor.fields else contextlib.nullcontext(()) as evidence,
        ):
            proxy = self._proxy(self._lm)
            prediction = await predictor.acall(
                lm=proxy, signature=self._signature, config=config, demos=demos, **self._inputs
            )
        self._probabilities |= {name: float(found["noul"]) for _, name, found in evidence if "noul" in found}
        outputs, roles, stage = dict(prediction), session.parts.roles, self._id.stage
        ours = [name for name in outputs if name in roles.names.values()]  # and not a reasoning that a user has added
        wanted = ours if stage in _NO_ANSWERS else roles.voted
        if not isinstance(adapter, PlainTextAdapter) and not any_visible(outputs, wanted):
            raise unusable(
                type(adapter).__name__, self._signature, str(outputs), "there is nothing in it that can be seen"
            )
        only = next(iter(outputs.values())) if len(outputs) == 1 else None
        if isinstance(only, str):
            self.text = only
        elif stage in _NO_ANSWERS:
            self.text = str(outputs[wanted[0]] if stage == "critique" else outputs)
        else:
            self.text = roles.answer_text(outputs)
        self.outputs = outputs

    async def _embed(self, model: str, texts: Sequence[str]) -> Any:
        """Return the vectors of texts by an embedding model. Its requests count as those of this step."""

        async def request(embedder: Any, batch: Sequence[str]) -> Any:
            return await self._request(self._session.lm(embedder), embedder, batch, meter=self._meter)

        return await self._session.embeddings.of(model, texts, request)

    def _counted(self, adapter: dspy.Adapter) -> dspy.Adapter:
        """Return the adapter. If it calls an LM of its own, count that LM's requests, too."""
        if not self._session.extractors:
            return adapter
        counted: Any = copy.copy(adapter)
        counted.extraction_model = self._proxy(self._session.lm(self._session.extractors[0]))
        return counted

    def _proxy(self, known: RunLM) -> dspy.BaseLM:
        proxy = self._proxies[id(known.lm)] = proxy_of(known.lm, functools.partial(self._request, known))
        return proxy

    async def _request(self, known: RunLM, lm: dspy.BaseLM, *args: Any, **options: Any) -> Any:
        """Admit, send, meter and check one request. Every request is counted, whichever adapter makes it."""
        session = self._session
        budget, clock = session.budget, session.clock
        if known.refused is not None:
            raise _NotSentError(known.refused)
        if budget.limited and not budget.reserve(self._id.stage):
            raise _NotSentError(Failure(kind="budget", message="the budget allows no further call"))
        waiting, sent, answered, reply, unanswered, sending = clock(), None, None, None, False, None
        whole = budget.timeout(self._id.stage) if budget.limited else asyncio.timeout(None)
        timeout = session.tolerance.timeout
        call = Sending(options.get("rollout_id"), timeout)
        turn = concurrency.admitted(lm.model, self._group) if concurrency.limiters else _AT_ONCE
        connection = known.connections or _AT_ONCE
        if known.in_batches:
            turn, connection, timeout = _AT_ONCE, _AT_ONCE, None
        try:
            async with whole, turn, connection:
                if known.rejected:
                    args, options = accepted.without(lm, set(known.rejected), args, options)
                if session.rereading is not None and getattr(self._adapter, "inputs_first", False):
                    shared = shared_text(self._signature, self._inputs)
                    args, options = marked(lm, shared, args, options, reread=lm.model in session.rereading)
                sent = clock()
                async with asyncio.timeout(timeout):
                    self._meter.response, self._meter.under_way = None, True
                    # In its own task, so that the transport does not wake all layers of the run at each step.
                    sending = asyncio.create_task(self._send(known, args, options, call))
                    reply = await sending
                answered = clock()
        except BaseException as error:
            # A run that ends at the budget cancels its steps while the refusal of their calls is on its way to them.
            refused = isinstance(_error_of(sending) or error, BudgetInterruptError)
            sent = None if refused or not call.begun else sent
            unanswered = sent is not None and is_unanswered(error) and not known.free
            if isinstance(error, TimeoutError) and whole.expired():
                budget.refused = True
                message = "the budget's time was over before the reply came"
                raise _NotSentError(Failure(kind="budget", message=message)) from None
            if isinstance(error, UndeliveredError):
                raise _UserError(error.error) from None
            if isinstance(error, Exception):
                self._note_error(known, error)
                self._adapts |= accepted.learn(lm, known.rejected, error, args, options)
            raise
        finally:
            self._queued += (clock() if sent is None else sent) - waiting
            self._calls += sent is not None
            self._unanswered += unanswered
            seconds = None if sent is None or answered is None else answered - sent
            prompt = functools.partial(prompt_in, args, options)
            if sent is not None and self._session.record_prompts:
                self._prompts.append(as_text(prompt()))
            # A thread that goes on after its step reports its own call.
            goes_on = known.in_thread and (sending is None or not sending.done() or sending.cancelled())
            lost = None if sent is None or answered is not None or goes_on else unanswered
            await self._meter.settle(
                budget, known, prompt, reply, seconds, sent=sent is not None, lost=lost, price=call.price
            )
        return self._answer_in(lm, reply)

    def _answer_in(self, lm: dspy.BaseLM, reply: Any) -> Any:
        """Return the reply with its answer only, as the adapter gets it.

        Raises:
            LMError: if the model refused, or the reply did not finish.
            AdapterParseError: if it ended in its reasoning, or is broken JSON and too long to repair.
        """
        adapter = None if isinstance(self._adapter, LENIENT) else self._adapter
        keep = () if adapter is None else fields_in_tags(adapter, self._signature)
        completions = read(reply, self._meter.response, keep)
        if completions and self._session.answer is not None:
            note_reply(lm.model, self._lm.server, text_in(reply), completions[0].text)
        for completion in completions:
            self._truncated = completion.end == "truncated"
            self._cut_replies += self._truncated
            if completion.usage_doubtful:
                self._meter.add(Usage(estimated=True))
            error = None if completion.end == "finished" else unfinished(completion, lm.model)
            if error is not None:
                raise error
            if not completion.answered and self._adapter is not None:
                text, name = completion.reasoning, type(self._adapter).__name__
                raise unusable(name, self._signature, text, "the reply ended while the model was still reasoning")
            if adapter is not None:
                first = self._calls - self._calls_before <= 1
                refuse_endless_repair(adapter, self._signature, completion.text, first=first)
        is_changed = bool(completions) and getattr(reply, "text", None) != completions[0].text
        return with_texts(reply, completions) if is_changed else reply

    async def _send(self, known: RunLM, args: tuple[Any, ...], options: dict[str, Any], call: Sending) -> Any:
        """Make one call of an LM.

        An LM without asynchronous calls is called in its own thread. It keeps its concurrency slot until that thread
        ends. An LM that calls a program of its own gets the adapter that the caller configured, not this step's.
        """
        lm, kind = known.lm, type(known.lm)
        current_sending.set(call)  # in the task of this call
        call.begun = True
        reader = self._reader(known)
        current_answer.set(None)  # of this run, and not of a program that the LM calls
        with dspy.context(adapter=self._session.adapter, trace=None, send_stream=reader):
            if "acall" in vars(lm):
                return await lm.acall(*args, **options)
            if known.in_thread:
                work = functools.partial(kind.__call__, self._proxies[id(lm)], *args, **options)
                return await in_thread(concurrency.keeping_places(work))
            try:
                return await known.acall(self._proxies[id(lm)], *args, **options)
            except Exception as error:
                if reader is not None and ignores_streaming(error, reader):
                    known.rejected.add(accepted.STREAM)
                    self._adapts = True
                if reader is None or not cannot_stream(error):
                    raise
        known.rejected.add(accepted.STREAM)
        return await self._send(known, args, options, call)

    def _reader(self, known: RunLM) -> ReplyReader | None:
        """Return what reads a reply while it is written, if the reply is the answer of the run and can be read so."""
        answer, adapter = self._session.answer, self._adapter
        if answer is None or self._last is None or self._predictor.fields or not isinstance(adapter, LENIENT):
            return None
        if known is not self._lm or not known.streams or not is_readable(known.lm.model, known.server):
            return None
        is_whole = isinstance(adapter, PlainTextAdapter)
        return ReplyReader(answer, self._last, None if is_whole else tuple(self._signature.output_fields))

    def _note_error(self, known: RunLM, error: Exception) -> None:
        """Raise a programming error of a user's LM as ``_UserError``. Remember a rejected key or account."""
        bug = programming_error(error)
        if bug is not None:
            raise _UserError(bug) from error
        failure = failure_of(error)
        if failure.kind in REFUSED:
            message = f"not asked again, since it was refused before: {failure.message}"
            known.refused = known.refused or failure.model_copy(update={"message": message})

    def _delay(self, retry: int) -> float | None:
        """Return the seconds to wait before the next attempt, or None if the wait exceeds patience or budget."""
        hint = None if self.failure is None else self.failure.retry_after
        delay = min(0.5 * 2**retry, 30.0) if hint is None else hint
        if delay > self._session.tolerance.patience:
            return None
        if delay >= self._session.budget.seconds_left(self._id.stage):
            self._session.budget.refused = True
            return None
        return delay

    def step(self) -> Step:
        """Return the record of the step."""
        step_id, outputs, status = self._id, self.outputs, _status(self.failure, self._calls)
        meter, used = self._meter, self._meter.reading
        return Step(
            layer=step_id.layer,
            stage=step_id.stage,
            agent=step_id.agent_name,
            target=step_id.target_name,
            model=self._lm.lm.model,
            server=self._lm.server,
            status=status,
            text=self.text,
            outputs={} if outputs is None else to_jsonable_python(outputs, fallback=str),
            probabilities={} if outputs is None else dict(self._probabilities),
            calls=self._calls,
            cached_calls=meter.from_cache,
            cached=0 < self._calls == meter.from_cache,
            unanswered=self._unanswered,
            tokens=Tokens(prompt=used.prompt, cached=used.prompt_cached, completion=used.completion),
            cost_usd=None if used.unpriced_calls else used.known_usd,
            estimated=used.estimated,
            truncated=self._truncated,
            cut=self._cut_replies,
            saved_tokens=meter.saved.tokens,
            saved_usd=meter.saved.cost_usd,
            start=self._start,
            queued=self._queued,
            end=self._session.clock() - self._session.began,
            failures=tuple(self._failures),
            error=self.failure,
            prompts=tuple(self._prompts),
        )


def _error_of(call: asyncio.Task[Any] | None) -> BaseException | None:
    return None if call is None or not call.done() or call.cancelled() else call.exception()


class _NotSentError(Exception):
    """A request was not sent, or was given up, for a reason outside the model."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _UserError(BaseException):
    """Carry a programming error past adapters, which treat an ``Exception`` as an unparsable reply."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _status(failure: Failure | None, calls: int) -> Status:
    if failure is None:
        return "ok"
    if failure.kind in REFUSED | {"budget"} and not calls:
        return "skipped"
    return "cancelled" if failure.kind in ("cancelled", "budget") else "failed"


@functools.lru_cache(maxsize=256)
def _with_persona(signature: Any, persona: str | None) -> Any:
    if persona is None:
        return signature
    return signature.with_instructions(f"{persona.strip()}\n\n{signature.instructions}")
