"""Nearest demos: a predictor shows only the demos nearest to the question.

DSPy's KNNFewShot finds a question's nearest training examples and bootstraps demos from them inside ``forward``. So its
result cannot be saved, and every question pays for the bootstrapping. Here the demos are made once and stay on their
predictors. The same ``dspy.KNN`` chooses among them for each question. This needs no further call, unless the user asks
for an embedding model, and the program can be saved in one file.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import dspy

from moa_dspy._dspy import set_input_keys
from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["WORDS", "Embed", "Nearest", "Vectorizer", "demos_of_median_length", "embedding_models", "shown_demos"]

WORDS: Final = "words"
_DIMENSIONS: Final = 512
_ATTRIBUTE: Final = "nearest"

Vectorizer: TypeAlias = "str | Callable[[list[str]], np.ndarray]"


@dataclass(frozen=True)
class Nearest:
    """How a predictor chooses among its demos.

    Attributes:
        k: number of demos to show, at least 1.
        fields: input fields to compare, among those of the task.
        vectorizer: ``"words"`` (shared words and word beginnings; needs no model), the name of an embedding model,
            whose calls count as calls of the step, or a function from texts to vectors. A program with a function
            cannot be saved.
    """

    k: int
    fields: tuple[str, ...]
    vectorizer: Vectorizer = WORDS

    def __post_init__(self) -> None:
        if type(self.k) is not int or self.k < 1:
            raise ConfigurationError(f"k={self.k!r} is not a number of demos to show; give at least 1")

    @staticmethod
    def of(predictor: dspy.Predict) -> Nearest | None:
        """Return the choice of ``predictor``, or None if it shows all its demos."""
        return vars(predictor).get(_ATTRIBUTE)

    @staticmethod
    def set_on(predictor: dspy.Predict, nearest: Nearest | None) -> None:
        """Set the choice of ``predictor``. With None it shows all its demos."""
        if nearest is None:
            vars(predictor).pop(_ATTRIBUTE, None)
        else:
            setattr(predictor, _ATTRIBUTE, nearest)

    def content(self) -> dict[str, Any]:
        """Return the JSON content for a program file.

        Raises:
            ConfigurationError: if the vectorizer is a function.
        """
        if not isinstance(self.vectorizer, str):
            raise ConfigurationError(
                "a vectorizer that is a function cannot be saved; use 'words' or the name of an embedding model"
            )
        return {**asdict(self), "fields": list(self.fields)}

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> Self:
        """Return the choice that ``content`` describes.

        Raises:
            TypeError: if the vectorizer or a field is not a name.
        """
        fields, vectorizer = content["fields"], content["vectorizer"]
        if not isinstance(vectorizer, str) or not all(isinstance(name, str) for name in fields):
            raise TypeError("the choice of demos is not described by names")
        return cls(content["k"], tuple(fields), vectorizer)

    @property
    def embedding_model(self) -> str | None:
        """Return the name of the embedding model, whose calls are paid; None if no model is asked."""
        return self.vectorizer if isinstance(self.vectorizer, str) and self.vectorizer != WORDS else None

    def choose(self, demos: Sequence[Any], inputs: Mapping[str, Any], vectors: Mapping[str, Any]) -> list[Any]:
        """Return the ``k`` demos nearest to ``inputs``, nearest first. An embedding model made the vectors."""
        pool: list[Any] = [_Place(index, demo, self.fields) for index, demo in enumerate(demos)]
        found = dspy.KNN(self.k, pool, self._embedder(vectors))(**_compared(inputs, self.fields))
        return [demos[place.index] for place in found]

    def texts(self, demos: Sequence[Any], inputs: Mapping[str, Any]) -> list[str]:
        """Return the texts that ``choose`` compares."""
        texts: list[str] = []

        def collect(batch: list[str]) -> np.ndarray:
            texts.extend(batch)
            return _words(batch)

        replace(self, vectorizer=collect).choose(demos, inputs, {})
        return texts

    def _embedder(self, vectors: Mapping[str, Any]) -> Any:
        if callable(self.vectorizer):
            return dspy.Embedder(self.vectorizer, caching=False)
        return _words if self.vectorizer == WORDS else lambda texts: _stacked(vectors, texts)


Embed: TypeAlias = "Callable[[str, Sequence[str]], Awaitable[Mapping[str, np.ndarray] | None]]"
"""Returns the vectors of texts by an embedding model, or None if it is not asked because nothing is paid."""


async def shown_demos(predictor: dspy.Predict, inputs: Mapping[str, Any], embed: Embed | None = None) -> list[Any]:
    """Return the demos that ``predictor`` shows with the inputs of a question.

    ``embed`` asks an embedding model. Without vectors, the demos of median length stand for the nearest.
    """
    nearest, demos = Nearest.of(predictor), list(predictor.demos)
    if nearest is None or len(demos) <= nearest.k:
        return demos
    vectors: Mapping[str, Any] | None = {}
    if nearest.embedding_model is not None:
        texts = await asyncio.to_thread(nearest.texts, demos, inputs)
        vectors = None if embed is None else await embed(nearest.embedding_model, texts)
    if vectors is None:
        return demos_of_median_length(predictor, nearest.k)
    return await asyncio.to_thread(nearest.choose, demos, inputs, vectors)


def embedding_models(predictors: Sequence[dspy.Predict]) -> set[str]:
    """Return the embedding models that choose the demos of some predictors."""
    choices = ((Nearest.of(one), len(one.demos)) for one in predictors)
    return {one.embedding_model for one, demos in choices if one and one.embedding_model and demos > one.k}


def demos_of_median_length(predictor: dspy.Predict, k: int) -> list[Any]:
    """Return the middle ``k`` demos by number of characters in the prompt."""
    signature: Any = predictor.signature  # declared as an instance, but it is a class
    by_length = sorted(
        predictor.demos,
        key=lambda demo: sum(len(str(value)) for name, value in demo.items() if name in signature.fields),
    )
    start = (len(by_length) - k) // 2
    return by_length[start : start + k]


class _Place(dspy.Example):
    """The compared fields of a demo as an example for dspy.KNN, and the demo's index."""

    def __init__(self, index: int, demo: Mapping[str, Any], fields: Sequence[str]) -> None:
        super().__init__(**_compared(demo, fields))
        object.__setattr__(self, "index", index)
        set_input_keys(self, fields)


def _compared(values: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    return {name: values[name] for name in fields if name in values}


def _stacked(vectors: Mapping[str, Any], texts: Sequence[str]) -> np.ndarray:
    import numpy as np

    return np.stack([vectors[text] for text in texts])


def _words(texts: list[str]) -> np.ndarray:
    """Return unit vectors. The product of two is high if their texts share words."""
    import numpy as np  # takes a sixth of the import time of dspy, and few programs choose demos

    vectors = np.zeros((len(texts), _DIMENSIONS), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.casefold()):
            for part in {word, word[:4]}:
                hashed = hashlib.blake2b(part.encode(), digest_size=4).digest()
                vectors[row, int.from_bytes(hashed, "big") % _DIMENSIONS] += 1.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-9)
