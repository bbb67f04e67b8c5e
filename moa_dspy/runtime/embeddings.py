"""Calls of embedding models: counted, limited and repeated like calls of language models.

They choose the demos nearest to a question, see ``knn_demos``. A text is embedded once in a process.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dspy.utils.exceptions import LMServerError

from moa_dspy._dspy import get_litellm, lm_errors
from moa_dspy.cost.meter import UsageMeter
from moa_dspy.cost.prices import offline_prices, price_list
from moa_dspy.cost.tokens import TokenCounter
from moa_dspy.errors import ConfigurationError
from moa_dspy.runtime.event_loop import in_thread

if TYPE_CHECKING:
    import numpy as np

__all__ = ["EmbeddingModel", "Embeddings", "Request", "embedding_price"]

_BATCH: Final = 200  # texts in a request
_KEPT: Final = 4_000  # vectors in a process


class _NoRetries(int):
    """A zero that LiteLLM does not take for a missing number, for which it uses two."""

    def __bool__(self) -> bool:
        return True


_NO_RETRIES: Final = _NoRetries(0)

_kept: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
_kept_lock: Final = threading.Lock()


class EmbeddingModel:
    """An embedding model in the place of a language model, so that a step's requests to both take one way.

    Attributes:
        model: its name.
        vectors: by text, those of this run.
        acall: embeds texts, and reports the usage to the meter of a step.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.vectors: dict[str, np.ndarray] = {}
        self.acall: Callable[..., Awaitable[list[Any]]] = self._embed

    async def _embed(self, texts: Sequence[str], meter: UsageMeter) -> list[Any]:
        import numpy as np

        litellm = await in_thread(_litellm)
        with lm_errors(self.model):  # retries and timeouts are those of the run
            response = await litellm.aembedding(
                model=self.model, input=list(texts), num_retries=0, max_retries=_NO_RETRIES
            )
        vectors = [np.asarray(entry["embedding"], dtype=np.float32) for entry in response.data]
        reported = int(getattr(response.usage, "prompt_tokens", 0) or 0)
        await in_thread(self.report, texts, meter, reported)
        if len(vectors) != len(texts):
            raise LMServerError(f"{len(texts)} texts have {len(vectors)} embeddings", model=self.model)
        self.vectors.update(zip(texts, vectors, strict=True))
        return []

    def report(self, texts: Sequence[str], meter: UsageMeter, tokens: int = 0) -> None:
        """Report a call to the meter. Tokens that the server did not report are counted from the texts."""
        tokens = tokens or sum(TokenCounter().count(self.model, text) for text in texts)
        price = embedding_price(self.model)
        meter.add_usage(self.model, {"prompt_tokens": tokens, "completion_tokens": 0})
        meter.history.append({"model": self.model, "cost": None if price is None else price * tokens})


Request: TypeAlias = Callable[[EmbeddingModel, Sequence[str]], Awaitable[Any]]
"""Sends texts to an embedding model as a request of a step."""


class Embeddings:
    """The embeddings of one run.

    Attributes:
        assumed: whether no request is sent, so that there are no vectors, as in a rehearsal.
        in_dollars: whether the run has a budget in dollars, so that prices must be known.
    """

    def __init__(self, *, assumed: bool = False, in_dollars: bool = False) -> None:
        self.assumed, self.in_dollars = assumed, in_dollars
        self._models: dict[str, EmbeddingModel] = {}
        self._lock = asyncio.Lock()

    async def of(self, model: str, texts: Sequence[str], request: Request) -> dict[str, np.ndarray] | None:
        """Return the vectors of texts, or None in a rehearsal. Steps that need the same texts share one request.

        Raises:
            ConfigurationError: if the run has a budget in dollars and the model's price is unknown.
        """
        embedder = self._embedder(model)
        async with self._lock:
            missing = [text for text in dict.fromkeys(texts) if text not in embedder.vectors]
            if not self.assumed:
                embedder.vectors |= _recalled(model, missing)
                missing = [text for text in missing if text not in embedder.vectors]
            for start in range(0, len(missing), _BATCH):
                await request(embedder, missing[start : start + _BATCH])
        if self.assumed:
            return None
        _keep(model, {text: embedder.vectors[text] for text in missing})
        return embedder.vectors

    def _embedder(self, model: str) -> EmbeddingModel:
        if model not in self._models:
            if self.in_dollars and embedding_price(model) is None:
                raise ConfigurationError(
                    f"the price of the embedding model {model} is unknown, so a budget in dollars cannot hold; "
                    "limit calls or tokens instead"
                )
            embedder = self._models[model] = EmbeddingModel(model)
            if self.assumed:
                embedder.acall = _assumed(embedder)
        return self._models[model]


def embedding_price(model: str) -> float | None:
    """Return the dollars of a token of an embedding model, or None if the price is unknown."""
    prices = price_list()
    entry = prices.get(model) or prices.get(model.partition("/")[2]) or {}
    rate = entry.get("input_cost_per_token")
    return float(rate) if isinstance(rate, int | float) else None


def _assumed(embedder: EmbeddingModel) -> Callable[..., Awaitable[list[Any]]]:
    async def report(texts: Sequence[str], meter: UsageMeter) -> list[Any]:
        import numpy as np

        embedder.report(texts, meter)
        embedder.vectors.update(dict.fromkeys(texts, np.zeros(0)))
        return []

    return report


def _litellm() -> Any:
    with offline_prices(unless_set=True):
        return get_litellm()


def _recalled(model: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
    with _kept_lock:
        return {text: _kept[model, text] for text in texts if (model, text) in _kept}


def _keep(model: str, vectors: dict[str, np.ndarray]) -> None:
    with _kept_lock:
        _kept.update({(model, text): vector for text, vector in vectors.items()})
        while len(_kept) > _KEPT:
            _kept.popitem(last=False)
