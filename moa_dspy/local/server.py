"""One llama.cpp server in a child process, on loopback, behind a random key.

A child process rather than a thread of this one: llama.cpp holds the interpreter's lock while it loads a model, leaves
global threads behind that abort or hang a process after ``os.fork``, and may crash on a damaged file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from moa_dspy.errors import LocalModelError
from moa_dspy.local.files import EMBEDDED

__all__ = ["LocalServer", "LocalSettings"]

# Where other programs use the same CPUs, model threads that wait by spinning keep each other from finishing: on two
# busy cores a token then takes ten times as long and more.
_PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class LocalSettings:
    """How a server is set up.

    Attributes:
        slots: requests that are worked on at once; more wait their turn.
        window: context of each slot in tokens, prompt and answer together. The slots do not share theirs, so a request
            that fits is never failed by its neighbours. SmolLM2 was trained for 8192.
        threads: CPU threads for the model; by default every CPU that this process may use.
        saved_prompts_mib: memory for prompts that left their slot, so that a known prefix is not computed again.
        http_threads: connections served at once. A waiting request holds one, and so does an idle one for a while.
        start_seconds: how long it may take to load the file, from a slow disk as well.
    """

    slots: int = 4
    window: int = 8192
    threads: int | None = None
    saved_prompts_mib: int = 256
    http_threads: int = 64
    start_seconds: float = 600.0


class LocalServer:
    """One llama.cpp server for one GGUF file: OpenAI's chat protocol on a free loopback port, behind a random key.

    Every answer reports ``usage.prompt_tokens_details.cached_tokens`` and ``timings`` (milliseconds and tokens per
    second, for prompt and answer).

    Attributes:
        path: the GGUF file.
        name: what answers call the model.
        settings: slots, context and threads.
        key: the bearer token that every request must carry.
        url: root of the running server, without ``/v1``; empty before ``start``.
    """

    def __init__(self, path: Path, *, name: str = EMBEDDED, settings: LocalSettings | None = None) -> None:
        self.path = path
        self.name = name
        self.settings = settings or LocalSettings()
        self.key = secrets.token_urlsafe(24)
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The server's process, for measuring its memory; None where it does not run."""
        return self._process.pid if self._process is not None and self.alive else None

    def start(self) -> Self:
        """Start the server and wait until it answers; a running server is left alone.

        Raises:
            LocalModelError: llama.cpp could not load the file, or not in time.
        """
        if self.alive:
            return self
        with tempfile.TemporaryFile() as log:
            self._process = self._spawn(log)
            try:
                self.url = self._handshake(log)
            except BaseException:
                self.close()
                raise
        return self

    def close(self) -> None:
        """Stop the server; harmless where it does not run. An interrupt stops it at once, and is passed on."""
        process, self._process, self.url = self._process, None, ""
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(timeout=5)
        except BaseException as impatience:
            process.kill()
            process.wait()
            if not isinstance(impatience, subprocess.TimeoutExpired):
                raise

    def disown(self) -> None:
        """Forget the server in a forked child: it belongs to the parent, which alone may stop it."""
        process, self._process, self.url = self._process, None, ""
        if process is None:
            return
        process.returncode = 0  # not a child of this process: there is nothing to wait for
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()  # the server ends when the last copy of its standard input is closed

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        # The same modules as here, and none from the working directory, where any file may hide a standard one (-P).
        search_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        try:
            return subprocess.Popen(  # noqa: S603 (this interpreter, a constant program)
                [sys.executable or "python3", "-P", "-c", f"from {__name__} import _serve; _serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**_PATIENT_THREADS, **os.environ, "PYTHONPATH": search_path},
            )
        except OSError as error:
            raise LocalModelError(f"the local model's process could not be started: {error}") from error

    def _handshake(self, log: IO[bytes]) -> str:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise LocalModelError("the local model's process has no pipes")
        # The key goes through the pipe: command lines and environments can be read by other users of the machine.
        order = {"path": str(self.path), "name": self.name, "key": self.key, **asdict(self.settings)}
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
        line = self._first_line(process, process.stdout)
        reply: dict[str, str] = json.loads(line) if line else {}
        if "url" in reply:
            return reply["url"]
        log.seek(0)
        last_words = log.read().decode(errors="replace").strip().splitlines()
        reason = "; ".join(filter(None, [reply.get("error"), *last_words[-1:]])) or "its process ended without a word"
        raise LocalModelError(
            f"llama.cpp could not load {self.path} ({reason}): check that the file is complete, that llama.cpp knows "
            "its architecture and that memory suffices"
        )

    def _first_line(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> bytes:
        """What the child says first; a child that says nothing in time is killed, which ends the waiting."""
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.settings.start_seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            line = output.readline()
        finally:
            timer.cancel()
        if late.is_set():
            raise LocalModelError(
                f"llama.cpp did not load {self.path} within {self.settings.start_seconds:g} s: check that the disk can "
                "be read and that memory suffices"
            )
        return line


def _serve() -> None:
    """The child's program: read the order, serve until standard input is closed, that is until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which may well go on
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever C code prints goes to the log
    order: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    try:
        server = _llama(order)
    except Exception as error:  # noqa: BLE001 (told to the parent, which raises it)
        print(json.dumps({"error": str(error)}), file=replies, flush=True)
        os._exit(1)
    print(json.dumps({"url": server.listening_address}), file=replies, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)  # nothing to save, and requests still running have nobody to answer


def _llama(order: dict[str, Any]) -> Any:
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = order["path"]
    params.model_alias = {order["name"]}  # else every answer carries the file's path
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [order["key"]]
    params.n_parallel = order["slots"]
    params.n_ctx = order["slots"] * order["window"]
    params.kv_unified = False
    params.cont_batching = True
    params.ctx_shift = False  # a text that no longer fits is an error, not silently cut
    params.cache_prompt = True
    params.cache_ram_mib = order["saved_prompts_mib"]
    params.cpuparams.n_threads = order["threads"] or _usable_cpus()
    params.n_threads_http = order["http_threads"]
    params.warmup = False
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = 1  # errors only
    return xllamacpp.Server(params)


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
