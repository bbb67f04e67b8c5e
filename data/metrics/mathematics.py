"""Mathematical equivalence of LaTeX expressions, thread-safe and with an enforced time limit.

The time limits of math-verify use signals, which only the main thread may set. They are disabled here. Comparisons run
in at most two worker processes. A worker whose comparison takes too long is killed.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import dspy

from moa_dspy.data.metrics.metric import TextMetric
from moa_dspy.errors import ConfigurationError, RunError

__all__ = ["TEXT_MAX", "MathEquivalence", "answer_of", "equivalent", "last_boxed", "without_latex"]

TEXT_MAX = 100_000
"""Only this many characters at the end of a text are searched for an answer."""

_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s{0,9}\{)|\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed) ?\{([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\(?:[ ,;:!]|q?quad\b)|~")
_EXPRESSION_MAX = 500
_START_SECONDS = 120.0
_WORKERS_MAX = 2
_IGNORED = re.compile(r"\\!|\\(?:left|right)(?![A-Za-z])")
_SPACE = re.compile(r"(?:\s|\\[,;: ]|~)+")
_IDLE_SPACE = re.compile(r"(?<!\w) | (?!\w)")
_THOUSANDS = re.compile(r"(?<![\d ])(\d{1,3})((?: \d{3})+)(?![\d ])")
_NUMBERS_APART = re.compile(r"[+-]?\d+(?: \d+)+")
_BASE = re.compile(r"\d_\{?(\d+)")
_ANSWER_IS = re.compile(r"(?:\banswer\s*(?:is|:)\s*:?)([^\n]*)", re.IGNORECASE)


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last closed `\boxed{...}`, with nested braces; None if there is none.

    A nested box is part of the outer one. An empty box is used only if there is no other.
    """
    text = text[-TEXT_MAX:]
    content: str | None = None
    starts: list[int | None] = []  # of each open brace; None for one that is no box
    for match in _BRACE.finditer(text):
        if match["box"] or match[0] == "{":
            starts.append(match.end() if match["box"] else None)
        elif match[0] == "}" and starts and (start := starts.pop()) is not None:
            inside = text[start : match.start()]
            content = inside if inside.strip() or content is None else content
    return content


def without_latex(text: str) -> str:
    """Return a text without LaTeX commands around its words, and with single spaces."""
    return " ".join(_LATEX_SPACE.sub(" ", _WRAPPER.sub(r"\1", text)).split())


def answer_of(text: str) -> str:
    r"""Return the final expression of a solution: the last `\boxed{}`, else after "answer is", else the last line."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    marked = [match[1] for match in _ANSWER_IS.finditer(text) if match[1].strip()]
    lines = text.strip().splitlines()
    answer = (marked or lines or [""])[-1].strip()
    return re.sub(r"^(\$+|\\\(|\\\[)|(\$+|\\\)|\\\])\.?$", "", answer.removesuffix(".")).strip().strip("*")


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
    one, other = _tidy(reference), _tidy(answer)
    if one == other:
        return True
    if _BASE.findall(one) != _BASE.findall(other) or _NUMBERS_APART.fullmatch(one) or _NUMBERS_APART.fullmatch(other):
        return False  # math-verify ignores bases, and reads "1 2" as 12
    return _workers().equal(reference, answer, seconds)


def _tidy(expression: str) -> str:
    """Return an expression with normalised spaces. Only spaces that separate words and numbers are kept."""
    spaced = _SPACE.sub(" ", _IGNORED.sub("", expression)).strip()
    joined = _THOUSANDS.sub(lambda match: match[0].replace(" ", ""), spaced)
    return _IDLE_SPACE.sub("", joined)


@dataclass(frozen=True)
class MathEquivalence(TextMetric):
    r"""The last `\boxed{}` of the output is mathematically equal to the answer (math-verify, extra `eval`).

    Attributes:
        seconds: time limit of a comparison; a comparison that takes longer counts as wrong.
    """

    seconds: float = 10.0

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Return whether the expressions are equivalent."""
        return equivalent(answer_of(accepted), answer_of(output), seconds=self.seconds)

    def read(self, output: str, example: dspy.Example) -> str:  # noqa: ARG002
        """Return the final expression of the output."""
        return answer_of(output)


class _Worker:
    """A worker process with its two pipes."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", str(Path(__file__).with_name("math_worker.py"))]
        self._process = subprocess.Popen(  # noqa: S603 - our own file, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        if not self._read(_START_SECONDS):
            self.close()
            raise RunError("the process that compares mathematical expressions did not start")

    def equal(self, reference: str, answer: str, seconds: float) -> bool | None:
        """Return the verdict, or None if the process was killed or has ended."""
        if self._process.stdin is None:
            return None
        try:
            self._process.stdin.write(json.dumps([reference, answer]) + "\n")
            self._process.stdin.flush()
        except OSError:
            return None
        reply = self._read(seconds)
        return bool(reply["equal"]) if reply else None

    def _read(self, seconds: float) -> dict[str, object]:
        timer = threading.Timer(seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline() if self._process.stdout else ""
        finally:
            timer.cancel()
        return dict(json.loads(line)) if line.endswith("\n") else {}

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        self._process.wait()


class _Workers:
    """At most two workers, started on first use. Each is used by one thread at a time."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(_WORKERS_MAX):
            self._free.put(None)
        atexit.register(self.close)

    def equal(self, reference: str, answer: str, seconds: float) -> bool:
        worker = self._free.get()
        try:
            worker = worker or _Worker()
            verdict = worker.equal(reference, answer, seconds)
            if verdict is None:
                worker.close()
                worker = None
        finally:
            self._free.put(worker)
        return bool(verdict)

    def close(self) -> None:
        """End the workers, but only in the process that started them and not in its forks."""
        while self._owner == os.getpid() and not self._free.empty():
            worker = self._free.get_nowait()
            if worker is not None:
                worker.close()


_workers_of: dict[int, _Workers] = {}
_lock = threading.Lock()


def _workers() -> _Workers:
    """Return the workers of this process. A fork has its own."""
    with _lock:
        if os.getpid() not in _workers_of:
            if find_spec("math_verify") is None:
                raise ConfigurationError("comparing mathematics needs math-verify: install moa-dspy[eval]")
            _workers_of[os.getpid()] = _Workers()
        return _workers_of[os.getpid()]
