"""Suppress the output of DSPy's, GEPA's and Optuna's optimizers.

They print, draw progress bars and log every trial; most of this has no option. Only output of the optimizer's own
context is dropped. That of other threads, and of functions marked ``audible``, is kept.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
import optuna

__all__ = ["audible", "seeded", "silenced"]

P = ParamSpec("P")
T = TypeVar("T")

_LOGGERS: Final = ("dspy.teleprompt", "dspy.evaluate", "dspy.propose", "dspy.predict", "dspy.utils.parallelizer")

_muted: ContextVar[bool] = ContextVar("muted", default=False)
_lock = threading.Lock()
_blocks = 0
_restore = contextlib.ExitStack()


class _Filter:
    """A stream that drops text written in a muted context."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        return len(text) if _muted.get() else self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _ErrorList(logging.Handler):
    """Collects the errors that DSPy logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(" ".join(record.getMessage().split())[:500])


@contextlib.contextmanager
def silenced(*, output: bool = True) -> Iterator[list[str]]:
    """Suppress log messages of optimizers, and with ``output`` what they print, within the block.

    Blocks may overlap, in several threads. The block's value collects the errors that DSPy logs in it: failed runs and
    metrics, which DSPy scores as 0.
    """
    global _blocks
    errors = _ErrorList()
    with _lock:
        _blocks += 1
        if _blocks == 1:
            _silence(_restore)
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(errors)
    token = _muted.set(output)
    try:
        yield errors.messages
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # an unfinished progress bar draws itself when it is freed
        raise
    finally:
        _muted.reset(token)
        with _lock:
            for name in _LOGGERS:
                logging.getLogger(name).removeHandler(errors)
            _blocks -= 1
            if not _blocks:
                _restore.close()


def audible(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function with its output kept while optimizers are silenced."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        token = _muted.set(False)
        try:
            return function(*args, **kwargs)
        finally:
            _muted.reset(token)

    return call


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators within the block, and restore their state afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _silence(stack: contextlib.ExitStack) -> None:
    stack.enter_context(contextlib.redirect_stdout(_Filter(sys.stdout)))
    stack.enter_context(contextlib.redirect_stderr(_Filter(sys.stderr)))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        stack.callback(logger.setLevel, logger.level)
        stack.callback(setattr, logger, "propagate", logger.propagate)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
    stack.callback(optuna.logging.set_verbosity, optuna.logging.get_verbosity())
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
