"""Splits that do not change when a data set grows: intervals of a hash of each example's inputs and the seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import dspy

from moa_dspy.errors import ConfigurationError

__all__ = ["Split", "canonical", "first_or_sampled", "sample", "split", "unit_hash"]

_DEFAULT = (0.6, 0.2, 0.2)


class Split(NamedTuple):
    """Three lists of examples, each in the original order."""

    train: list[dspy.Example]
    val: list[dspy.Example]
    test: list[dspy.Example]


def split(
    examples: Iterable[dspy.Example],
    *,
    train: float | None = None,
    val: float | None = None,
    test: float | None = None,
    seed: int = 0,
) -> Split:
    """Split examples by their content.

    Examples with the same inputs are always in the same split, whatever their labels. White space and Unicode form are
    ignored. The sizes are approximate: cut the lists afterwards if you need exact sizes.

    Args:
        examples: the examples, with inputs set.
        train: share of the training split. Shares that are None divide the rest; by default 0.6, 0.2 and 0.2.
        val: share of the validation split.
        test: share of the test split.
        seed: another seed gives another split.

    Returns:
        Training, validation and test examples. If all shares are given and sum to less than 1, the rest is left out.

    Raises:
        ConfigurationError: if a share is not from 0 to 1, or the shares sum to more than 1.
    """
    first, second, third = _shares(train, val, test)
    parts = Split([], [], [])
    for example in examples:
        position = unit_hash(example, seed)
        if position < first:
            parts.train.append(example)
        elif position < first + second:
            parts.val.append(example)
        elif position < first + second + third or first + second + third > 1 - 1e-9:
            parts.test.append(example)
    return parts


def sample(examples: Iterable[dspy.Example], limit: int | None = None, *, seed: int = 0) -> list[dspy.Example]:
    """Return a random sample by content. A larger sample contains the smaller. The original order has no effect.

    Args:
        examples: the examples, with inputs set.
        limit: maximum number of examples; None returns all of them, shuffled.
        seed: another seed gives another sample.

    Raises:
        ConfigurationError: if `limit` is not a whole number from 0.
    """
    _check_limit(limit)
    # The split numbers are not used here: a small sample would then contain examples of the first split only.
    return sorted(examples, key=lambda example: _hashed(example, f"sample {seed}"))[:limit]


def first_or_sampled(examples: Iterator[dspy.Example], limit: int | None, seed: int | None) -> list[dspy.Example]:
    """Return the first `limit` examples, or a random sample of them if `seed` is given."""
    _check_limit(limit)
    return list(itertools.islice(examples, limit)) if seed is None else sample(examples, limit, seed=seed)


def _check_limit(limit: int | None) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise ConfigurationError(f"limit must be a whole number from 0, got {limit!r}")


def unit_hash(example: dspy.Example, seed: int = 0) -> float:
    """Return the number of an example in [0, 1): a hash of the seed and its inputs."""
    return _hashed(example, str(seed))


def _hashed(example: dspy.Example, salt: str) -> float:
    inputs = example.inputs().toDict()
    text = json.dumps(canonical(inputs), sort_keys=True, ensure_ascii=False, default=str)
    digest = hashlib.sha256(f"{salt}\n{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def canonical(value: Any) -> Any:
    """Return a value as JSON values. White space, Unicode form and type of container are normalised."""
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFC", value).split())
    if hasattr(value, "model_dump"):
        return canonical(value.model_dump())
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):  # their order differs between processes
        return sorted((canonical(item) for item in value), key=repr)
    return [canonical(item) for item in value] if isinstance(value, list | tuple) else value


def _shares(train: float | None, val: float | None, test: float | None) -> tuple[float, float, float]:
    shares = (train, val, test)
    if shares == (None, None, None):
        return _DEFAULT
    given = [share for share in shares if share is not None]
    for share in given:
        if not 0 <= share <= 1:
            raise ConfigurationError(
                f"train, val and test are shares from 0 to 1, not {share!r}: a fixed count could not stay stable when "
                "examples are added; cut the list afterwards"
            )
    if sum(given) > 1 + 1e-9:
        raise ConfigurationError(f"train, val and test sum to {sum(given):g}; they may not exceed 1")
    rest = max(0.0, 1 - sum(given)) / max(1, shares.count(None))
    first, second, third = (rest if share is None else float(share) for share in shares)
    return first, second, third
