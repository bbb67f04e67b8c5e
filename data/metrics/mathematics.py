"""Mathematical equivalence of LaTeX expressions, thread-safe and with an enforced time limit.

math-verify's own time limits use signals, which only the main thread may set. They are switched off. Comparisons run in
at most two worker processes, and a worker that takes too long is killed.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import queue
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import dspy

from moa_dspy.data.metrics.expressions import final_expression, in_latex
from moa_dspy.data.metrics.metric import TextMetric
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.extras import require_eval

__all__ = ["MathEquivalence", "equivalent"]

_EXPRESSION_MAX = 500
_START_SECONDS = 120.0
_WORKERS_MAX = 2
_IGNORED = re.compile(r"\\!|\\(?:left|right)(?![A-Za-z])")
_SPACE = re.compile(r"(?:\s|\\[,;: ]|~)+")
_IDLE_SPACE = re.compile(r"(?<!\w) | (?!\w)")
_THOUSANDS = re.compile(r"(?<![\d ])(\d{1,3})((?: \d{3})+)(?![\d ])")
_NUMBERS_APART = re.compile(r"[+-]?\d+(?: \d+)+")
_SIGN_OF_EQUALITY = re.compile(r"(?<![<>!:=])=(?!=)")
_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}")
_BASE = re.compile(r"\d_\{?(\d+)")


def equivalent(reference: str, answer: str, *, seconds: float = 10.0) -> bool:
    """Return whether two LaTeX expressions are mathematically equal.

    Args:
        reference: the right expression. The comparison is not symmetric: an interval may answer a set, but a set does
            not answer an interval.
        answer: the expression to check. An expression of more than 500 characters never matches.
        seconds: time limit of the comparison. Starting a worker and waiting for one are not included.

    Raises:
        ConfigurationError: if math-verify is not installed.
    """
    if not reference.strip() or not answer.strip() or max(len(reference), len(answer)) > _EXPRESSION_MAX:
        return False
    reference, answer = in_latex(reference), in_latex(answer)
    one, other = _tidy(reference), _tidy(answer)
    if one == other:
        return True
    if _BASE.findall(one) != _BASE.findall(other) or _NUMBERS_APART.fullmatch(one) or _NUMBERS_APART.fullmatch(other):
        return False  # math-verify ignores bases, and reads "1 2" as 12
    with _lock:
        free = _workers_of(os.getpid())
    worker = free.get()
    sides = _SIGN_OF_EQUALITY.split(answer)
    try:
        if worker.equal(reference, answer, seconds):
            return True
        if len(sides) == 1 or "=" in reference or "," in _BRACKETS.sub("", answer):
            return False
        return worker.equal(reference, sides[-1], seconds)
    finally:
        free.put(worker)


def _tidy(expression: str) -> str:
    """Return an expression with only those spaces that separate words and numbers."""
    spaced = _SPACE.sub(" ", _IGNORED.sub("", expression)).strip()
    joined = _THOUSANDS.sub(lambda match: match[0].replace(" ", ""), spaced)
    return _IDLE_SPACE.sub("", joined)


@dataclass(frozen=True)
class MathEquivalence(TextMetric):
    r"""The final expression of the output is mathematically equal to the answer (math-verify, extra `eval`).

    `final_expression` reads both: the last `\boxed{}`, else the last claim, else the last expression.

    Attributes:
        seconds: time limit of a comparison; a comparison that takes longer counts as wrong.
    """

    seconds: float = 10.0

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Return whether the expressions are equivalent."""
        return equivalent(final_expression(accepted), final_expression(output), seconds=self.seconds)

    def read(self, output: str, example: dspy.Example) -> str:  # noqa: ARG002
        """Return the final expression of the output."""
        return final_expression(output)


class _Worker:
    """A worker process with its two pipes, started on first use. It is used by one thread at a time."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self._end)

    def equal(self, reference: str, answer: str, seconds: float) -> bool:
        """Return the verdict; False if the process ended or was killed at the time limit."""
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 - our own file, no shell
                [sys.executable, "-P", str(Path(__file__).with_name("math_worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
            if not self._reply(self._process, "", _START_SECONDS):
                raise RunError("the process that compares mathematical expressions did not start")
        reply = self._reply(self._process, json.dumps([reference, answer]) + "\n", seconds)
        return bool(reply.get("equal"))

    def _reply(self, process: subprocess.Popen[str], request: str, seconds: float) -> dict[str, object]:
        """Send a request and return the reply. If there is none within the time limit, end the process, return {}."""
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        timer = threading.Timer(seconds, process.kill)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(request)
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if line.endswith("\n"):
            return dict(json.loads(line))
        self._end()
        return {}

    def _end(self) -> None:
        """End the process, but only in the process that started it and not in its forks."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.communicate()
            self._process = None


_lock = threading.Lock()


@functools.cache
def _workers_of(process: int) -> queue.LifoQueue[_Worker]:  # noqa: ARG001 - a fork has its own workers
    """Return the free workers of this process."""
    if problem := require_eval("math_verify", "comparing mathematics"):
        raise ConfigurationError(problem)
    free: queue.LifoQueue[_Worker] = queue.LifoQueue()
    for _ in range(_WORKERS_MAX):
        free.put(_Worker())
    return free
