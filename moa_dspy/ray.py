"""Many questions on several machines, with Ray Data (``pip install "moa-dspy[ray]"``).

::

    import ray
    from moa_dspy.ray import ask

    rows = ray.data.read_parquet("s3://bucket/questions")
    ask(rows, "program.json", actors=8, calls_at_once={"openai/gpt-4.1": 64}).write_parquet("s3://bucket/answers")
"""

from __future__ import annotations

import asyncio
import copy
import json
import math
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dspy
import pydantic
from pydantic_core import to_jsonable_python

from moa_dspy import evaluation
from moa_dspy.cost.usage import Tokens
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.evaluation.evaluate import check_inputs, turns_of
from moa_dspy.evaluation.results import EvaluateResult
from moa_dspy.evaluation.runner import ExampleRunner, Item, Run
from moa_dspy.evaluation.scoring import Metric
from moa_dspy.evaluation.suite import Devset, fit_metric, output_fields_of
from moa_dspy.extras import install_command, missing_packages
from moa_dspy.program import AttentionMoA, Prediction, load
from moa_dspy.rows.answers import Columns, carried_name, output_name
from moa_dspy.rows.reading import InputRow, Rows
from moa_dspy.runtime.concurrency import limit_concurrency
from moa_dspy.trace import Step, Trace, current_watchers

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ask", "evaluate"]

_NUMBER: Final = "moa_dspy_item"
_TYPES: Final = {
    "calls": "int64", "cached_calls": "int64", "prompt_tokens": "int64", "completion_tokens": "int64",
    "cost_usd": "float64", "seconds": "float64", "agreement": "float64",
}  # fmt: skip
_OUTPUT_TYPES: Final = {int: "int64", float: "float64", bool: "bool"}  # of outputs with that annotation; else text


def ask(
    dataset: Any,
    program: str | Path | AttentionMoA,
    *,
    fields: Mapping[str, str] | None = None,
    id_column: str | None = None,
    done: Any = None,
    actors: int = 1,
    concurrency: int = 64,
    calls_at_once: int | Mapping[str, int] | None = None,
    rows_per_block: int = 32,
    trace: bool = False,
    lms: Mapping[str, dspy.BaseLM] | None = None,
    **options: Any,
) -> Any:
    """Return a Ray data set of answers to the rows of a data set. It is lazy: write or read it to run.

    Each actor holds the program and its connections, and answers several blocks of rows at once. If an actor or its
    machine is lost, Ray gives its unfinished blocks to another one.

    Args:
        dataset: the rows, as a ``ray.data.Dataset``. All of their columns are kept.
        program: a saved program, which all machines can read, or a program.
        fields: the column of each input field. Default: columns of the same names.
        id_column: a column that identifies a row, to go on from ``done``.
        done: a ``ray.data.Dataset`` of earlier answers. Rows that it has with an answer are left out.
        actors: number of actors.
        concurrency: maximum number of rows that an actor answers at once.
        calls_at_once: maximum number of concurrent calls over all actors, of each model or of all together. Each actor
            has an equal share.
        rows_per_block: rows that are given to an actor at once, and given anew if it is lost.
        trace: whether each answer has its trace.
        lms: of a saved program: its LMs by agent name or model, see ``load``.
        **options: further options of ``Dataset.map_batches``, such as ``num_cpus`` or ``ray_remote_args``.

    Raises:
        ConfigurationError: if Ray is not installed, or an argument does not fit.
    """
    _check_installed()
    import ray.data  # pyright: ignore[reportMissingImports]

    _check_sizes(actors=actors, concurrency=concurrency, rows_per_block=rows_per_block)
    settings = {"lm": dspy.settings.lm, "adapter": dspy.settings.adapter}
    arguments = (program, lms, settings, fields, _shares(calls_at_once, actors), concurrency, trace)
    _check_sendable(arguments)
    waiting = dataset if done is None else dataset.filter(_Waiting(id_column, done))
    return waiting.repartition(target_num_rows_per_block=rows_per_block).map_batches(
        _Asker,
        fn_constructor_args=arguments,
        batch_size=rows_per_block,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=actors,
            max_concurrent_calls_per_actor=1 + math.ceil(concurrency / rows_per_block),  # so places are never empty
        ),
        **options,
    )


def evaluate(
    program: str | Path | AttentionMoA,
    devset: Any,
    metric: Metric | None = None,
    *,
    asking: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> EvaluateResult:
    """Score a program on examples that are answered with Ray Data. This process scores the answers.

    Args:
        program: a saved program, which all machines can read, or a program.
        devset: see ``moa_dspy.evaluate``; no conversations.
        metric: default: the benchmark's own.
        asking: options of ``ask``, such as ``actors`` and ``calls_at_once``.
        limit: maximum number of examples; see ``moa_dspy.evaluate``.
        seed: seed of the sample.
        **options: further options of ``moa_dspy.evaluate``, such as ``out``. Limits and batches do not apply.

    Raises:
        ConfigurationError: as of ``ask`` and ``moa_dspy.evaluate``.
        RunError: if the first ten items all failed, or if a file cannot be written.
    """
    asking = dict(asking or {})
    data = Devset.of(devset, limit, seed)
    asked = program if isinstance(program, AttentionMoA) else load(program, lms=asking.get("lms"))
    if turns_of(data.examples) > 1:
        raise ConfigurationError("conversations cannot be evaluated with Ray Data; use moa_dspy.evaluate")
    check_inputs(asked, data.examples)
    fit_metric(data.benchmark.metric() if metric is None else metric, output_fields_of(asked), data.examples)
    _check_installed()
    import ray.data  # pyright: ignore[reportMissingImports]

    inputs = [to_jsonable_python(example.inputs().toDict()) for example in data.examples]
    rows = ray.data.from_items([{_NUMBER: number, **values} for number, values in enumerate(inputs)])
    answers = {_key(inputs[row[_NUMBER]]): row for row in ask(rows, program, trace=True, **asking).iter_rows()}
    answered: Any = copy.copy(asked)
    object.__setattr__(answered, "aforward", _told(asked, answers))
    return evaluation.evaluate(answered, data, metric, **options)


def _check_installed() -> None:
    if missing := missing_packages({"ray": "ray[data]"}):
        raise ConfigurationError(f"answering rows with Ray Data needs ray: {install_command(*map(repr, missing))}")


def _told(program: AttentionMoA, answers: Mapping[str, Mapping[str, Any]]) -> Callable[..., Any]:
    """Return a function that gives recorded answers in place of the program, and tells watchers what they cost."""
    fields: Any = program.signature.output_fields
    types = {name: pydantic.TypeAdapter(field.annotation) for name, field in fields.items()}

    async def answer(**inputs: Any) -> Prediction:
        row = answers[_key(to_jsonable_python(inputs))]
        trace = _failed(row) if row["trace"] is None else Trace.model_validate_json(row["trace"])
        for watcher in current_watchers.get():
            watcher(trace)
        if row["error"] is not None:
            raise RunError(row["error"])
        values = {name: types[name].validate_python(value) for name, value in trace.outputs[-1].items()}
        return Prediction(trace=trace, **values)

    return answer


def _failed(row: Mapping[str, Any]) -> Trace:
    """Return a record of the usage of a row without an answer."""
    used = Tokens(prompt=row["prompt_tokens"], completion=row["completion_tokens"])
    cost = {"calls": row["calls"], "cached_calls": row["cached_calls"], "tokens": used, "cost_usd": row["cost_usd"]}
    step = Step(layer=1, stage="propose", agent="all", status="failed", start=0.0, end=row["seconds"], **cost)
    return Trace(steps=(step,), outputs=(), stopped_by="failure", seconds=row["seconds"])


def _key(inputs: Mapping[str, Any]) -> str:
    return json.dumps(inputs, sort_keys=True)


def _check_sizes(**sizes: Any) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(f"{name}={value!r} is invalid; it must be a whole number of at least 1")


def _shares(calls: int | Mapping[str, int] | None, actors: int) -> dict[str | None, int]:
    """Return an actor's share of each limit."""
    limits: Mapping[Any, int] = calls if isinstance(calls, Mapping) else {} if calls is None else {None: calls}
    for model, limit in limits.items():
        of = "" if model is None else f" of {model}"
        _check_sizes(**{f"calls_at_once{of}": limit})
        if limit < actors:
            raise ConfigurationError(f"{limit} calls at once{of} are too few for {actors} actors; use fewer actors")
    return {model: limit // actors for model, limit in limits.items()}


def _check_sendable(arguments: Any) -> None:
    from ray import cloudpickle  # pyright: ignore[reportAttributeAccessIssue]

    try:
        cloudpickle.dumps(arguments)  # pyright: ignore[reportPrivateImportUsage]
    except Exception as error:  # noqa: BLE001 - objects raise anything
        raise ConfigurationError(
            f"the program cannot be sent to other processes ({error}); give the path of a saved program, and LMs that "
            "can be pickled, such as dspy.LM"
        ) from None


class _Waiting:
    """Whether a row has no answer yet."""

    def __init__(self, column: str | None, done: Any) -> None:
        if column is None:
            raise ConfigurationError("done= needs id_column=, the column that identifies a row in both")
        if missing := {column, "error"}.difference(done.columns() or (column, "error")):
            raise ConfigurationError(f"done= has no column {', '.join(map(repr, sorted(missing)))}")
        answers = done.select_columns([column, "error"]).iter_rows()
        self._column = column
        self._done: Collection[Any] = {row[column] for row in answers if row["error"] is None}

    def __call__(self, row: Mapping[str, Any]) -> bool:
        return row[self._column] not in self._done


class _Asker:
    """An actor: the program, its connections, and the rows that it answers at once."""

    def __init__(
        self,
        program: str | Path | AttentionMoA,
        lms: Mapping[str, dspy.BaseLM] | None,
        settings: Mapping[str, Any],
        fields: Mapping[str, str] | None,
        limits: Mapping[str | None, int],
        concurrency: int,
        trace: bool,
    ) -> None:
        self._program = program if isinstance(program, AttentionMoA) else load(program, lms=lms)
        for model, calls in limits.items():
            limit_concurrency(calls, model)
        self._settings = settings
        with dspy.context(**settings):
            self._columns = Columns(self._program, trace=trace)
        outputs = self._program.task.output_fields.items()
        self._types = {output_name(name): _OUTPUT_TYPES.get(field.annotation, "string") for name, field in outputs}
        self._fields, self._places = fields, asyncio.Semaphore(concurrency)

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Answer a block of rows."""
        import pyarrow as pa

        rows = list(Rows(batch.to_pylist(), self._program, fields=self._fields))
        with dspy.context(**self._settings):
            answers = await asyncio.gather(*map(self._answer, rows))
        own = dict.fromkeys(name for answer in answers for name in answer)
        carried = {carried_name(name, own): batch[name] for name in batch.column_names}
        yield pa.table(carried | {name: self._column(name, [answer.get(name) for answer in answers]) for name in own})

    async def _answer(self, row: InputRow) -> dict[str, Any]:
        """Return the answer to a row. The loop over examples makes a failure a value."""
        answered: list[Run] = []
        async with self._places:
            runner = ExampleRunner(self._program, None, concurrency=1, keep_traces=True, patience=None)
            await runner.run([Item(row.id, row.example)], lambda _, run: answered.append(run))
        return self._columns.own(row, answered[0], answered[0].program_usage)

    def _column(self, name: str, values: Sequence[Any]) -> pa.Array:
        """Return values of the type that the column has in all blocks, as JSON if they are lists or objects."""
        import pyarrow as pa

        kind = {**_TYPES, **self._types}.get(name, "string")
        if kind == "string":
            values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        return pa.array(values, pa.type_for_alias(kind))
