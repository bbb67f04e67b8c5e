"""Demos that are chosen by likeness to the inputs, where a plan cannot tell which of them a call will show."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import dspy

from moa_dspy.run.knn_demos import WORDS, Nearest

__all__ = ["choice_notes", "with_settled_demos"]


def with_settled_demos(predictor: dspy.Predict, *, assumed: bool) -> dspy.Predict:
    """Return ``predictor`` where a rehearsal chooses its demos as a run would, else a copy that shows typical ones.

    A placeholder is like no demo more than another, and a vectorizer of one's own may be a model that has to be called.

    Args:
        predictor: the program's; it is not changed.
        assumed: whether the inputs are placeholders.
    """
    nearest = _choice(predictor)
    if nearest is None or _is_known(nearest, assumed=assumed):
        return predictor
    settled = copy.copy(predictor)
    settled.demos = _of_median_length(predictor, nearest.k)
    Nearest.set_on(settled, None)
    return settled


def choice_notes(predictors: Sequence[dspy.Predict], *, assumed: bool) -> Iterator[str]:
    """Yield what is assumed of demos for want of knowing which are chosen."""
    choices = dict.fromkeys(choice for predictor in predictors if (choice := _choice(predictor)) is not None)
    numbers = sorted({choice.k for choice in choices if not _is_known(choice, assumed=assumed)})
    if numbers:
        shown = " or ".join(str(number) for number in numbers)
        why = "there is no input" if assumed else "their vectorizer may be a model, which a plan does not call"
        yield f"which demos are nearest to the input is not known, as {why}: the {shown} of median length are assumed"


def _choice(predictor: dspy.Predict) -> Nearest | None:
    """Return how ``predictor`` chooses among its demos; None where it shows all of them."""
    nearest = Nearest.of(predictor)
    return nearest if nearest is not None and len(predictor.demos) > nearest.k else None


def _is_known(nearest: Nearest, *, assumed: bool) -> bool:
    return nearest.vectorizer == WORDS and not assumed


def _of_median_length(predictor: dspy.Predict, k: int) -> list[Any]:
    """Return the ``k`` demos in the middle, by the characters that a prompt shows of them."""
    signature: Any = predictor.signature  # declared as an instance, used as the class it is
    by_length = sorted(
        predictor.demos,
        key=lambda demo: sum(len(str(value)) for name, value in demo.items() if name in signature.fields),
    )
    start = (len(by_length) - k) // 2
    return by_length[start : start + k]
