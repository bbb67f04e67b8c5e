from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dspy
import pydantic
import pytest
from rich.console import Console

import moa_dspy
from moa_dspy.architecture import AgentSpec, Architecture
from moa_dspy.cli import main
from moa_dspy.cli.views.live import LiveTable
from moa_dspy.cli.views.progress import describe, dollars, totals
from moa_dspy.program import AttentionMoA
from moa_dspy.trace import Failure, Step, StepStarted, Tokens, Trace

# --------------------------------------------------------------------------------------------------------------------
# A provider on loopback, and the command line run against it
# --------------------------------------------------------------------------------------------------------------------


@dataclass
class Provider:
    """Answers in the OpenAI chat format: a fixed text, or an HTTP error for models that are to fail."""

    text: str = "Paris"
    errors: dict[str, int] = field(default_factory=dict)
    delay: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""

    def reply(self, body: dict[str, Any], authorization: str) -> tuple[int, dict[str, Any]]:
        self.bodies.append(body)
        self.keys.append(authorization.removeprefix("Bearer "))
        time.sleep(self.delay)
        status = self.errors.get(body["model"], 200)
        if status != 200:
            code = "model_not_found" if status == 404 else "refused"
            return status, {"error": {"message": "no use asking", "code": code, "type": "t"}}
        message = {"role": "assistant", "content": self.text}
        return 200, {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }

    @property
    def prompts(self) -> list[str]:
        return ["\n".join(str(message["content"]) for message in body["messages"]) for body in self.bodies]


@pytest.fixture
def provider() -> Iterator[Provider]:
    served = Provider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, content = served.reply(body, self.headers.get("authorization", ""))
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has hung up is no news, and none for the standard error of a later test."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


Run = Callable[..., Outcome]


@pytest.fixture
def moa(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: bytes = b"") -> Outcome:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
            capsys.readouterr()
            code = main(arguments)
            captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(code, captured.out, captured.err)

    return run


def agents_file(
    folder: Path, provider: Provider, models: Sequence[str] = ("one", "two"), extra: str = "", **keys: object
) -> str:
    """Write a configuration with an agent per model, all on the loopback provider."""
    tables = []
    for model in models:
        settings = {"model": f"openai/{model}", "api_base": provider.url, **keys}
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        tables.append("\n".join(["[[agents]]", *lines, "options = { num_retries = 0 }"]))
    path = folder / "moa.toml"
    path.write_text("\n\n".join([*tables, extra]), encoding="utf-8")
    return str(path)


def refused(outcome: Outcome, *says: str, code: int = 2) -> None:
    """One line on standard error, nothing on standard output."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    assert len(outcome.lines) == 1, outcome.err
    assert outcome.err.startswith("error: ")
    for text in says:
        assert text in outcome.err


# --------------------------------------------------------------------------------------------------------------------
# ask: what comes out
# --------------------------------------------------------------------------------------------------------------------


def test_the_answer_is_all_of_standard_output(moa: Run, provider: Provider, tmp_path: Path) -> None:
    outcome = moa("ask", "Capital of France?", "--config", agents_file(tmp_path, provider), "--layers", "1")
    assert (outcome.code, outcome.out) == (0, "Paris\n")
    assert len(provider.bodies) == 2 + 4 + 2 + 1
    steps = [line for line in outcome.lines if line.startswith("layer 1  ")]
    assert len(steps) == 9
    assert any(line.startswith("layer 1  critique  one -> two  ok  ") and line.endswith(" s") for line in steps)
    assert any(line.startswith("layer 1  critique  two  ok  ") for line in steps)
    assert outcome.lines[-1].startswith("2 of 2 agents agreed, 1 layer, 9 of 9 calls, 90 tokens, cost unknown, ")
    assert len(outcome.lines) == 10


def test_options_override_the_configuration(moa: Run, provider: Provider, tmp_path: Path) -> None:
    shape = '[architecture]\nlayers = 3\nattention = "full"\n[task]\nsignature = "a -> b"\n'
    config = agents_file(tmp_path, provider, extra=shape)
    arguments = ("--layers", "1", "--attention", "none", "--signature", "question -> answer", "--json")
    outcome = moa("ask", "Capital of France?", "--config", config, *arguments)
    assert json.loads(outcome.out)["calls"] == 3
    assert json.loads(outcome.out)["answer"] == "Paris"


def test_json_is_one_object_with_the_outputs_and_the_figures(moa: Run, provider: Provider, tmp_path: Path) -> None:
    config = agents_file(tmp_path, provider)
    outcome = moa("ask", "Capital of France?", "-c", config, "--layers", "1", "--attention", "1", "--json")
    content = json.loads(outcome.out)
    seconds = content.pop("seconds")
    assert seconds > 0
    assert content == {
        "answer": "Paris",
        "layers": 1,
        "stopped_by": "layers",
        "agreement": 1.0,
        "dissent": [],
        "calls": 9,
        "cached_calls": 0,
        "tokens": {"prompt": 63, "cached": 0, "completion": 27, "total": 90},
        "cost_usd": None,
        "cost_is_lower_bound": False,
    }
    assert outcome.lines, "progress is on standard error, with --json too"


def test_a_second_run_is_answered_from_the_cache(moa: Run, provider: Provider, tmp_path: Path) -> None:
    arguments = ("ask", "Capital of France?", "-c", agents_file(tmp_path, provider), "--layers", "1", "--json")
    moa(*arguments)
    calls = len(provider.bodies)
    outcome = moa(*arguments)
    content = json.loads(outcome.out)
    assert (content["calls"], content["cached_calls"], content["cost_usd"]) == (9, 9, 0.0)
    assert len(provider.bodies) == calls
    assert "layer 1  propose  one  ok  cached" in outcome.lines
    assert "9 calls (9 cached), 0 tokens, $0" in outcome.err


def test_a_known_price_is_added_up(moa: Run, provider: Provider, tmp_path: Path) -> None:
    config = agents_file(tmp_path, provider, ["gpt-4.1"])
    outcome = moa("ask", "Capital of France?", "-c", config, "--layers", "1", "--attention", "none", "--json")
    assert json.loads(outcome.out)["cost_usd"] == pytest.approx(2 * (7 * 2e-6 + 3 * 8e-6))


def test_quiet_leaves_standard_error_empty(moa: Run, provider: Provider, tmp_path: Path) -> None:
    outcome = moa("ask", "Capital of France?", "-c", agents_file(tmp_path, provider), "--layers", "1", "--quiet")
    assert (outcome.out, outcome.err) == ("Paris\n", "")


def test_the_question_comes_from_standard_input(moa: Run, provider: Provider, tmp_path: Path) -> None:
    config = agents_file(tmp_path, provider, ["one"])
    outcome = moa("ask", "-", "-c", config, "--layers", "1", stdin="\ufeffWo liegt Zürich?\nGenau?\n".encode())
    assert outcome.code == 0
    assert "Wo liegt Zürich?\nGenau?" in provider.prompts[0]
    assert "\ufeff" not in provider.prompts[0]


def typed(**values: str) -> str:
    blocks = [f"[[ ## {name} ## ]]\n{value}" for name, value in values.items()]
    return "\n\n".join([*blocks, "[[ ## completed ## ]]"])


def test_several_and_typed_outputs_are_lines_without_the_added_reasoning(
    moa: Run, provider: Provider, tmp_path: Path
) -> None:
    provider.text = typed(reasoning="it is so", city="Paris", people="2100000", rivers='["Seine", "Bièvre"]')
    signature = "question -> city: str, people: int, rivers: list[str]"
    config = agents_file(tmp_path, provider, ["one"])
    arguments = ("ask", "Capital of France?", "-c", config, "--layers", "1", "--signature", signature)
    outcome = moa(*arguments)
    assert outcome.out == 'city: Paris\npeople: 2100000\nrivers: ["Seine", "Bièvre"]\n'
    content = json.loads(moa(*arguments, "--json").out)
    assert (content["city"], content["people"], content["rivers"]) == ("Paris", 2100000, ["Seine", "Bièvre"])
    assert "reasoning" not in content


def test_text_that_utf_8_cannot_hold_is_shown_with_question_marks(moa: Run, provider: Provider, tmp_path: Path) -> None:
    provider.text = "caf\u00e9 \ud83d"
    arguments = ("ask", "x", "-c", agents_file(tmp_path, provider, ["one"]), "--layers", "1")
    assert moa(*arguments).out == "café ?\n"
    assert json.loads(moa(*arguments, "--json").out)["answer"] == "café ?"


@pytest.mark.parametrize(("number", "name"), [("NaN", "NaN"), ("Infinity", "Infinity"), ("-inf", "-Infinity")])
def test_json_stays_json_whatever_number_a_model_writes(
    moa: Run, provider: Provider, tmp_path: Path, number: str, name: str
) -> None:
    provider.text = typed(reasoning="r", x=number)
    arguments = ("-c", agents_file(tmp_path, provider, ["one"]), "--layers", "1", "--signature", "question -> x: float")

    def not_json(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    assert json.loads(moa("ask", "x", *arguments, "--json").out, parse_constant=not_json)["x"] == name


def test_a_single_typed_output_keeps_its_name(moa: Run, provider: Provider, tmp_path: Path) -> None:
    provider.text = typed(reasoning="2 + 2", answer="4")
    config = agents_file(tmp_path, provider, ["one"])
    outcome = moa("ask", "2 + 2", "-c", config, "--layers", "1", "--signature", "question -> answer: int")
    assert outcome.out == "answer: 4\n"


def test_outputs_with_the_name_of_a_figure_are_nested(moa: Run, provider: Provider, tmp_path: Path) -> None:
    provider.text = typed(layers="three", cake="yes")
    config = agents_file(tmp_path, provider, ["one"])
    arguments = ("--layers", "1", "--signature", "question -> layers, cake", "--json")
    content = json.loads(moa("ask", "How many?", "-c", config, *arguments).out)
    assert content["outputs"] == {"layers": "three", "cake": "yes"}
    assert content["layers"] == 1


def test_inputs_are_read_according_to_their_type(moa: Run, provider: Provider, tmp_path: Path) -> None:
    signature = "question, tags: list[str], year: int, mood: Literal['good', 'bad'], note: str -> answer"
    given = ('tags=["a=b", "c"]', "year=1999", "mood=bad", "note=[not json")
    pairs = [part for pair in given for part in ("--input", pair)]
    config = agents_file(tmp_path, provider, ["one"])
    outcome = moa("ask", "Where?", "-c", config, "--layers", "1", "--signature", signature, *pairs)
    assert outcome.code == 0, outcome.err
    assert '["a=b", "c"]' in provider.prompts[0]
    assert "1999" in provider.prompts[0]
    assert "[not json" in provider.prompts[0]


def test_the_question_goes_where_there_is_room_for_it(moa: Run, provider: Provider, tmp_path: Path) -> None:
    config = agents_file(tmp_path, provider, ["one"])
    arguments = ("-c", config, "--layers", "1", "--signature", "context, request -> answer")
    assert moa("ask", "Where is it?", "--input", "context=A map.", *arguments).code == 0
    assert "Where is it?" in provider.prompts[0]
    assert moa("ask", "--input", "context=A map.", "--input", "request=Here?", *arguments).code == 0


def test_a_conversation_is_an_input_like_others(moa: Run, provider: Provider, tmp_path: Path) -> None:
    config = agents_file(tmp_path, provider, ["one"])
    history = json.dumps({"messages": [{"question": "Capital of Spain?", "answer": "Madrid"}]})
    arguments = ("--layers", "1", "--signature", "history: dspy.History, question -> answer")
    outcome = moa("ask", "And its river?", "-c", config, *arguments, "--input", f"history={history}")
    assert outcome.code == 0, outcome.err
    assert "Madrid" in provider.prompts[0]


# --------------------------------------------------------------------------------------------------------------------
# ask: agents and their keys
# --------------------------------------------------------------------------------------------------------------------


def test_agents_are_named_with_their_temperatures(
    moa: Run, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", provider.url)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    outcome = moa(
        *("ask", "Capital of France?", "--agent", "openai/one@0.3", "--agent", "openai/two@20240229"),
        *("--aggregator", "openai/last@1", "--layers", "1", "--attention", "none"),
    )
    assert outcome.out == "Paris\n", outcome.err
    asked = {body["model"]: body.get("temperature") for body in provider.bodies}
    assert asked == {"one": 0.3, "two@20240229": None, "last": 1}


def test_the_key_comes_from_the_named_variable_and_shows_nowhere(
    moa: Run, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_KEY", "sk-very-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "of-another")
    config = agents_file(tmp_path, provider, ["one"], api_key_env="TEAM_KEY")
    outcome = moa("ask", "Capital of France?", "-c", config, "--layers", "1", "--trace", "t.json", "--prompts")
    assert set(provider.keys) == {"sk-very-secret"}
    text = (tmp_path / "t.json").read_text()
    assert "sk-very-secret" not in outcome.out + outcome.err + text
    assert all("Capital of France?" in prompt for step in Trace.from_json(text).steps for prompt in step.prompts)
    assert sum(len(step.prompts) for step in Trace.from_json(text).steps) == len(provider.bodies)


def test_a_server_of_ones_own_is_never_sent_the_providers_key(
    moa: Run, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the-real-one")
    outcome = moa("ask", "Capital of France?", "-c", agents_file(tmp_path, provider), "--layers", "1")
    assert outcome.code == 0
    assert provider.keys
    assert "the-real-one" not in provider.keys


@pytest.mark.parametrize(
    ("models", "variables"),
    [
        (["openai/gpt-4.1"], ["OPENAI_API_KEY (for openai/gpt-4.1)"]),
        (["gemini/gemini-3"], ["GEMINI_API_KEY or GOOGLE_API_KEY (for gemini/gemini-3)"]),
        (["anthropic/claude-x", "groq/llama"], ["ANTHROPIC_API_KEY", "GROQ_API_KEY (for groq/llama)"]),
        (["openai/gpt-4.1", "openai/gpt-4.1-mini"], ["OPENAI_API_KEY"]),
        (["together_ai/llama"], ["TOGETHERAI_API_KEY (for together_ai/llama)"]),
    ],
)
def test_a_missing_key_is_found_before_any_call(moa: Run, models: list[str], variables: list[str]) -> None:
    agents = [part for model in models for part in ("--agent", model)]
    refused(moa("ask", "Where?", *agents), "no API key: set the environment variable", *variables)


@pytest.mark.parametrize(("model", "variable"), [("openai/a", "OPENAI_API_KEY"), ("mistral/a", "MISTRAL_API_KEY")])
@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_a_blank_key_is_none(moa: Run, monkeypatch: pytest.MonkeyPatch, model: str, variable: str, blank: str) -> None:
    monkeypatch.setenv(variable, blank)
    refused(moa("ask", "Where?", "--agent", model), f"no API key: set the environment variable {variable}")
    assert os.environ[variable] == blank


def test_a_provider_that_lacks_more_than_a_key_says_what(moa: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")
    outcome = moa("ask", "x", "--agent", "azure/gpt-4.1", "--layers", "1", "-q")
    refused(outcome, "AZURE_OPENAI_RESOURCE", "set what is missing in the environment")
    assert "set the API key" not in outcome.err


def test_the_key_of_the_aggregator_is_looked_for_too(
    moa: Run, monkeypatch: pytest.MonkeyPatch, provider: Provider, tmp_path: Path
) -> None:
    config = agents_file(tmp_path, provider)
    refused(moa("ask", "Where?", "-c", config, "--aggregator", "mistral/large"), "MISTRAL_API_KEY")
    assert provider.bodies == []


@pytest.mark.slow
def test_servers_without_keys_need_none(moa: Run) -> None:
    outcome = moa("ask", "Where?", "--agent", "ollama/no-such-model", "--layers", "1", "--attention", "none")
    assert "no API key" not in outcome.err
    assert outcome.code == 1


# --------------------------------------------------------------------------------------------------------------------
# ask: what is refused
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ask"], "there is no question"),
        (["ask", ""], "the question is empty"),
        (["ask", "-"], "the question is empty"),
        (["ask", "x", "--layers", "0"], "--layers"),
        (["ask", "x", "--layers", "two"], "--layers"),
        (["ask", "x", "--bogus"], "--bogus"),
        (["ask", "x", "y"], "y"),
        (["ask", "x", "--agent"], "--agent"),
        (["bogus"], "bogus"),
        (["ask", "x", "--agent", "nowhere/model"], "names no provider that DSPy or LiteLLM knows"),
        (["ask", "x", "--agent", "model"], "names no provider that DSPy or LiteLLM knows"),
        (["ask", "x", "--agent", ""], "names no model"),
        (["ask", "x", "--agent", "openai/"], "is not a model name"),
        (["ask", "x", "--agent", "openai/gpt 4"], "is not a model name"),
        (["ask", "x", "--agent", "openai/gpt-4.1@3"], "a temperature is from 0 to 2, not 3"),
        (["ask", "x", "--agent", "openai/gpt-4.1@-1"], "a temperature is from 0 to 2, not -1"),
        (["ask", "x", "--agent", "openai/a", "--aggregator", "openai/b@9"], "--aggregator openai/b@9"),
        (["ask", "x", "--agent", "openai/a", "--attention", "1"], "--attention 1 asks for 1 peers"),
        (["ask", "x", "--agent", "openai/a", "--attention", "fool"], "--attention fool is not a pattern"),
        (["ask", "x", "--agent", "openai/a", "--attention", ""], "--attention '' is not a pattern"),
        (["ask", "x", "--agent", "openai/a", "--signature", "question"], "has no output"),
        (["ask", "x", "--agent", "openai/a", "--signature", "-> answer"], "has no input"),
        (["ask", "x", "--agent", "openai/a", "--signature", "a: foo -> b"], "cannot be read"),
        (["ask", "x", "--config", "none.toml"], "cannot read none.toml"),
        (["ask", "x", "--config", "broken.toml"], "broken.toml is not valid TOML"),
        (["ask", "x", "--config", "empty.toml"], "empty.toml: no agent is named"),
        (["ask", "x", "--program", "none.json"], "cannot read none.json"),
        (["ask", "x", "none.json"], "cannot read none.json"),
        (["ask", "x", "--agent", "local@hot"], "--agent local@hot: 'hot' is no temperature; write local@0.7"),
        (["show", "record.json"], "the record of optimize, not a program or a run; moa-dspy report record.json"),
        (["plan", "x", "none.json"], "cannot read none.json"),
        (["plan", "none.json"], "QUESTION none.json looks like a file; name a saved program with --program"),
        (["ask", "broken.toml", "--agent", "openai/a"], "QUESTION broken.toml looks like a file"),
        (["ask", "no/such.YAML", "none.json"], "or write --input NAME=no/such.YAML to ask this text itself"),
        (["plan", "../none"], "QUESTION ../none looks like a file"),
        (["doctor", "none.json"], "cannot read none.json"),
        (["run", "-p", "none.json", "-d", "x.csv", "-o", "y.csv"], "cannot read none.json"),
        (["optimize", "-p", "none.json", "-d", "x.csv", "-m", "exact"], "cannot read none.json"),
        (["eval", "-p", "none.json", "--benchmark", "starter"], "cannot read none.json"),
        (["serve", "-p", "none.json"], "none.json"),
        (["ask", "x", "a.json", "-p", "b.json"], "PROGRAM a.json and --program b.json are two programs"),
        (["ask", "x", "--program", "broken.json"], "broken.json is damaged or not JSON"),
        (["ask", "x", "--program", "foreign.json"], "foreign.json is not a moa-dspy program"),
        (["ask", "x", "--program", "newer.json"], "newer.json has format 99"),
        (["ask", "x", "--program", "foreign.json", "--agent", "local"], "--agent cannot go with a saved program"),
        (
            ["ask", "x", "--program", "a", "--layers", "1", "--attention", "self", "--signature", "a -> b"],
            "--layers, --attention, --signature cannot go with a saved program",
        ),
        (["ask", "x", "--program", "a", "--aggregator", "local"], "--aggregator cannot go with a saved program"),
        (["ask", "x", "--trace", "no/such/folder/t.json"], "--trace no/such/folder/t.json cannot be written"),
        (["ask", "x", "--prompts"], "--prompts records prompts in the trace"),
        (["ask", "x", "--trace", "."], "--trace . cannot be written: it is a folder"),
        (["ask", "x", "--agent", "local/none.gguf"], "local/none.gguf"),
        (["ask", "x", "--agent", "local/broken.json"], "is not a GGUF file"),
        (["show"], "Missing argument"),
        (["show", "none.json"], "cannot read none.json"),
        (["show", "broken.json"], "broken.json is damaged or not JSON"),
        (["show", "foreign.json"], "foreign.json is not a moa-dspy program"),
        (["show", "newer.json"], "newer.json has format 99"),
        (["show", "hollow.json"], "hollow.json is damaged"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    moa: Run, tmp_path: Path, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "never-used")
    hollow = {"format": "moa-dspy-program", "format_version": 1, "task": {}, "architecture": {}, "predictors": {}}
    files = {
        "broken.toml": "[[agents",
        "empty.toml": "[architecture]\nlayers = 2\n",
        "broken.json": '{"format": ',
        "foreign.json": "{}",
        "newer.json": json.dumps({"format": "moa-dspy-program", "format_version": 99}),
        "hollow.json": json.dumps(hollow),
        "record.json": json.dumps({"kind": "optimize", "rounds": []}),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    refused(moa(*arguments), says)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(files)


@pytest.mark.parametrize(
    ("signature", "arguments", "says"),
    [
        ("question -> answer", ["x", "--input", "question=y"], "leaves no field for QUESTION"),
        ("question -> answer", ["--input", "question"], "is not NAME=VALUE"),
        ("question -> answer", ["--input", "=x"], "is not NAME=VALUE"),
        ("question -> answer", ["--input", "other=x"], "other is not an input of this task; its inputs are: question"),
        ("question -> answer", ["--input", "question=a", "--input", "question=b"], "question is given twice"),
        ("a, b -> answer", ["x"], "the task has several inputs (a, b)"),
        ("a, b -> answer", ["--input", "a=x"], "input b is missing; give it with --input b=VALUE"),
        ("context, question -> answer", ["x"], "input context is missing; give it with --input context=VALUE"),
        ("n: int -> answer", ["many"], "input n does not fit its type int: 'many'"),
        ("q, n: list[int] -> answer", ["x", "--input", "n=[1, "], "input n does not fit its type list[int]: '[1, '"),
        ("q, n: bool -> answer", ["x", "--input", f"n={'y' * 500}"], "yyy…"),
        ("question -> answer", ["\udcff"], "is not text in UTF-8"),
    ],
)
def test_inputs_that_do_not_fit_cost_nothing(
    moa: Run, provider: Provider, tmp_path: Path, signature: str, arguments: list[str], says: str
) -> None:
    config = agents_file(tmp_path, provider, ["one"])
    refused(moa("ask", *arguments, "-c", config, "--signature", signature, "--quiet"), says)
    assert provider.bodies == []


def test_a_note_that_an_error_makes_void_is_not_said(moa: Run) -> None:
    refused(moa("ask", "x", "--signature", "context, question -> answer"), "--input context=VALUE")


def test_standard_input_that_is_no_text_is_refused(moa: Run, provider: Provider, tmp_path: Path) -> None:
    config = agents_file(tmp_path, provider, ["one"])
    refused(moa("ask", "-", "-c", config, stdin=b"\xff\xfe\x80"), "standard input is not text in UTF-8")


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_paid_for(
    moa: Run, provider: Provider, tmp_path: Path
) -> None:
    config = agents_file(tmp_path, provider)
    refused(moa("ask", "x", "-c", config, "--trace", "none/t.json"), "--trace none/t.json cannot be written")
    assert provider.bodies == []


# --------------------------------------------------------------------------------------------------------------------
# ask: failures of the work
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (401, 2, "auth: "),
        (403, 2, "auth: "),
        (404, 2, "unsupported_model: "),
        (402, 1, "billing: "),
        (429, 1, "rate_limit: "),
        (500, 1, "server: "),
    ],
)
def test_when_no_agent_answers_the_cause_is_told_once_with_a_remedy(
    moa: Run, provider: Provider, tmp_path: Path, status: int, code: int, says: str
) -> None:
    provider.errors = {"one": status, "two": status}
    outcome = moa("ask", "x", "-c", agents_file(tmp_path, provider), "--quiet", "--trace", "t.json")
    refused(outcome, "no agent answered: ", says, "no use asking", "(one, two); ", code=code)
    assert "To fix" not in outcome.err
    assert outcome.err.count(says) == 1
    assert outcome.err.rstrip().rpartition("; ")[2].startswith(("check", "wait", "try"))
    trace = Trace.from_json((tmp_path / "t.json").read_text())
    assert [(step.agent, step.status) for step in trace.steps] == [("one", "failed"), ("two", "failed")]
    assert trace.stopped_by == "failure"


def test_of_mixed_causes_the_exit_code_is_1(moa: Run, provider: Provider, tmp_path: Path) -> None:
    provider.errors = {"one": 401, "two": 500}
    refused(moa("ask", "x", "-c", agents_file(tmp_path, provider), "-q"), "auth: ", "server: ", code=1)


def test_no_server_at_the_address(moa: Run, provider: Provider, tmp_path: Path) -> None:
    provider.url = "http://127.0.0.1:9/v1"
    outcome = moa("ask", "x", "-c", agents_file(tmp_path, provider, ["one"]), "-q")
    refused(outcome, "transport: ", "check the address (api_base)", code=1)


def test_an_agent_that_fails_is_left_out_and_reported(moa: Run, provider: Provider, tmp_path: Path) -> None:
    provider.errors = {"two": 401}
    outcome = moa("ask", "x", "-c", agents_file(tmp_path, provider), "--layers", "1", "--trace", "t.json")
    assert (outcome.code, outcome.out) == (0, "Paris\n")
    assert any(line.startswith("layer 1  propose  two  failed  ") and "auth: " in line for line in outcome.lines)
    warnings = [line for line in outcome.lines if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "1 of " in warnings[0]
    assert "(two)" in warnings[0]
    assert "failed" in (tmp_path / "t.json").read_text()


# --------------------------------------------------------------------------------------------------------------------
# ask: traces and programs
# --------------------------------------------------------------------------------------------------------------------


def test_the_trace_is_the_record_of_the_run(moa: Run, provider: Provider, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("an older one, longer than " + "x" * 100_000)
    outcome = moa("ask", "x", "-c", agents_file(tmp_path, provider), "--layers", "1", "--trace", "t.json", "--json")
    trace = Trace.from_json((tmp_path / "t.json").read_text())
    assert trace.calls == json.loads(outcome.out)["calls"] == 9
    assert trace.outputs == ({"answer": "Paris"},)


def saved_program(folder: Path, models: Sequence[str] = ("openai/one", "openai/two"), **options: Any) -> str:
    program = AttentionMoA("question -> answer", list(models), **{"layers": 1, "attention": "none", **options})
    propose: Any = program.propose
    propose.signature = propose.signature.with_instructions("Answer like a pirate.")
    propose.demos = [
        dspy.Example(question=f"Question {number} {'long ' * 40}", answer=f"Arr {number}") for number in range(5)
    ]
    path = folder / "program.json"
    program.save(path)
    return str(path)


def test_a_program_runs_with_connections_from_the_configuration(moa: Run, provider: Provider, tmp_path: Path) -> None:
    path = saved_program(tmp_path)
    config = agents_file(tmp_path, provider, extra="[architecture]\nlayers = 3\n", temperature=1.5)
    outcome = moa("ask", "Capital of France?", "--program", path, "--config", config)
    assert (outcome.code, outcome.out) == (0, "Paris\n"), outcome.err
    assert len(provider.bodies) == 3, "the architecture is the program's"
    assert "Answer like a pirate." in provider.prompts[0]
    assert all(body.get("temperature") is None for body in provider.bodies), "and so is the sampling"


@pytest.mark.parametrize("saved", [False, True])
def test_a_question_is_asked_within_the_limits_of_the_configuration(
    saved: bool, moa: Run, provider: Provider, tmp_path: Path
) -> None:
    limits = "[budget]\ncalls = 2\n\n[tolerance]\nstrict = true\n"
    options = ("--program", saved_program(tmp_path)) if saved else ()
    outcome = moa("ask", "Capital of France?", "-c", agents_file(tmp_path, provider, extra=limits), "--json", *options)
    assert outcome.code == 0, outcome.err
    said = json.loads(outcome.out)
    assert (said["calls"], said["stopped_by"]) == (2, "budget")
    assert len(provider.bodies) == 2


def test_a_connection_is_found_by_name_before_model(moa: Run, provider: Provider, tmp_path: Path) -> None:
    path = saved_program(tmp_path)
    (tmp_path / "moa.toml").write_text(
        f'[[agents]]\nmodel = "openai/renamed"\nname = "one"\napi_base = "{provider.url}"\n'
        f'[[agents]]\nmodel = "openai/two"\napi_base = "{provider.url}"\n'
    )
    outcome = moa("ask", "Capital of France?", "-p", path, "-c", "moa.toml")
    assert outcome.code == 0, outcome.err
    assert [body["model"] for body in provider.bodies].count("renamed") == 2
    assert [body["model"] for body in provider.bodies].count("two") == 1


def test_a_configuration_for_other_agents_is_refused(moa: Run, provider: Provider, tmp_path: Path) -> None:
    path = saved_program(tmp_path)
    config = agents_file(tmp_path, provider, ["three"])
    refused(moa("ask", "x", "-p", path, "-c", config), "has a connection for none of the agents", "one: openai/one")


def test_a_program_without_keys_or_models_is_refused(moa: Run, tmp_path: Path) -> None:
    refused(moa("ask", "x", "-p", saved_program(tmp_path)), "OPENAI_API_KEY (for openai/one)")
    from moa_dspy.agents import Agent

    path = saved_program(tmp_path, [Agent(name="ambient")])  # type: ignore[list-item]
    refused(moa("ask", "x", "-p", path), "agent 'ambient' has no model", "--config")


def test_a_program_with_an_agent_of_no_model_takes_it_from_the_configuration(
    moa: Run, provider: Provider, tmp_path: Path
) -> None:
    from moa_dspy.agents import Agent

    path = saved_program(tmp_path, [Agent(name="ambient", temperature=0.25)])  # type: ignore[list-item]
    config = agents_file(tmp_path, provider, ["one"], name="ambient")
    assert moa("ask", "x", "-p", path, "-c", config).out == "Paris\n"
    assert provider.bodies[0]["temperature"] == 0.25


# --------------------------------------------------------------------------------------------------------------------
# show
# --------------------------------------------------------------------------------------------------------------------


def test_show_tells_a_reader_what_is_in_the_file(moa: Run, tmp_path: Path) -> None:
    path = saved_program(tmp_path, layers=2, attention="full")
    outcome = moa("show", path)
    assert (outcome.code, outcome.err) == (0, "")
    text = outcome.out
    assert text == text.rstrip() + "\n"
    for expected in (
        path,
        f"moa-dspy {moa_dspy.__version__}",
        "question: str",
        "answer: str",
        "openai/one",
        "openai/two",
        "full (4 critiques in each layer)",
        "19, of which 9 follow one another; at most 20, if no reply can be read",
        "Prompt: propose (5 demos)",
        "Answer like a pirate.",
        "Arr 0",
        "and 2 more",
        "Prompt: synthesize (no demos)",
    ):
        assert expected in text
    assert "Arr 4" not in text
    assert max(len(line) for line in text.splitlines()) < 600
    assert "\x1b" not in text


def test_show_json_holds_everything(moa: Run, tmp_path: Path) -> None:
    content = json.loads(moa("show", saved_program(tmp_path), "--json").out)
    assert content["inputs"] == [{"name": "question", "type": "str", "description": None}]
    assert content["max_calls"] == 3
    assert content["depth"] == 2
    assert [agent["name"] for agent in content["architecture"]["agents"]] == ["one", "two"]
    assert content["predictors"]["propose"]["instructions"] == "Answer like a pirate."
    assert len(content["predictors"]["propose"]["demos"]) == 5


class Weather(pydantic.BaseModel):
    kind: str


class Report(dspy.Signature):
    """Tell the weather."""

    place: str = dspy.InputField(desc="a town")
    weather: list[Weather] = dspy.OutputField(desc="by the hour")


def test_show_describes_typed_fields_personas_and_aggregators(moa: Run, tmp_path: Path) -> None:
    from moa_dspy.agents import Agent

    agents = [Agent("openai/one", "critic", temperature=0.9, persona="You doubt.\nAlways.")]
    program = AttentionMoA(Report, agents, layers=1, aggregator=Agent("openai/big", max_tokens=9), reasoning=False)
    program.save(tmp_path / "p.json")
    text = moa("show", "p.json").out
    assert "Tell the weather." in text
    assert "place: str, a town" in text
    assert "weather: list[Weather], by the hour" in text
    assert "temperature 0.9" in text
    assert "persona 'You doubt. Always.'" in text
    assert "max_tokens 9" in text


def test_show_needs_no_model_to_be_there(moa: Run, tmp_path: Path) -> None:
    path = Path(saved_program(tmp_path))
    path.write_text(path.read_text().replace("openai/one", "local/gone.gguf"))
    assert "local/gone.gguf" in moa("show", str(path)).out


# --------------------------------------------------------------------------------------------------------------------
# Progress
# --------------------------------------------------------------------------------------------------------------------


def test_a_step_is_one_line() -> None:
    step = Step(layer=1, stage="critique", agent="local-2", target="local", calls=1, start=1.0, end=2.31)
    assert describe(step) == "layer 1  critique  local-2 -> local  ok  1.3 s"
    failed = step.model_copy(update={"status": "failed", "error": Failure(kind="auth", message="no\n  entry" * 100)})
    assert describe(failed).startswith("layer 1  critique  local-2 -> local  failed  1.3 s  auth: no")
    assert len(describe(failed)) < 300
    assert describe(Step(layer=2, stage="refine", agent="a", target="a", calls=1, cached=True)) == (
        "layer 2  refine  a  ok  cached"
    )


def test_totals_are_one_line() -> None:
    step = Step(layer=2, stage="propose", agent="a", calls=3, tokens=Tokens(prompt=5, completion=2), cost_usd=0.25)
    trace = Trace(steps=(step,), outputs=(), stopped_by="no_improvement", seconds=1.26)
    assert totals(trace) == "2 layers, 3 calls, 7 tokens, $0.2500, 1.3 s, stopped early: no improvement"
    assert dollars(0) == "$0"
    assert dollars(0.0000123) == "$1.2e-05"


def picture(table: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(table.render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def test_the_live_table_follows_the_run() -> None:
    shape = Architecture(agents=(AgentSpec(name="[red]one"), AgentSpec(name="two")), layers=2)
    table = LiveTable(shape, Console(file=io.StringIO()))
    assert "layer 1 of 2   0 of 19 calls" in picture(table)
    table.show(StepStarted(1, "propose", "[red]one", None))
    assert "working" in picture(table)
    table.show(Step(layer=1, stage="propose", agent="[red]one", calls=1, start=0, end=1.5))
    for target in ("[red]one", "two"):
        table.show(StepStarted(1, "critique", "two", target))
    table.show(Step(layer=1, stage="critique", agent="two", target="two", calls=1, start=2, end=3))
    text = picture(table)
    assert "2 of 19 calls" in text
    assert "[red]one   1.5 s" in text
    assert "1/2 working" in text
    table.show(Step(layer=1, stage="critique", agent="two", target="[red]one", status="failed", calls=1))
    assert "2/2 1 failed" in picture(table)
    table.show(Step(layer=1, stage="aggregate", agent="aggregator", calls=1, cached=True))
    assert "aggregate  cached" in picture(table)
    assert "synthesize" not in picture(table)
    table.show(StepStarted(2, "propose", "two", None))
    text = picture(table)
    assert "layer 1 done: 4 calls" in text
    assert "layer 2 of 2" in text
    assert "synthesize" in text


# --------------------------------------------------------------------------------------------------------------------
# The frame, in processes of its own
# --------------------------------------------------------------------------------------------------------------------


def environment(folder: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "DSPY_CACHEDIR": str(folder / "cache"), "HOME": str(folder), **variables}


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["show", "-h"], ["--version"], []])
@pytest.mark.slow
def test_help_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    program = f"""
import sys
from moa_dspy.cli import main
main({arguments!r})
heavy = {{"dspy", "litellm", "numpy", "datasets", "optuna", "rich.live", "asyncio"}} & set(sys.modules)
sys.exit(f"loaded: {{heavy}}" if heavy else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environment(tmp_path)
    )
    assert done.returncode == 0, done.stderr


def test_the_version_and_the_help(moa: Run) -> None:
    assert moa("--version").out == f"moa-dspy {moa_dspy.__version__}\n"
    outcome = moa("--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert "ask " in outcome.out
    assert "show " in outcome.out
    assert "--agent" in moa("ask", "--help").out
    nothing = moa()
    assert nothing.code == 2
    assert nothing.out == ""
    assert nothing.err.startswith("Usage: ")


SHARED = {
    "The program": ("ask", "plan", "eval", "optimize", "compare", "profile"),
    "The examples": ("eval", "optimize", "compare", "profile"),
    "The cost first": ("eval", "optimize", "compare", "profile"),
    "Limits": ("ask", "plan", "eval", "optimize", "compare", "profile", "serve", "mcp"),
    "Cache": ("ask", "eval", "optimize", "compare", "profile", "serve", "mcp"),
}
GENERAL = {"--help", "--json", "--quiet"}


def options_of(moa: Run, *command: str) -> set[str]:
    """Return the options that the help of a command lists."""
    lines = re.findall(r"^  (-.*?)(?:  |$)", moa(*command, "--help").out, re.MULTILINE)
    return {option for line in lines for option in re.findall(r"--[\w-]+", line)}


def documented(section: str) -> set[str]:
    """Return the options in the tables of a section of docs/cli.md."""
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    text = re.split(r"^#", page.partition(f"# {section}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| (`-.*?) \|", text, re.MULTILINE)
    return {option for cell in cells for option in re.findall(r"--[\w-]+", cell)}


@pytest.mark.parametrize(
    "command", ["ask", "plan", "eval", "optimize", "compare", "profile", "report", "show", "serve", "mcp"]
)
def test_the_documentation_has_the_options_of_each_command_and_no_others(moa: Run, command: str) -> None:
    shared = {option for section, commands in SHARED.items() if command in commands for option in documented(section)}
    options = options_of(moa, command)
    assert options - GENERAL == (documented(command) | shared) - GENERAL
    assert options & GENERAL <= documented("Rules for every command")


def test_the_documentation_has_the_general_options(moa: Run) -> None:
    assert options_of(moa) | GENERAL == documented("Rules for every command")


def test_debug_shows_where_it_went_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--debug", "show", "none.json"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("MOA_DSPY_DEBUG", "1")
    assert main(["show", "none.json"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("MOA_DSPY_DEBUG", "0")
    assert main(["show", "none.json"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_clean_run_in_a_process_writes_only_what_it_should(provider: Provider, tmp_path: Path) -> None:
    config = agents_file(tmp_path, provider, ["one"])
    done = subprocess.run(
        [sys.executable, "-m", "moa_dspy", "ask", "-", "-c", config, "--layers", "1", "--attention", "none"],
        check=False,
        input="Capital of France?",
        capture_output=True,
        text=True,
        env=environment(tmp_path),
    )
    assert (done.returncode, done.stdout) == (0, "Paris\n"), done.stderr
    assert [line.split("  ")[:3] for line in done.stderr.splitlines()[:2]] == [
        ["layer 1", "propose", "one"],
        ["layer 1", "aggregate", "aggregator"],
    ]
    assert len(done.stderr.splitlines()) == 3


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.slow
def test_an_interrupt_ends_the_run_with_130_and_keeps_the_trace(provider: Provider, tmp_path: Path) -> None:
    provider.delay = 1.0
    config = agents_file(tmp_path, provider)
    arguments = ["ask", "x", "-c", config, "--trace", str(tmp_path / "t.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "moa_dspy", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
    )
    deadline = time.monotonic() + 60
    while len(provider.bodies) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    *_, paid, last = err.splitlines()
    assert last == "error: interrupted"
    assert re.fullmatch(
        r"1 layer, \d of \d+ calls, \d+ tokens, cost unknown and \d calls? cut short, which may be billed, .* s, "
        r"interrupted",
        paid,
    )
    assert "Traceback" not in err
    statuses = {step.status for step in Trace.from_json((tmp_path / "t.json").read_text()).steps}
    assert statuses == {"ok", "cancelled"}


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error_worth_a_traceback(tmp_path: Path) -> None:
    path = saved_program(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "moa_dspy", "show", path],
            check=False,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(tmp_path),
        )
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


def shell(redirection: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with standard streams redirected as a shell does it."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "moa_dspy", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment(folder),
        timeout=60,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.slow
def test_a_paid_run_that_cannot_be_printed_is_told_as_that_and_keeps_its_trace(
    provider: Provider, tmp_path: Path
) -> None:
    trace = tmp_path / "t.json"
    config = agents_file(tmp_path, provider)
    done = shell(">/dev/full", tmp_path, "ask", "x", "-c", config, "-q", "--trace", str(trace))
    assert done.returncode == 1
    assert done.stderr == "error: the result could not be written to standard output: No space left on device\n"
    assert Trace.from_json(trace.read_text()).outputs


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.slow
def test_a_reader_that_leaves_costs_nobody_the_trace(provider: Provider, tmp_path: Path) -> None:
    trace = tmp_path / "t.json"
    config = agents_file(tmp_path, provider)
    done = shell("| true", tmp_path, "ask", "x", "-c", config, "-q", "--trace", str(trace))
    assert "Traceback" not in done.stderr
    assert Trace.from_json(trace.read_text()).outputs


@pytest.mark.skipif(os.name == "nt", reason="redirections of POSIX")
@pytest.mark.slow
def test_standard_streams_may_be_closed(provider: Provider, tmp_path: Path) -> None:
    config = agents_file(tmp_path, provider, ["one"])
    arguments = ("-c", config, "--layers", "1")
    done = shell("<&-", tmp_path, "ask", "-", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: standard input is closed; give the question as an argument")
    done = shell(">&-", tmp_path, "ask", "x", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output is closed, so the result would be lost")
    assert provider.bodies == []
    done = shell("2>&-", tmp_path, "ask", "x", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Paris\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.slow
def test_progress_that_nobody_can_read_stops_no_run(provider: Provider, tmp_path: Path) -> None:
    done = shell("2>/dev/full", tmp_path, "ask", "x", "-c", agents_file(tmp_path, provider), "--layers", "1")
    assert (done.returncode, done.stdout) == (0, "Paris\n")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.slow
def test_a_run_that_is_killed_leaves_the_trace_file_as_it_was(provider: Provider, tmp_path: Path) -> None:
    provider.delay = 30.0
    config = agents_file(tmp_path, provider)
    for before in (None, "an older trace"):
        trace = tmp_path / f"{before}.json"
        if before is not None:
            trace.write_text(before)
        provider.bodies.clear()
        command = [sys.executable, "-m", "moa_dspy", "ask", "x", "-c", config, "-q", "--trace", str(trace)]
        process = subprocess.Popen(command, env=environment(tmp_path))
        deadline = time.monotonic() + 60
        while not provider.bodies and time.monotonic() < deadline:
            time.sleep(0.02)
        process.terminate()
        process.wait(timeout=60)
        assert (trace.read_text() if trace.exists() else None) == before
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
@pytest.mark.slow
def test_on_a_terminal_the_run_is_shown_live_and_leaves_one_line(provider: Provider, tmp_path: Path) -> None:
    import pty

    provider.delay = 0.3
    config = agents_file(tmp_path, provider)
    own, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "moa_dspy", "ask", "x", "-c", config, "--layers", "1"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(tmp_path, TERM="xterm", COLUMNS="100"),
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(own, 65536):
            shown += chunk
    except OSError:
        pass  # Linux reports the other end's closing so
    out, _ = process.communicate(timeout=60)
    os.close(own)
    assert out == b"Paris\n"
    assert b"working" in shown
    assert b"critique" in shown
    assert b"1 layer, 9 of 9 calls" in shown.splitlines()[-1]


@pytest.mark.xdist_group("local")
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the extra 'local'")
@pytest.mark.slow
def test_without_agents_three_are_asked_on_the_embedded_model(tmp_path: Path) -> None:
    arguments = ["ask", "What is the capital of France?", "--layers", "1", "--attention", "none", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "moa_dspy", *arguments, "--trace", str(tmp_path / "t.json")],
        check=False,
        capture_output=True,
        text=True,
        env=environment(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stderr.splitlines()
    assert first == "no agent is named: asking three on the embedded model 'local'; --agent names others"
    assert len(rest) == 5
    content = json.loads(done.stdout)
    assert (content["calls"], content["cost_usd"]) == (4, 0.0)
    proposals = list(Trace.from_json((tmp_path / "t.json").read_text()).select(stage="propose"))
    assert [step.agent for step in proposals] == ["local", "local-2", "local-3"]
