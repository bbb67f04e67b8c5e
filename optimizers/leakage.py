"""What examples ask: which ask the same, and which a program has seen or shows to its models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy

from moa_dspy._dspy import has_input_keys
from moa_dspy.data.splitting import canonical
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.fingerprint import digest
from moa_dspy.program import AttentionMoA

__all__ = ["asked", "check_examples", "distinct", "refuse_overlap", "shown_by"]


def check_examples(examples: Iterable[dspy.Example]) -> None:
    """Refuse examples that do not say what their inputs are.

    Raises:
        ConfigurationError: says how they do.
    """
    if any(not has_input_keys(example) for example in examples):
        raise ConfigurationError("the examples do not say what their inputs are; use example.with_inputs('question')")


def asked(example: dspy.Example) -> str:
    """Return a digest of what an example asks: its inputs, without their letter case and spacing.

    Raises:
        ConfigurationError: the example does not say what its inputs are.
    """
    check_examples([example])
    return _digest(example.inputs().toDict())


def distinct(examples: Iterable[dspy.Example]) -> list[dspy.Example]:
    """Return the first of all examples that ask the same: a question asked twice is no second piece of evidence."""
    found: dict[str, dspy.Example] = {}
    for example in examples:
        found.setdefault(asked(example), example)
    return list(found.values())


def shown_by(*programs: AttentionMoA) -> set[str]:
    """Return what the demos of programs ask, as ``asked`` says it."""
    return {
        _digest({name: demo[name] for name in program.task.input_fields if name in demo})
        for program in programs
        for _, predictor in program.named_predictors()
        for demo in predictor.demos
    }


def refuse_overlap(examples: Sequence[dspy.Example], seen: Iterable[str], what: str, where: str) -> None:
    """Refuse examples that ask what is asked elsewhere, in whatever letter case and spacing.

    Args:
        examples: of which none may ask what is in ``seen``.
        seen: what the others ask, see ``asked``.
        what: what ``examples`` are, for the message.
        where: among which they must not be.

    Raises:
        ConfigurationError: says how many are.
    """
    there = set(seen)
    shared = [example for example in examples if asked(example) in there]
    if shared:
        raise ConfigurationError(
            f"{len(shared)} of {len(examples)} {what} examples are among those {where}; "
            "leave them out, or what is measured is memory"
        )


def _digest(inputs: Mapping[str, Any]) -> str:
    return digest(_folded(canonical(dict(inputs))))


def _folded(value: Any) -> Any:
    if isinstance(value, str):
        return value.casefold()
    if isinstance(value, dict):
        return {key: _folded(part) for key, part in value.items()}
    return [_folded(part) for part in value] if isinstance(value, list) else value
