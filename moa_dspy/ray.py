"""Many questions on several machines, with Ray Data (``pip install "moa-dspy[ray]"``).

::

    import ray
    from moa_dspy.ray import ask

    rows = ray.data.read_parquet("s3://bucket/questions")
    ask(rows, "program.json", actors=8, calls_at_once={"openai/gpt-4.1": 64}).write_parquet("s3://bucket/answers")
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.fingerprint import digest, label
from moa_dspy.evaluation.runner import ExampleRunner, Item, Run
from moa_dspy.extras import install_command, missing_packages
from moa_dspy.program import AttentionMoA, load
from moa_dspy.rows.answers import Columns
from moa_dspy.rows.reading import Row, Rows
from moa_dspy.runtime.concurrency import limit_concurrency

__all__ = ["ask"]


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
    machine is lost, Ray gives its unfinished blocks to another one. With a response cache that all machines share, only
    calls in flight are repeated.

    Args:
        dataset: the rows, as a ``ray.data.Dataset``.
        program: a saved program, which all machines can read, or a program.
        fields: the column of each input field. Default: columns of the same names; all others are kept, too.
        id_column: a column that identifies a row, to go on from ``done``.
        done: a ``ray.data.Dataset`` of earlier answers. Rows with their ids are left out.
        actors: number of actors.
        concurrency: maximum number of rows that an actor answers at once.
        calls_at_once: maximum number of concurrent calls over all actors, of each model or of all together. Each actor
            gets an equal share, at least one.
        rows_per_block: rows that are given to an actor at once, and given anew if it is lost.
        trace: whether each answer has its trace.
        lms: of a saved program: its LMs by agent name or model, see ``load``.
        **options: further options of ``Dataset.map_batches``, such as ``num_cpus`` or ``ray_remote_args``.

    Raises:
        ConfigurationError: if Ray is not installed, or an argument does not fit.
    """
    if missing := missing_packages({"ray": "ray[data]"}):
        raise ConfigurationError(f"answering rows with Ray Data needs ray: {install_command(*map(repr, missing))}")
    import ray.data

    for name, value in (("actors", actors), ("concurrency", concurrency), ("rows_per_block", rows_per_block)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigurationError(f"{name}={value!r} is invalid; it must be a whole number of at least 1")
    if done is not None:
        if id_column is None:
            raise ConfigurationError("done= needs id_column=, the column that identifies a row in both")
        known = {row[id_column] for row in done.select_columns([id_column]).iter_rows()}
        dataset = dataset.filter(_Waiting(id_column, known))
    limits = calls_at_once if isinstance(calls_at_once, Mapping) else {None: calls_at_once} if calls_at_once else {}
    shares = {model: max(1, math.floor(calls / actors)) for model, calls in limits.items()}
    return dataset.map_batches(
        _Asker,
        fn_constructor_args=(program, lms, fields, shares, concurrency, trace),
        batch_size=rows_per_block,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=actors),
        max_concurrency=max(1, math.ceil(concurrency / rows_per_block)),
        **options,
    )


class _Waiting:
    """Whether a row has no answer yet."""

    def __init__(self, column: str, done: Collection[Any]) -> None:
        self._column, self._done = column, done

    def __call__(self, row: Mapping[str, Any]) -> bool:
        return row[self._column] not in self._done


class _Asker:
    """An actor: the program, its connections, and the rows that it answers at once."""

    def __init__(
        self,
        program: str | Path | AttentionMoA,
        lms: Mapping[str, dspy.BaseLM] | None,
        fields: Mapping[str, str] | None,
        limits: Mapping[str | None, int],
        concurrency: int,
        trace: bool,
    ) -> None:
        self._program = program if isinstance(program, AttentionMoA) else load(program, lms=lms)
        for model, calls in limits.items():
            limit_concurrency(calls, model)
        self._columns = Columns(self._program, digest(label(self._program)), trace=trace)
        self._fields, self._places = fields, asyncio.Semaphore(concurrency)

    async def __call__(self, batch: Mapping[str, Any]) -> AsyncIterator[dict[str, list[Any]]]:
        """Answer a block of rows."""
        names = list(batch)
        values = [dict(zip(names, map(_plain, row), strict=True)) for row in zip(*batch.values(), strict=True)]
        rows = list(Rows(values, self._program, fields=self._fields))
        answers = await asyncio.gather(*map(self._answer, rows))
        columns = dict.fromkeys(name for answer in answers for name in answer)
        yield {name: _column([answer.get(name) for answer in answers]) for name in columns}

    async def _answer(self, row: Row) -> dict[str, Any]:
        """Return the answer to a row. The loop over examples makes a failure a value."""
        answered: list[Run] = []
        async with self._places:
            runner = ExampleRunner(self._program, None, concurrency=1, keep_traces=True, patience=None)
            await runner.run([Item(row.id, row.example)], lambda _, run: answered.append(run))
        return self._columns.of(row, answered[0], answered[0].program_usage)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value


def _column(values: Sequence[Any]) -> list[Any]:
    """Return values of one type, as Arrow needs them: lists and objects as JSON."""
    return [json.dumps(value) if isinstance(value, (list, dict)) else value for value in values]
