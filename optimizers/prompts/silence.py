"""DSPy's optimizers without their noise, and without leaving anything behind.

They print, draw progress bars, log every trial, draw from Python's global random generator and set Optuna's verbosity.
All of that is switched off for as long as an optimization runs, and put back afterwards. Standard output itself is not
touched: what a metric or another thread prints is still seen.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import random
import threading
import types
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Final

import numpy as np
import optuna

__all__ = ["own_randomness", "quiet"]

_PRINTING: Final = (
    "dspy.teleprompt.bootstrap",
    "dspy.teleprompt.random_search",
    "dspy.teleprompt.utils",
    "dspy.propose.grounded_proposer",
    "dspy.propose.dataset_summary_generator",
)
_DRAWING_BARS: Final = ("dspy.teleprompt.bootstrap", "dspy.utils.parallelizer")
_LOGGING: Final = ("dspy.teleprompt", "dspy.evaluate", "dspy.propose", "dspy.predict", "dspy.utils.parallelizer")

_lock = threading.Lock()
_guests = 0
_restore = contextlib.ExitStack()


class _NoBar:
    """A progress bar in the manner of tqdm that is never drawn."""

    _instances: ClassVar[set[Any]] = set()

    def __init__(self, iterable: Iterable[Any] = (), **_options: Any) -> None:
        self.n = 0
        self._iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterable)

    def update(self, n: int = 1) -> None:
        """Count."""
        self.n += n

    def set_description(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """There is nothing to close."""


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """Silence DSPy's and GEPA's optimizers within the block; blocks may overlap, in several threads.

    Yields a list of the errors that are logged meanwhile: runs and metrics that failed, which DSPy counts as 0.
    """
    global _guests
    heard = _Errors()
    with _lock:
        _guests += 1
        if _guests == 1:
            _silence(_restore)
        for name in _LOGGING:
            logging.getLogger(name).addHandler(heard)
    try:
        yield heard.messages
    finally:
        with _lock:
            for name in _LOGGING:
                logging.getLogger(name).removeHandler(heard)
            _guests -= 1
            if not _guests:
                _restore.close()


class _Errors(logging.Handler):
    """Keeps the errors that DSPy logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(" ".join(record.getMessage().split())[:300])


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Run the block on global random generators seeded with ``seed``, and leave them to others as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _silence(stack: contextlib.ExitStack) -> None:
    bars = types.SimpleNamespace(tqdm=_NoBar)
    for name in _PRINTING:
        _put(stack, importlib.import_module(name), "print", lambda *_, **__: None)
    for name in _DRAWING_BARS:
        _put(stack, importlib.import_module(name), "tqdm", bars)
    _put(stack, importlib.import_module("gepa.core.engine"), "tqdm", _NoBar)
    for name in _LOGGING:
        logger = logging.getLogger(name)
        stack.callback(logger.setLevel, logger.level)
        stack.callback(setattr, logger, "propagate", logger.propagate)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
    stack.callback(optuna.logging.set_verbosity, optuna.logging.get_verbosity())
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def _put(stack: contextlib.ExitStack, module: types.ModuleType, name: str, value: Any) -> None:
    """Set a global of a module until the stack is unwound."""
    if name in vars(module):
        stack.callback(setattr, module, name, vars(module)[name])
    else:
        stack.callback(delattr, module, name)
    setattr(module, name, value)
