"""Splits that stay what they are when a set grows.

Every example has a fixed place between 0 and 1: a hash of its inputs and the seed. A split is an interval of places. So
an example's split depends on nothing but itself: not on order, not on what else is there, not on the machine.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

import dspy

from moa_dspy.errors import ConfigurationError

__all__ = ["Split", "canonical", "check_limit", "place", "sample", "split"]

_DEFAULT = (0.6, 0.2, 0.2)


class Split(NamedTuple):
    """Three lists of examples, each in the given order."""

    train: list[dspy.Example]
    val: list[dspy.Example]
    test: list[dspy.Example]


def split(
    examples: Iterable[dspy.Example],
    train: float | None = None,
    val: float | None = None,
    test: float | None = None,
    seed: int = 0,
) -> Split:
    """Split examples by their content.

    Examples with the same inputs (but for white space and Unicode form) are always in the same split, whatever their
    labels. Sizes are therefore near the shares, not exact; cut lists afterwards where a size is needed.

    Args:
        examples: any examples with inputs set.
        train: share of the training split. Shares that are not given divide what is left; with none given they
            are 0.6, 0.2 and 0.2.
        val: share of the validation split.
        test: share of the test split.
        seed: another seed is another split.

    Returns:
        Train, validation and test examples. Where all three shares are given and sum to less than 1, the rest is left
        out.

    Raises:
        ConfigurationError: a share is not between 0 and 1, or they sum to more than 1.
    """
    first, second, third = _shares(train, val, test)
    parts = Split([], [], [])
    for example in examples:
        where = place(example, seed)
        if where < first:
            parts.train.append(example)
        elif where < first + second:
            parts.val.append(example)
        elif where < first + second + third or first + second + third > 1 - 1e-9:
            parts.test.append(example)
    return parts


def sample(examples: Iterable[dspy.Example], limit: int | None = None, seed: int = 0) -> list[dspy.Example]:
    """A random sample by content: a larger one holds the smaller, and order of the given examples plays no part.

    Args:
        examples: any examples with inputs set.
        limit: how many at most; None is all of them, shuffled.
        seed: another seed is another sample.

    Raises:
        ConfigurationError: the limit is no whole number from 0.
    """
    check_limit(limit)
    # Places of its own: by those of the splits a sample would be the first split, and nothing of the others.
    return sorted(examples, key=lambda example: _hashed(example, f"sample {seed}"))[:limit]


def check_limit(limit: int | None) -> None:
    """Refuse a limit that is no whole number from 0.

    Raises:
        ConfigurationError: it says what was given.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise ConfigurationError(f"limit is 0 or more, a whole number, not {limit!r}")


def place(example: dspy.Example, seed: int = 0) -> float:
    """An example's place in [0, 1), from a hash of the seed and its inputs."""
    return _hashed(example, str(seed))


def _hashed(example: dspy.Example, salt: str) -> float:
    inputs = example.inputs().toDict()
    text = json.dumps(canonical(inputs), sort_keys=True, ensure_ascii=False, default=str)
    digest = hashlib.sha256(f"{salt}\n{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def canonical(value: Any) -> Any:
    """A value as JSON values that are equal where white space, Unicode form and kind of container alone differ."""
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFC", value).split())
    if hasattr(value, "model_dump"):
        return canonical(value.model_dump())
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):  # in no order, and another one in each process
        return sorted((canonical(item) for item in value), key=repr)
    return [canonical(item) for item in value] if isinstance(value, list | tuple) else value


def _shares(train: float | None, val: float | None, test: float | None) -> tuple[float, float, float]:
    given = (train, val, test)
    if given == (None, None, None):
        return _DEFAULT
    for share in given:
        if share is not None and not 0 <= share <= 1:
            raise ConfigurationError(
                f"train, val and test are shares from 0 to 1, not {share!r}: a fixed count could not stay stable when "
                "examples are added; cut the list afterwards"
            )
    total = sum(share for share in given if share is not None)
    if total > 1 + 1e-9:
        raise ConfigurationError(f"train, val and test sum to {total:g}; they may not exceed 1")
    rest = max(0.0, 1 - total) / max(1, given.count(None))
    first, second, third = (rest if share is None else float(share) for share in given)
    return first, second, third
