"""``moa-dspy serve`` and ``moa-dspy mcp`` as processes, and what they refuse."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from support.loopback import Loopback
from support.runs import environment

from moa_dspy.cli import main
from moa_dspy.extras import SERVE, why_missing

ARGUMENTS = ("-m", "moa_dspy")


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "qa").mkdir()
    return str(tmp_path / "qa" / "moa.toml")


def agents(server: Loopback) -> str:
    agent = f'[[agents]]\nmodel = "openai/x"\napi_base = "{server.url}"\napi_key_env = "LOOPBACK_KEY"\n'
    return f"{agent * 2}[architecture]\nlayers = 1\n"


@pytest.mark.slow
def test_a_process_serves_and_ends_at_an_interrupt(config: str, tmp_path: Path):
    with Loopback() as provider:
        Path(config).write_text(agents(provider))
        command = [
            sys.executable,
            *ARGUMENTS,
            "serve",
            config,
            "--port",
            "0",
            "--key-env",
            "KEY",
            "--json",
            "--no-cache",
        ]
        variables = environment(LOOPBACK_KEY="x", KEY="secret", DSPY_CACHEDIR=str(tmp_path))
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables, text=True
        ) as process:
            assert process.stdout is not None
            told = json.loads("".join(line for line in iter(process.stdout.readline, "}\n")) + "}")
            assert told["models"] == ["moa/qa"]
            body = {"model": "moa/qa", "messages": [{"role": "user", "content": "?"}]}
            headers = {"Authorization": "Bearer secret"}
            reply = httpx.post(f"{told['address']}/chat/completions", json=body, headers=headers, timeout=30).json()
            assert reply["choices"][0]["message"]["content"] == "a reply"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
        assert process.returncode == 130
        assert errors.splitlines() == [f"moa/qa at {told['address']}; stop with Ctrl-C", "error: interrupted"]


@pytest.mark.slow
def test_a_process_is_an_mcp_server(config: str, tmp_path: Path):
    async def talk() -> None:
        variables = environment(LOOPBACK_KEY="x", DSPY_CACHEDIR=str(tmp_path))
        server = StdioServerParameters(command=sys.executable, args=[*ARGUMENTS, "mcp", config], env=variables)
        async with Client(stdio_client(server)) as client:
            (tool,) = (await client.list_tools()).tools
            assert (tool.name, tool.input_schema["required"]) == ("qa", ["question"])
            said = await client.call_tool("qa", {"question": "?", "budget": {"calls": 2}})
            assert said.structured_content is not None
            assert said.structured_content["answer"] == "a reply"
            assert said.structured_content["moa"]["calls"] == 2
            wrong = await client.call_tool("qa", {"qestion": "?"})
            assert wrong.is_error

    with Loopback() as provider:
        Path(config).write_text(agents(provider))
        asyncio.run(talk())


@pytest.mark.slow
def test_a_question_is_shown_live_until_an_interrupt(config: str, tmp_path: Path):
    with Loopback() as provider:
        Path(config).write_text(agents(provider))
        variables = environment(LOOPBACK_KEY="x", DSPY_CACHEDIR=str(tmp_path), BROWSER="true")
        command = [sys.executable, *ARGUMENTS, "ask", "Who won?", "--config", config, "--open"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables, text=True
        ) as process:
            assert process.stderr is not None
            told = []
            while "stays until Ctrl-C" not in (told or [""])[-1]:
                told.append(process.stderr.readline())
            (address,) = (line.split()[-1] for line in told if line.startswith("the run is at "))
            page = httpx.get(address, timeout=30).text
            process.send_signal(signal.SIGINT)
            answer, _ = process.communicate(timeout=20)
    assert (process.returncode, answer) == (0, "a reply\n")
    assert "<title>Who won?</title>" in page
    assert "a reply" in page


def test_what_cannot_be_served_is_told_in_one_line(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    Path(config).write_text('[[agents]]\nmodel = "local"\n')
    for arguments, words in (
        (("serve", config, "--host", "0.0.0.0"), "--key-env NAME"),
        (("serve", config, "--key-env", "NOTHING"), "environment variable NOTHING (--key-env) is not set"),
        (("serve", config, "--max-usd", "0"), "--max-usd 0"),
        (("serve", config, "--port", "70000"), "65535"),
        (("mcp", config, "--json"), "leave it out"),
    ):
        assert main(list(arguments)) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("starlette", "pip") else name)
    assert why_missing(SERVE, "it") == "it needs starlette, which is not installed: uv pip install starlette"
