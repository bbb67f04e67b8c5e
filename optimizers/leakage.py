"""Which examples ask the same question, and which of them a program has seen or shows to its models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy._dspy import has_input_keys
from moa_dspy.data.splitting import canonical
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.fingerprint import digest
from moa_dspy.evaluation.runner import Run
from moa_dspy.program import AttentionMoA

__all__ = ["check_examples", "deduplicate", "demo_questions", "distinct_runs", "question_of", "refuse_overlap"]


def check_examples(examples: Sequence[dspy.Example]) -> None:
    """Raise ConfigurationError unless they are a list of examples whose inputs are set."""
    if not isinstance(examples, Sequence) or isinstance(examples, str):
        raise ConfigurationError(f"the examples are a {type(examples).__name__}; pass a list, which can be read again")
    if any(not has_input_keys(example) for example in examples):
        raise ConfigurationError("the examples do not say what their inputs are; use example.with_inputs('question')")


def question_of(example: dspy.Example) -> str:
    """Return a digest of an example's inputs that ignores letter case and spacing; see ``check_examples``."""
    check_examples([example])
    return _digest(example.inputs().toDict())


def deduplicate(examples: Iterable[dspy.Example]) -> list[dspy.Example]:
    """Return the first example of each question. A question asked twice is no further evidence."""
    first: dict[str, dspy.Example] = {}
    for example in examples:
        first.setdefault(question_of(example), example)
    return list(first.values())


def distinct_runs(runs: Iterable[Run]) -> list[Run]:
    """Return the first run of each question that has a trace. Further runs of a question are not independent of it."""
    first: dict[str, Run] = {}
    for run in runs:
        if run.trace is not None:
            first.setdefault(question_of(run.example), run)
    return list(first.values())


def demo_questions(*programs: AttentionMoA) -> set[str]:
    """Return the digests of the questions in the demos of programs; see ``question_of``."""
    return {
        _digest({name: demo[name] for name in program.task.input_fields if name in demo})
        for program in programs
        for _, predictor in program.named_predictors()
        for demo in predictor.demos
    }


def refuse_overlap(examples: Sequence[dspy.Example], seen: Iterable[str], what: str, where: str) -> None:
    """Raise ConfigurationError if examples ask what has been seen elsewhere.

    ``seen`` holds digests of ``question_of``; ``what`` and ``where`` name the examples and the place, for the message.
    """
    known = set(seen)
    shared = [example for example in examples if question_of(example) in known]
    if shared:
        raise ConfigurationError(
            f"{len(shared)} of {len(examples)} {what} examples are among those {where}; "
            "leave them out, or what is measured is memory"
        )


def _digest(inputs: Mapping[str, Any]) -> str:
    # as a program file writes demos: one that was read from a file equals the example that it was made of
    return digest(_casefolded(to_jsonable_python(canonical(dict(inputs)), bytes_mode="base64", fallback=str)))


def _casefolded(value: Any) -> Any:
    if isinstance(value, str):
        return value.casefold()
    if isinstance(value, dict):
        return {key: _casefolded(part) for key, part in value.items()}
    return [_casefolded(part) for part in value] if isinstance(value, list) else value
