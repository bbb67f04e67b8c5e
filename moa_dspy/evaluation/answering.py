"""Runs a program on a benchmark's examples: settings per example, threads for sync programs, answers from JSON."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import dspy
import pydantic

from moa_dspy.agents import Agent
from moa_dspy.data.benchmark import Benchmark
from moa_dspy.program import AttentionMoA

__all__ = ["Asker", "in_thread", "in_threads", "restored"]

S = TypeVar("S")
T = TypeVar("T")

_AGENT_FIELDS = frozenset({"temperature", "max_tokens"})


class Asker:
    """Runs a program on the examples of a benchmark.

    A benchmark may prescribe settings per example, such as MT-Bench's temperatures. The asker keeps one copy of the
    program for each distinct setting, with the same prompts, demos and connections.

    Args:
        program: any DSPy module.
        benchmark: runs the program on an example.
    """

    def __init__(self, program: dspy.Module, benchmark: Benchmark) -> None:
        self._program, self._benchmark = program, benchmark
        self._copies: dict[str, dspy.Module] = {}

    async def ask(self, example: dspy.Example, threads: Executor) -> Any:
        """Return the program's prediction. A program without ``aforward`` runs in a thread."""
        with self._prepared(self._benchmark.generation(example)) as program:
            if hasattr(program, "aforward"):
                return await self._benchmark.arun(program, example)
            return await in_thread(threads, lambda: self._benchmark.run(program, example))

    @contextmanager
    def _prepared(self, settings: Mapping[str, Any]) -> Iterator[dspy.Module]:
        """Yield the program with these settings on its LMs and on DSPy's configured LM."""
        if not settings:
            yield self._program
            return
        key = json.dumps(dict(settings), sort_keys=True)
        if key not in self._copies:
            self._copies[key] = _with_settings(self._program, settings)
        ambient = dspy.settings.lm
        with dspy.context(lm=ambient.copy(**settings) if isinstance(ambient, dspy.BaseLM) else ambient):
            yield self._copies[key]


async def in_thread(threads: Executor, work: Callable[[], T]) -> T:
    """Run blocking work in a thread, in the caller's context."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(threads, lambda: context.run(work))


def in_threads(work: Callable[[S], T], items: Sequence[S], concurrency: int) -> list[T]:
    """Run blocking work on items in threads, in the caller's context. Return the results in the items' order."""
    if concurrency == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(concurrency) as threads:
        futures = [threads.submit(contextvars.copy_context().run, work, item) for item in items]
        return [future.result() for future in futures]


def restored(program: dspy.Module, outputs: Mapping[str, Any]) -> dspy.Prediction | None:
    """Return a prediction from its recorded outputs, with values of the types in the program's signature.

    Args:
        program: the program that gave the prediction.
        outputs: its fields as JSON values.

    Returns:
        The prediction; None if a type is unknown and the value may have been an object.
    """
    types = _output_types(program)
    values: dict[str, Any] = {}
    for name, value in outputs.items():
        if name not in types and not _is_plain(value):
            return None
        try:
            values[name] = pydantic.TypeAdapter(types[name]).validate_python(value) if name in types else value
        except (pydantic.ValidationError, pydantic.errors.PydanticUserError):
            return None
    return dspy.Prediction(**values)


def _with_settings(program: dspy.Module, settings: Mapping[str, Any]) -> dspy.Module:
    if isinstance(program, AttentionMoA):
        aggregator = program.aggregator
        return program.replace(
            agents=[_agent_with_settings(agent, settings) for agent in program.agents],
            aggregator=None if aggregator is None else _agent_with_settings(aggregator, settings),
        )
    copy: dspy.Module = program.deepcopy()
    for _, predictor in copy.named_predictors():
        if isinstance(predictor.lm, dspy.BaseLM):
            predictor.lm = predictor.lm.copy(**settings)
    return copy


def _agent_with_settings(agent: Agent, settings: Mapping[str, Any]) -> Agent:
    own = {name: value for name, value in settings.items() if name in _AGENT_FIELDS}
    others = {name: value for name, value in settings.items() if name not in _AGENT_FIELDS}
    changed = replace(agent, **own)
    return replace(changed, lm=agent.lm.copy(**others)) if others and isinstance(agent.lm, dspy.BaseLM) else changed


def _output_types(program: dspy.Module) -> dict[str, Any]:
    """Return the types of the output fields. For a module with a single predictor, these are the predictor's types."""
    signature = getattr(program, "signature", None)
    predictors = program.predictors()
    if signature is None and len(predictors) == 1:
        signature = predictors[0].signature
    fields = getattr(signature, "output_fields", None) or {}
    return {name: field.annotation for name, field in fields.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float))
