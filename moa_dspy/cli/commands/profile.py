"""``moa-dspy profile``: which stage gains and which loses, and what each agent adds."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from moa_dspy.cli.budgets import MaxCalls, MaxMinutes, MaxTokens, MaxUsd, budget_of
from moa_dspy.cli.console import note, printable, quiet_libraries, write_result
from moa_dspy.cli.judged import judged
from moa_dspy.cli.options import (
    AsJson,
    Concurrency,
    ConfigFile,
    Fields,
    JudgeModel,
    Limit,
    MetricName,
    Own,
    ProgramArgument as ProgramFile,
    Quiet,
    Seed,
    Split,
)
from moa_dspy.cli.views.optimization import time_left
from moa_dspy.errors import BudgetExhaustedError, RunError

if TYPE_CHECKING:
    from moa_dspy.cli.eval_setup import Job
    from moa_dspy.cost.budget import Budget
    from moa_dspy.optimizers.analysis.contributions import Contributions
    from moa_dspy.optimizers.analysis.profile import Profile

__all__ = ["profile_command"]

_SECONDS_BETWEEN_LINES: Final = 15.0


def profile_command(
    program: ProgramFile = None,
    config: ConfigFile = None,
    data: Own = None,
    metric: MetricName = None,
    agents: Annotated[
        bool, typer.Option("--agents", help="Also leave out each agent in turn: what it adds, at which price.")
    ] = False,
    fields: Fields = None,
    judge: JudgeModel = None,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = 0,
    concurrency: Concurrency = 8,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_usd: MaxUsd = None,
    max_minutes: MaxMinutes = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score every stage of a program's runs: proposals, refinements, aggregates, syntheses."""
    with quiet_libraries():
        budget = budget_of(max_calls, max_tokens, max_usd, max_minutes)
        job = judged(program, config, data, fields, metric, judge, split, limit, seed)
        stages, parts = _profiled(job, budget, concurrency, seed, agents=agents, quiet=quiet)
        if as_json:
            whole = {"stages": stages.report, "agents": None if parts is None else parts.report}
            write_result(json.dumps(whole, ensure_ascii=False, indent=2))
        else:
            write_result(printable("\n\n".join(str(part) for part in (stages, parts) if part is not None)))


def _profiled(
    job: Job, budget: Budget | None, concurrency: int, seed: int, *, agents: bool, quiet: bool
) -> tuple[Profile, Contributions | None]:
    from moa_dspy.cost.budget import Budget
    from moa_dspy.optimizers.analysis.contributions import contributions
    from moa_dspy.optimizers.analysis.profile import profile
    from moa_dspy.optimizers.comparison.matching import check_budget
    from moa_dspy.optimizers.measuring import models_of
    from moa_dspy.optimizers.purse import Purse
    from moa_dspy.optimizers.spending import count_spending

    lms = models_of(job.program)
    check_budget(budget, lms)
    with count_spending(lms) as spending:
        purse = Purse(budget or Budget(), spending)
        given: dict[str, Any] = {"concurrency": concurrency, "seed": seed, "purse": purse}
        tell = None if quiet else _Counter(len(job.examples))
        try:
            stages = profile(job.program, job.examples, job.metric, on_run=tell, **given)
            if not agents:
                return stages, None
            told = None if quiet else note
            return stages, contributions(job.program, job.examples, job.metric, on_stage=told, **given)
        except BudgetExhaustedError:
            raise RunError(
                "the budget ended before all examples had run; with a larger one the same command goes on from here, "
                "since answered calls are in the response cache"
            ) from None


class _Counter:
    """A line now and then: how many examples have run, and how long the rest takes."""

    def __init__(self, examples: int) -> None:
        self._examples, self._done = examples, 0
        self._began = self._last = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, run: object) -> None:
        del run
        with self._lock:
            self._done += 1
            now, done = time.monotonic(), self._done
            if done < self._examples and now - self._last < _SECONDS_BETWEEN_LINES:
                return
            self._last = now
        note(f"{done} of {self._examples} examples{time_left(now - self._began, done / self._examples)}")
