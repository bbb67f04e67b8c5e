"""``moa-dspy ask``: one question, one answer."""

from __future__ import annotations

import json
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, cast

from moa_dspy.cli.inputs import gather_inputs
from moa_dspy.cli.options import Ask
from moa_dspy.cli.output import check_files, note, printable, settings, warning, write_file, write_json, write_result
from moa_dspy.cli.programs import budget_of, build_program, check_keys, note_default_agents
from moa_dspy.cli.views.failures import failure_of
from moa_dspy.cli.views.progress import note_totals, watching_run
from moa_dspy.errors import AllProposalsFailedError, ConfigurationError, RunError
from moa_dspy.extras import SERVE, why_missing
from moa_dspy.json_safe import json_safe
from moa_dspy.program import AttentionMoA, Prediction
from moa_dspy.serve.programs import outputs_of
from moa_dspy.trace import Trace, record_prompts

if TYPE_CHECKING:
    from moa_dspy.serve.server import LiveRun

__all__ = ["run"]


def run(options: Ask) -> None:
    """Ask the question, and write the answer."""
    check_files({"--trace": options.trace}, replace=True)
    if options.prompts and options.trace is None:
        raise ConfigurationError("--prompts records prompts in the trace; give its file, too: --trace FILE")
    budget = budget_of(options)
    program = build_program(options)
    program.budget = program.budget.within(budget)
    check_keys(program)
    values = gather_inputs(program.task, options)
    note_default_agents(options, "asking")
    with record_prompts() if options.prompts else nullcontext(), _page(options, program, values) as live:
        answer = live.result if live is not None else lambda: program(**values)
        prediction = _ask(program, answer, options.trace)
        try:
            _write_trace(prediction.trace, options.trace)  # first: printing may fail, as into a pipe without a reader
        finally:
            if options.json:
                write_json(_as_json(program, prediction))
            else:
                text = _as_text(program, prediction)
                write_result(printable(text))
        if live is not None:
            note("the page stays until Ctrl-C")
            with suppress(KeyboardInterrupt):
                threading.Event().wait()


@contextmanager
def _page(options: Ask, program: AttentionMoA, values: dict[str, Any]) -> Iterator[LiveRun | None]:
    """Yield the run with a page of its own, or None without ``--open``."""
    if not options.open:
        yield None
        return
    if problem := why_missing(SERVE, "--open"):
        raise ConfigurationError(problem)
    from moa_dspy.serve.server import LiveRun  # only now: its packages may be missing

    def show(address: str) -> None:
        note(f"the run is at {address}")
        webbrowser.open(address)

    live = LiveRun(program, values, show)
    try:
        yield live
    finally:
        live.close()


def _ask(program: AttentionMoA, answer: Callable[[], Any], path: str | None) -> Prediction:
    """Return the answer. If the run fails or is interrupted, its trace is written, too."""
    with watching_run(program.architecture, silent=settings.quiet) as ended:
        try:
            prediction = cast("Prediction", answer())
        except BaseException as problem:
            for trace in ended:
                if isinstance(problem, KeyboardInterrupt):
                    note_totals(trace, program.architecture)
                try:
                    _write_trace(trace, path)
                except RunError as error:  # it must not hide why the run failed
                    warning(str(error))
                if isinstance(problem, AllProposalsFailedError):
                    raise failure_of(trace.steps) from problem
            raise
    note_totals(prediction.trace, program.architecture)
    return prediction


def _write_trace(trace: Trace, path: str | None) -> None:
    if trace.steps:  # else nothing happened in the run
        write_file(path, f"{trace.to_json(indent=2)}\n")


def _as_text(program: AttentionMoA, prediction: Prediction) -> str:
    """Return a single text output unchanged, and other outputs as ``name: value`` lines."""
    outputs, fields = outputs_of(program, prediction), program.task.output_fields
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in outputs.items()
    }
    if len(fields) == 1 and all(field.annotation is str for field in fields.values()):
        return "".join(texts.values())
    return "\n".join(f"{name}: {text}" for name, text in texts.items())


def _as_json(program: AttentionMoA, prediction: Prediction) -> Any:
    """Return the task's outputs and the run's figures.

    The outputs are at the top level. If one has the name of a figure, all outputs are under ``outputs``.
    """
    outputs, figures = outputs_of(program, prediction), prediction.trace.figures
    if outputs.keys() & {*figures, "outputs"}:
        outputs = {"outputs": outputs}
    return json_safe({**outputs, **figures})
