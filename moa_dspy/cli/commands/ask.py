"""``moa-dspy ask``: one question, one answer."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any, cast

from moa_dspy.cli.inputs import gather_inputs
from moa_dspy.cli.options import Ask
from moa_dspy.cli.output import (
    check_files,
    printable,
    settings,
    warning,
    write_file,
    write_json,
    write_result,
)
from moa_dspy.cli.programs import budget_of, build_program, check_keys, note_default_agents
from moa_dspy.cli.views.failures import failure_of
from moa_dspy.cli.views.progress import note_totals, watching_run
from moa_dspy.errors import AllProposalsFailedError, ConfigurationError, RunError
from moa_dspy.json_safe import json_safe
from moa_dspy.program import AttentionMoA, Prediction
from moa_dspy.trace import Trace, record_prompts

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
    with record_prompts() if options.prompts else nullcontext():
        prediction = _ask(program, values, options.trace)
    try:
        _write_trace(prediction.trace, options.trace)  # first: printing may fail, as into a pipe without a reader
    finally:
        if options.json:
            write_json(_as_json(program, prediction))
        else:
            text = _as_text(program, prediction)
            write_result(printable(text))


def _ask(program: AttentionMoA, values: dict[str, Any], path: str | None) -> Prediction:
    """Return the answer. If the run fails or is interrupted, its trace is written, too."""
    with watching_run(program.architecture, silent=settings.quiet) as ended:
        try:
            prediction = cast("Prediction", program(**values))
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
    outputs, fields = _outputs(program, prediction), program.task.output_fields
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
    outputs, figures = _outputs(program, prediction), prediction.trace.figures
    if outputs.keys() & {*figures, "outputs"}:
        outputs = {"outputs": outputs}
    return json_safe({**outputs, **figures})


def _outputs(program: AttentionMoA, prediction: Prediction) -> dict[str, Any]:
    """Return the task's outputs as JSON values, without an added reasoning field."""
    values = program.roles.jsonable(dict(prediction.items()))
    return {name: values[name] for name in program.task.output_fields}
