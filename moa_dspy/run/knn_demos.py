"""Demos by likeness: of a predictor's demos, only those nearest to the question are shown.

DSPy's KNNFewShot finds a question's nearest training examples, bootstraps demos from them and replaces the program's
``forward`` by that, so its result cannot be saved and pays for the bootstrapping with every question. Here the demos
are made once, stay on their predictors, and are only chosen when a question comes, by the same ``dspy.KNN``: no call
more, and a program like any other, in one file.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import dspy

from moa_dspy._dspy import set_input_keys
from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["WORDS", "Nearest", "Vectorizer", "shown_demos"]

WORDS: Final = "words"
_DIMENSIONS: Final = 512
_ATTRIBUTE: Final = "nearest"

Vectorizer: TypeAlias = "str | Callable[[list[str]], np.ndarray]"


@dataclass(frozen=True)
class Nearest:
    """How a predictor chooses among its demos.

    Attributes:
        k: how many are shown, at least 1.
        fields: the input fields that are compared, those of the task.
        vectorizer: ``"words"`` (shared words and their beginnings; needs no model), the name of an embedding model, or
            a function from texts to vectors, with which a program cannot be saved.
    """

    k: int
    fields: tuple[str, ...]
    vectorizer: Vectorizer = WORDS

    def __post_init__(self) -> None:
        if type(self.k) is not int or self.k < 1:
            raise ConfigurationError(f"k={self.k!r} is not a number of demos to show; give at least 1")

    @staticmethod
    def of(predictor: dspy.Predict) -> Nearest | None:
        """Return how ``predictor`` chooses, or None where it shows all its demos."""
        return vars(predictor).get(_ATTRIBUTE)

    @staticmethod
    def set_on(predictor: dspy.Predict, nearest: Nearest | None) -> None:
        """Let ``predictor`` choose like this; with None it shows all its demos."""
        if nearest is None:
            vars(predictor).pop(_ATTRIBUTE, None)
        else:
            setattr(predictor, _ATTRIBUTE, nearest)

    def content(self) -> dict[str, Any]:
        """Return what a program file says of it.

        Raises:
            ConfigurationError: the vectorizer is code.
        """
        if not isinstance(self.vectorizer, str):
            raise ConfigurationError(
                "a vectorizer that is a function cannot be saved; use 'words' or the name of an embedding model"
            )
        return {**asdict(self), "fields": list(self.fields)}

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> Self:
        """Return what ``content`` said.

        Raises:
            TypeError: it was something else.
        """
        fields, vectorizer = content["fields"], content["vectorizer"]
        if not isinstance(vectorizer, str) or not all(isinstance(name, str) for name in fields):
            raise TypeError("the choice of demos is not described by names")
        return cls(content["k"], tuple(fields), vectorizer)

    def choose(self, demos: Sequence[Any], inputs: Mapping[str, Any]) -> list[Any]:
        """Return the ``k`` of ``demos`` nearest to ``inputs``, the nearest first."""
        if len(demos) <= self.k:
            return list(demos)
        pool: list[Any] = [_Place(index, demo, self.fields) for index, demo in enumerate(demos)]
        found = dspy.KNN(self.k, pool, _embedder(self.vectorizer))(**_compared(inputs, self.fields))
        return [demos[place.index] for place in found]


async def shown_demos(predictor: dspy.Predict, inputs: Mapping[str, Any]) -> list[Any]:
    """Return the demos that ``predictor`` shows with ``inputs``."""
    nearest = Nearest.of(predictor)
    if nearest is None:
        return list(predictor.demos)
    return await asyncio.to_thread(nearest.choose, predictor.demos, inputs)


class _Place(dspy.Example):
    """A demo's compared fields, as the example that dspy.KNN takes, and where the demo stands."""

    def __init__(self, index: int, demo: Mapping[str, Any], fields: Sequence[str]) -> None:
        super().__init__(**_compared(demo, fields))
        object.__setattr__(self, "index", index)
        set_input_keys(self, fields)


def _compared(values: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    return {name: values[name] for name in fields if name in values}


def _embedder(vectorizer: Vectorizer) -> Any:
    if vectorizer == WORDS:
        return _words
    return dspy.Embedder(vectorizer, caching=isinstance(vectorizer, str))


def _words(texts: list[str]) -> np.ndarray:
    """Vectors of length 1 whose product is high where texts share words."""
    import numpy as np  # costs as much as a sixth of importing dspy, and few programs choose demos

    vectors = np.zeros((len(texts), _DIMENSIONS), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.casefold()):
            for part in {word, word[:4]}:
                vectors[row, _bucket(part)] += 1.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-9)


def _bucket(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") % _DIMENSIONS
