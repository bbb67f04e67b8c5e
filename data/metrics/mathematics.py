"""Mathematical equivalence that is safe in threads and really ends.

math-verify's own time limits use signals, which only the main thread may set. Here they are off; comparisons run in a
small pool of worker processes, and a comparison that takes too long is ended by killing its worker. What may be sent is
bounded in length first.
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
from importlib.util import find_spec
from pathlib import Path

from moa_dspy.data.metrics.answers import last_boxed
from moa_dspy.errors import ConfigurationError, RunError

__all__ = ["answer_of", "equivalent"]

_LENGTH_MAX = 500
_START_SECONDS = 120.0
_POOL = 2
_NOTHING = re.compile(r"\\!|\\(?:left|right)(?![A-Za-z])")
_SPACE = re.compile(r"(?:\s|\\[,;: ]|~)+")
_IDLE_SPACE = re.compile(r"(?<!\w) | (?!\w)")
_THOUSANDS = re.compile(r"(?<![\d ])(\d{1,3})((?: \d{3})+)(?![\d ])")
_NUMBERS_APART = re.compile(r"[+-]?\d+(?: \d+)+")
_BASE = re.compile(r"\d_\{?(\d+)")
_ANSWER_IS = re.compile(r"(?:\banswer\s*(?:is|:)\s*:?)([^\n]*)", re.IGNORECASE)


def answer_of(text: str) -> str:
    r"""The expression that a solution ends in: the last ``\boxed{}``, else after "answer is", else the last line."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    marked = [match[1] for match in _ANSWER_IS.finditer(text) if match[1].strip()]
    lines = text.strip().splitlines()
    answer = (marked or lines or [""])[-1].strip()
    return re.sub(r"^(\$+|\\\(|\\\[)|(\$+|\\\)|\\\])\.?$", "", answer.removesuffix(".")).strip().strip("*")


def equivalent(gold: str, answer: str, *, seconds: float = 10.0) -> bool:
    """Whether two LaTeX expressions are the same mathematics.

    Args:
        gold: the reference. The comparison is not symmetric (an interval may answer a set, not the other way round).
        answer: what was given. More than 500 characters are no answer.
        seconds: after this time the comparison is ended and counts as not equal. Waiting for a process that is free,
            and starting one (some seconds), comes on top.

    Raises:
        ConfigurationError: math-verify is not installed.
    """
    if not gold.strip() or not answer.strip() or max(len(gold), len(answer)) > _LENGTH_MAX:
        return False
    one, other = _tidy(gold), _tidy(answer)
    if one == other:
        return True
    if _BASE.findall(one) != _BASE.findall(other) or _NUMBERS_APART.fullmatch(one) or _NUMBERS_APART.fullmatch(other):
        return False  # math-verify does not look at bases, and reads "1 2" as 12
    return _pool().ask(gold, answer, seconds)


def _tidy(expression: str) -> str:
    """An expression with one spelling of spaces, and with those alone that keep words and numbers apart."""
    spaced = _SPACE.sub(" ", _NOTHING.sub("", expression)).strip()
    joined = _THOUSANDS.sub(lambda match: match[0].replace(" ", ""), spaced)
    return _IDLE_SPACE.sub("", joined)


class _Worker:
    """One process and its two pipes."""

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

    def ask(self, gold: str, answer: str, seconds: float) -> bool | None:
        """The verdict; None when the process had to be ended."""
        if self._process.stdin is None:
            return None
        try:
            self._process.stdin.write(json.dumps([gold, answer]) + "\n")
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


class _Pool:
    """At most two workers, started when first needed, each used by one thread at a time."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(_POOL):
            self._free.put(None)
        atexit.register(self.close)

    def ask(self, gold: str, answer: str, seconds: float) -> bool:
        worker = self._free.get()
        try:
            if worker is None:
                worker = _Worker()
            verdict = worker.ask(gold, answer, seconds)
            if verdict is None:
                worker.close()
                worker = None
        finally:
            self._free.put(worker)
        return bool(verdict)

    def close(self) -> None:
        """End the workers, if this process is the one that started them and not a fork of it."""
        while self._owner == os.getpid() and not self._free.empty():
            worker = self._free.get_nowait()
            if worker is not None:
                worker.close()


_pools: dict[int, _Pool] = {}
_lock = threading.Lock()


def _pool() -> _Pool:
    """This process's pool; a fork gets its own."""
    with _lock:
        if os.getpid() not in _pools:
            if find_spec("math_verify") is None:
                raise ConfigurationError("comparing mathematics needs math-verify: install moa-dspy[eval]")
            _pools[os.getpid()] = _Pool()
        return _pools[os.getpid()]
