"""A llama.cpp server in a child process, on loopback, protected by a random key.

It is a child process and not a thread for three reasons: llama.cpp holds the interpreter's lock while it loads a model;
its global threads abort or hang a process after `os.fork`; it may crash on a damaged file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

from moa_dspy.errors import LocalModelError
from moa_dspy.local.files import EMBEDDED

__all__ = ["LocalServer", "LocalSettings"]

# Threads that wait by spinning block each other if other programs use the same CPUs: on two busy cores a token then
# takes more than ten times as long.
_PASSIVE_WAIT: Final = {"OMP_WAIT_POLICY": "passive"}
# What the child inherits of the environment: what an interpreter, its libraries and the drivers of processors read. It
# parses files of others, so it gets nothing else, and nothing that may be a secret.
_INHERITED: Final = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_.*|TZ|TMP|TEMP|TMPDIR|SYSTEMROOT|SYSTEMDRIVE|WINDIR|USERPROFILE|"
    r"(?:LOCAL)?APPDATA|PROGRAMDATA|NUMBER_OF_PROCESSORS|PROCESSOR_.*|VIRTUAL_ENV|XDG_RUNTIME_DIR|"
    r"(?:LD|DYLD|PYTHON|COVERAGE|OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|GGML|LLAMA|CUDA|NVIDIA|HIP|HSA|ROCM?|ROCR|AMD|VK|"
    r"VULKAN|MESA|SYCL|ONEAPI|ZE|ZES|MTL|METAL|CANN|ASCEND|MUSA)_?.*",
    re.IGNORECASE,
)
_SECRET: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)


@dataclass(frozen=True)
class LocalSettings:
    """The settings of a server.

    Attributes:
        slots: number of requests processed at once; further requests wait.
        window: context of each slot in tokens, for prompt and answer together. Slots do not share their context, so
            that a request that fits never fails because of others. SmolLM2 was trained for 8192.
        threads: number of CPU threads; None means all CPUs that this process may use.
        saved_prompts_mib: memory in MiB for prompts that left their slot, so that their prefix is not computed again.
        http_threads: number of connections served at once. Waiting and recently idle requests hold one each.
        start_seconds: maximum time to load the file, in seconds.
    """

    slots: int = 4
    window: int = 8192
    threads: int | None = None
    saved_prompts_mib: int = 256
    http_threads: int = 64
    start_seconds: float = 600.0


class LocalServer:
    """A llama.cpp server for one GGUF file. It speaks OpenAI's chat protocol on a free loopback port.

    Every answer reports `usage.prompt_tokens_details.cached_tokens`, and `timings` of prompt and answer (milliseconds
    and tokens per second).

    Attributes:
        path: the GGUF file.
        name: name of the model in answers.
        settings: slots, context and threads.
        key: the bearer token that every request needs.
        url: address of the running server without `/v1`; empty before `start`.
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
        """Return whether the server runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Return the id of the server's process, or None if it does not run."""
        return self._process.pid if self._process is not None and self.alive else None

    def start(self) -> Self:
        """Start the server unless it runs, and wait until it answers.

        Raises:
            LocalModelError: if llama.cpp cannot load the file, or not in time.
        """
        if self.alive:
            return self
        with tempfile.TemporaryFile() as log:
            self._process = self._spawn(log)
            try:
                self.url = self._handshake(self._process, log)
            except BaseException:
                self.close()
                raise
        return self

    def close(self) -> None:
        """Stop the server if it runs. An interrupt kills it at once and is raised again."""
        process = self._release()
        if process is None:
            return
        try:
            process.wait(timeout=5)
        except BaseException as error:
            process.kill()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise

    def disown(self) -> None:
        """Forget the server in a forked child. Only the parent may stop it."""
        process = self._release()
        if process is not None:
            process.returncode = 0  # not a child of this process, so there is nothing to wait for

    def _release(self) -> subprocess.Popen[bytes] | None:
        """Close the pipes. The server ends when the last copy of its standard input is closed."""
        process, self._process, self.url = self._process, None, ""
        for pipe in (process.stdin, process.stdout) if process is not None else ():
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return process

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        # The child sees the same modules. -P keeps files of the working directory from hiding standard modules.
        search_path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        try:
            return subprocess.Popen(  # noqa: S603 (this interpreter, a constant program)
                [sys.executable or "python3", "-P", "-c", f"from {__name__} import _serve; _serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**_PASSIVE_WAIT, **_inherited(os.environ), "PYTHONPATH": search_path},
            )
        except OSError as error:
            raise LocalModelError(f"the local model's process could not be started: {error}") from error

    def _handshake(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
        """Send the order, and return the address that the child answers. A child that is too slow is killed."""
        assert process.stdin is not None
        assert process.stdout is not None
        # The key goes through the pipe, because other users can read command lines and environments.
        order = {"path": str(self.path), "name": self.name, "key": self.key, **asdict(self.settings)}
        limit = self.settings.start_seconds
        began, timer = time.monotonic(), threading.Timer(limit, process.kill)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.flush()
            line = process.stdout.readline()
        finally:
            timer.cancel()
        if time.monotonic() - began >= limit:
            raise LocalModelError(
                f"llama.cpp did not load {self.path} within {limit:g} s: check that the disk can be read and that "
                "there is enough memory"
            )
        reply: dict[str, str] = json.loads(line) if line else {}
        if "url" in reply:
            return reply["url"]
        log.seek(0)
        last_line = log.read().decode(errors="replace").strip().splitlines()[-1:]
        reason = "; ".join(filter(None, [reply.get("error"), *last_line])) or "its process ended without a message"
        raise LocalModelError(
            f"llama.cpp could not load {self.path} ({reason}): check that the file is complete, that llama.cpp "
            "supports its architecture, and that there is enough memory"
        )


def _inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the child gets: none of them holds a key of a provider."""
    return {
        name: value for name, value in environment.items() if _INHERITED.fullmatch(name) and not _SECRET.search(name)
    }


def _serve() -> None:
    """Run in the child: read the order, then serve until standard input is closed or the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which may handle it and go on
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of C code goes to the log
    order: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    try:
        server = _llama(order)
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        print(json.dumps({"error": str(error)}), file=replies, flush=True)
        os._exit(1)
    print(json.dumps({"url": server.listening_address}), file=replies, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)  # nothing to save, and nobody waits for the running requests


def _llama(order: dict[str, Any]) -> Any:
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = order["path"]
    params.model_alias = {order["name"]}  # otherwise every answer contains the file's path
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [order["key"]]
    params.n_parallel = order["slots"]
    params.n_ctx = order["slots"] * order["window"]
    params.kv_unified = False
    params.cont_batching = True
    params.ctx_shift = False  # a text that does not fit is an error and is not cut
    params.cache_prompt = True
    params.cache_ram_mib = order["saved_prompts_mib"]
    usable_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    params.cpuparams.n_threads = order["threads"] or usable_cpus or 1
    params.n_threads_http = order["http_threads"]
    params.warmup = False
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = 1  # errors only
    return xllamacpp.Server(params)
