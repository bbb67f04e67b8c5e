"""What every test shares: no real provider, no network, a cache of its own."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

for _name in [name for name in os.environ if name.endswith(("_API_KEY", "_API_BASE", "_BASE_URL"))]:
    del os.environ[_name]
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["HF_HUB_OFFLINE"] = "1"

gc.disable()  # until all tests are collected: what the imports of DSPy and the tests make is never garbage

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that; tests of Ctrl-C need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests start many processes. Each would compile DSPy again where compiled modules are not kept, in most containers.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

SHARED = Path(__file__).resolve().parents[2] / "shared"


hypothesis.settings.register_profile("moa-dspy", deadline=None, max_examples=40)
hypothesis.settings.load_profile("moa-dspy")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the quick tests of a file on one worker, so that what they share is made once.

    Slow tests go to the worker that is free. With pytest 9.2, xdist 3.8 ignores ``xdist_group`` without a word.
    """
    return LoadFileScheduling(config, log) if config.option.markexpr == "not slow" else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let garbage collections skip what the imports of DSPy and the tests have made: a quarter of the tests' time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


class RealNetworkError(RuntimeError):
    """A test tried to leave this machine."""


_connect = socket.socket.connect


def _loopback_only(self: socket.socket, address: Any) -> Any:
    host = address[0] if isinstance(address, tuple) else ""
    if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
        raise RealNetworkError(f"a test tried to reach {host}; only loopback is allowed")
    return _connect(self, address)


socket.socket.connect = _loopback_only  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def dspy_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh response cache, in memory, for every test."""
    import dspy
    from dspy.clients.cache import Cache

    cache = Cache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None, memory_max_entries=10_000)
    monkeypatch.setattr(dspy, "cache", cache)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real benchmark data beside the project; tests that need it skip where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the benchmark data beside the project ({folder.parent.name}/data), which is absent")
    return folder
