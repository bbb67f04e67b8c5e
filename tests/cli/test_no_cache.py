"""``--no-cache`` on every command that calls models: every call is made, and none is kept."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import dspy
import pytest
from support.loopback import Body, Loopback

from moa_dspy.cli import main
from moa_dspy.cli.options import COMMANDS, CallingOptions, parameters

COUNT = 14
CONFIG = """
[[agents]]
model = "openai/one"
api_base = "{url}"
temperature = 0

[architecture]
layers = 1
attention = "none"

[space]
samples = 1
layers = [1]
attention = ["none"]
residual = ["none"]
temperatures = [0.7]
"""
EXAMPLES = ("--config", "moa.toml", "--data", "items.jsonl", "--metric", "exact", "--quiet")
ARGUMENTS = {
    "ask": ("ask", "item 1 of all", "--config", "moa.toml", "--quiet"),
    "eval": ("eval", *EXAMPLES),
    "profile": ("profile", *EXAMPLES),
    "compare": ("compare", *EXAMPLES, "--baseline", "single"),
    "optimize": ("optimize", *EXAMPLES, "--only", "architecture", "--no-explain", "--n-trials", "1", "--force"),
}


def reply(body: Body) -> str:
    return str(int(str(body["messages"][-1]["content"]).partition("item ")[2].split()[0]) % 3)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"item {n} of all", "answer": str(n % 3)} for n in range(COUNT)]
    Path("items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Loopback(reply) as loopback:
        Path("moa.toml").write_text(CONFIG.format(url=loopback.url))
        yield loopback


@pytest.mark.slow
@pytest.mark.parametrize("command", ARGUMENTS)
def test_no_call_is_answered_by_the_cache(
    command: str, served: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments, cache = ARGUMENTS[command], dspy.cache
    assert main(arguments) == 0
    first = len(served.calls)
    assert first > 0
    assert main(arguments) == 0
    assert len(served.calls) == first, "the second run is answered by the cache"
    assert main([*arguments, "--no-cache"]) == 0
    anew = len(served.calls) - first
    assert anew >= first
    assert main([*arguments, "--no-cache"]) == 0
    assert len(served.calls) - first == 2 * anew, "nothing was kept"
    assert dspy.cache is cache
    assert main(arguments) == 0
    assert len(served.calls) - first == 2 * anew


def test_a_cache_that_was_never_read_is_not_created(served: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPY_CACHEDIR", "cache")
    monkeypatch.delitem(vars(dspy), "cache")
    assert main([*ARGUMENTS["ask"], "--no-cache"]) == 0
    assert "cache" not in vars(dspy)
    assert not Path("cache").exists()


def test_a_folder_that_cannot_hold_the_cache_is_said_in_one_line_and_the_command_goes_on(
    served: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for folder, reason in ((tmp_path / "items.jsonl" / "cache", "Not a directory"), (tmp_path, "No locks available")):
        with monkeypatch.context() as patched:
            patched.setenv("DSPY_CACHEDIR", str(folder))
            patched.delitem(dspy.__dict__, "cache")
            patched.setattr("fcntl.lockf", no_locks)
            assert main([name for name in ARGUMENTS["ask"] if name != "--quiet"]) == 0
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        assert f"({folder}: {reason})" in line
        assert "set DSPY_CACHEDIR to another folder" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.jsonl", "moa.toml"]


def test_exactly_the_commands_that_call_models_have_it() -> None:
    having = {command.__name__.lower() for command in COMMANDS if "no_cache" in [p.name for p in parameters(command)]}
    # Of a command run twice, these call nothing the second time, or call until they are stopped.
    assert having == {*ARGUMENTS, "doctor", "run", "serve", "mcp"}
    assert having == {command.__name__.lower() for command in COMMANDS if issubclass(command, CallingOptions)}
