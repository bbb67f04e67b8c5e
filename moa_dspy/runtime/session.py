"""The shared state of one run's calls: DSPy's settings, the budget, and the recorded steps."""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final

import dspy
from dspy.utils.usage_tracker import UsageTracker

from moa_dspy._dspy import CALLERS, USAGE_TRACKER, can_stream, enforces_schema, needs_thread, pool_of, watched
from moa_dspy.batches.batcher import current_batcher
from moa_dspy.cost.budget import Budget
from moa_dspy.cost.own_price import is_free, own_price
from moa_dspy.errors import ConfigurationError
from moa_dspy.identity import server_of
from moa_dspy.runtime import accepted, concurrency
from moa_dspy.runtime.adapters import lenient
from moa_dspy.runtime.answer_stream import current_answer
from moa_dspy.runtime.degrade import RunBudget
from moa_dspy.runtime.embeddings import Embeddings
from moa_dspy.runtime.parts import RunParts
from moa_dspy.runtime.shared_prefix import are_long, rereading
from moa_dspy.runtime.tolerance import Tolerance
from moa_dspy.trace import STAGES, Failure, Stage, Step, Watcher, current_watchers, prompts_recorded

__all__ = ["RunLM", "Session", "StepId"]

# DSPy keeps the last 10,000 calls in every model and predictor, with prompts and replies. Programs with a hundred calls
# for each question would fill this history. The trace records the run anyway.
_HISTORY: Final = 1000


@dataclass(frozen=True)
class StepId:
    """Identifies a step of a run. Steps are ordered canonically.

    Attributes:
        layer: from 1.
        stage: the kind of step.
        agent: index of the acting agent; -1 for the aggregator.
        agent_name: its name.
        target: index of the agent whose answer is criticised or refined; -1 for other stages.
        target_name: its name.
        attempt: from 0. Another agent may repeat a step, or a shorter prompt may be tried.
    """

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


class RunLM:
    """An LM within one run. What depends on it alone is found out once, not at each of its calls.

    Attributes:
        lm: the LM.
        server: address of its server; None for the provider's usual one.
        free: whether its calls cost nothing.
        priced: whether the user gave it a price.
        in_thread: whether it must be called in a thread.
        enforces_schema: whether its server enforces a JSON schema, so that JSON is tried first.
        connections: what a call waits for; None if DSPy opens no connections for it.
        acall: its class's method for asynchronous calls, seen by callbacks; None if it is another kind of model.
        in_batches: whether its requests may go in batches. They then wait for no connection, and for hours.
        rejected: what it rejects, see ``runtime/accepted.py``. Calls add what they learn.
        refused: the failure by which the provider rejected its key or account. It is not called again.
    """

    def __init__(self, lm: Any) -> None:
        self.lm = lm
        self.server = server_of(lm)
        self.free, self.priced = is_free(lm), own_price(lm) is not None
        is_own = "acall" in vars(lm)  # of a model that does not go through DSPy
        self.in_thread = not is_own and needs_thread(lm)
        self.enforces_schema = enforces_schema(lm)
        self.acall: Any = watched(type(lm).acall) if hasattr(type(lm), "acall") else None
        self._streams = not is_own and not self.in_thread and can_stream(lm)
        slots = getattr(getattr(lm, "engine", None), "slots", None)  # calls that its server handles at once, if known
        if isinstance(slots, int):
            concurrency.limit_by_default(slots, lm.model)
        pool = None if is_own else pool_of(lm)
        self.connections = None if pool is None else concurrency.connections(pool, lm.model)
        self.in_batches = pool is not None and current_batcher.get() is not None
        self.rejected = accepted.rejected_by(lm)
        self.refused: Failure | None = None

    @property
    def streams(self) -> bool:
        """Return whether its replies can be read while they are written."""
        return self._streams and accepted.STREAM not in self.rejected


class Session:
    """The state of one run. It reads DSPy's ambient settings once; calls get their settings explicitly.

    Attributes:
        parts: the program.
        inputs: the task's inputs.
        budget: the limits of the run, and the spending.
        tolerance: how it handles slow or failing calls.
        ambient: the LM that DSPy is configured with.
        adapter: the adapter that DSPy is configured with.
        reading: the same, as it reads replies; empty if DSPy is configured with none.
        extractors: the LMs that this adapter calls besides the agents'.
        callers: the modules that called the program.
        tracker: the caller's usage tracker.
        max_history: number of calls that DSPy keeps in a model's history.
        watchers: called for each step.
        spans: whether each step is a module that DSPy's callbacks see.
        answer: where the answer goes while it is written; None if nobody reads it.
        batcher: collects the run's requests into batches; None without batches.
        lms: the LMs of the run, by the id of the LM or of the agent.
        record_prompts: whether steps keep the prompts of their calls.
        recorded: the finished steps, in the order of finishing.
        rereading: names of the models whose later calls read long inputs again, see ``runtime/shared_prefix.py``. None
            if the inputs are short.
        traces: the DSPy trace of each step, if the caller wants one.
        free: names of the adapter's models that cost nothing.
        clock: returns seconds.
        began: start of the run, in seconds of ``clock``.
        date: start of the run, in UTC.

    Raises:
        ConfigurationError: if the budget is in dollars and DSPy's history, which holds the prices, is off; or if an
            agent has no LM, and DSPy is configured with none.
    """

    clock: Final = staticmethod(time.perf_counter)

    def __init__(self, parts: RunParts, inputs: Mapping[str, Any], budget: Budget, tolerance: Tolerance) -> None:
        settings = dspy.settings
        self.parts, self.inputs, self.tolerance = parts, inputs, tolerance
        self.ambient: dspy.BaseLM | None = settings.lm
        # While DSPy's optimizers run, the adapter is for the model that writes prompts.
        adapter: dspy.Adapter | None = getattr(settings.adapter, "of_programs", settings.adapter)
        self.adapter = adapter
        self.reading: tuple[dspy.Adapter, ...] = () if adapter is None else (lenient(adapter),)
        self.extractors = [adapter.extraction_model] if isinstance(adapter, dspy.TwoStepAdapter) else []
        self.callers: tuple[Any, ...] = tuple(settings.get(CALLERS) or ())
        self.tracker: UsageTracker | None = settings.get(USAGE_TRACKER)
        self.max_history: int = min(settings.max_history_size, _HISTORY)
        self.watchers: tuple[Watcher, ...] = current_watchers.get()
        # A tracing tool may have wrapped the calls of modules. A wrapper says that it is a function, its type does not.
        self.spans = bool(settings.get("callbacks")) or type(vars(dspy.Module)["acall"]) is not FunctionType
        self.answer = current_answer.get()
        self.batcher = current_batcher.get()
        self.record_prompts = prompts_recorded.get()
        self.free = {lm.model for lm in self.extractors if is_free(lm)}
        self._trace: list[Any] | None = settings.trace
        self._max_trace: int = settings.max_trace_size
        self.traces: list[tuple[StepId, list[Any]]] | None = None if self._trace is None else []
        self.began = self.clock()
        self.date = datetime.datetime.now(datetime.UTC)
        self.recorded: list[tuple[StepId, Step]] = []
        self.budget = RunBudget(budget, self.clock)
        if budget.usd is not None and (settings.disable_history or settings.max_history_size == 0):
            raise ConfigurationError(
                "a budget in dollars needs DSPy's history, which holds the prices; leave disable_history off and "
                "max_history_size above 0, or limit calls, tokens or seconds instead"
            )
        self.lms: dict[int, RunLM] = {}
        lms = {id(agent): agent.lm() for agent in (*parts.agents, parts.aggregator)}
        self.lms |= {agent: self.lm(lm) for agent, lm in lms.items()}
        *models, last = (lm.model for lm in lms.values())
        self.rereading = rereading(parts.architecture, models, last) if are_long(inputs) else None

    def lm(self, lm: Any) -> RunLM:
        """Return an LM, or the one of an agent, within this run."""
        known = self.lms.get(id(lm))
        if known is None:
            known = self.lms[id(lm)] = RunLM(lm)
        return known

    @functools.cached_property
    def embeddings(self) -> Embeddings:
        """Return the embeddings of this run, of demos and questions."""
        return Embeddings(in_dollars=self.budget.limits.usd is not None)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Return the steps so far, in canonical order."""
        return tuple(step for _, step in self.recorded_in_order)

    @property
    def recorded_in_order(self) -> list[tuple[StepId, Step]]:
        """Return the steps so far with their ids, in canonical order."""
        return sorted(self.recorded, key=lambda item: item[0].order)

    def record_text(self, step_id: StepId, text: str, outputs: Mapping[str, Any]) -> None:
        """Record a step that needed no call of its own. Its outputs are JSON values."""
        now = self.clock() - self.began
        step = Step(
            layer=step_id.layer,
            stage=step_id.stage,
            agent=step_id.agent_name,
            target=step_id.target_name,
            text=text,
            outputs=dict(outputs),
            start=now,
            end=now,
        )
        self.recorded.append((step_id, step))
        for watcher in self.watchers:
            watcher(step)

    def finish(self) -> tuple[Step, ...]:
        """Append the steps' DSPy traces to the caller's, in canonical order, and return the steps."""
        if self._trace is not None and self.traces is not None:
            for _, entries in sorted(self.traces, key=lambda item: item[0].order):
                for entry in entries:
                    if len(self._trace) >= self._max_trace > 0:
                        self._trace.pop(0)
                    self._trace.append(entry)
        return self.steps
