"""A program file is data: it holds no address in any form, and nothing in it takes long to refuse."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from support.loopback import Loopback

import moa_dspy
from moa_dspy import Agent, AttentionMoA, ConfigurationError, ProgramFileError
from moa_dspy.files.addresses import address_in
from moa_dspy.testing import ScriptedLM

ADDRESSES = [
    "oobabooga/http://127.0.0.1:18555/x",
    "oobabooga/https://evil.example/x",
    "HTTP://evil.example/v1",
    "openai/oobabooga/http://10.0.0.1/x",
    "litellm_proxy/openai/HtTpS://evil.example",
    "oobabooga/http:/evil.example/x",
    "oobabooga/http:evil",
    "oobabooga//evil.example/x",
    "oobabooga/http%3A%2F%2Fevil.example%2Fx",
    "oobabooga/http%253A%252F%252Fevil.example",
    "oobabooga/http&#58;&#47;&#47;evil.example",
    "oobabooga/http\uff1a\uff0f\uff0fevil.example",
    "oobabooga/\uff48\uff54\uff54\uff50://evil.example",
    "oobabooga/evil\u3002example",
    "oobabooga/127.0.0.1:8000/x",
    "oobabooga/127.0.0.1",
    "oobabooga/0x7f.0.0.1",
    "oobabooga/2130706433/x",
    "oobabooga/0x7f000001",
    "oobabooga/[::1]:8000/x",
    "oobabooga/localhost:8000",
    "oobabooga/localhost/x",
    "oobabooga/myhost:8000/x",
    "oobabooga/evil.example",
    "openai/gpt-4.1@evil.example",
    "openai/user:pass@evil",
    "openai@myhost/gpt-4.1",
    "bedrock/evil.com#/anthropic.claude",
    "bedrock/us-east-1.evil.io/anthropic.claude-v2",
    "bedrock/arn:aws:bedrock:evil.com?:123456789012:model/x",
    "gemini/../../evil",
    "sagemaker/..\\evil",
    "azure/deployment?api_base=evil",
    "openai/gpt;evil",
    "openai/gpt\nHost: evil",
    "openai/gpt\u200b-4",
    "openai/ws://evil.example",
    "openai/file:/etc/passwd",
    "openai/data:text/plain",
    "openai/unix:/run/x.sock",
    "openai/xn--e1afmkfd.xn--p1ai",
    "local/http://evil.example/model.gguf",
    "local///evil/share/model.gguf",
    "local/\\\\evil\\share\\model.gguf",
    "local/file:///etc/passwd",
    "openai/" + "a" * 1000,
]

NAMES = [
    "openai/gpt-4.1", "gpt-4o-mini", "openai/gpt-4o-mini-2024-07-18", "openai/ft:gpt-4o-mini-2024-07-18:org:name:AbC1",
    "openai/ft:gpt-3.5-turbo:my-org::abc123", "anthropic/claude-sonnet-4-5-20250929", "claude-3-5-sonnet@20240620",
    "vertex_ai/claude-3-opus@20240229", "vertex_ai/gemini-2.5-pro@latest", "vertex_ai/claude@default",
    "bedrock/us.anthropic.claude-3-5-sonnet-20241022-v2:0", "bedrock/anthropic.claude-v2:1",
    "bedrock/us-west-2/anthropic.claude-v2:1", "amazon.titan-text-express-v1:0:8k",
    "bedrock/arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.meta.llama3-1-8b-instruct-v1:0",
    "ollama/llama3:8b", "ollama_chat/qwen2.5-coder:0.5b-instruct-q4_K_M",
    "ollama/hf.co/bartowski/Llama-3.2-GGUF:Q4_K_M",
    "openrouter/deepseek/deepseek-r1:free", "openrouter/qwen/qwen-2.5-72b-instruct", "groq/llama-3.3-70b-versatile",
    "together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo", "fireworks_ai/accounts/fireworks/models/llama-v3p1-8b",
    "cloudflare/@cf/meta/llama-2-7b-chat-fp16", "huggingface/together/deepseek-ai/DeepSeek-R1",
    "azure/my-deployment_1", "azure_ai/Phi-3.5-mini-instruct", "oci/meta.llama-3.3-70b-instruct", "oci/xai.grok-3",
    "gemini/gemini-2.0-flash-001",
    "replicate/meta/meta-llama-3-8b-instruct", "mistral/open-mistral-7b", "watsonx/ibm/granite-3-8b-instruct",
    "local", "local/models/mine.gguf", "local/Qwen/Qwen2.5-0.5B-Instruct-GGUF", "local//srv/models/x y.gguf",
    "local/Qwen/Qwen2.5-GGUF:qwen2.5-0.5b-q4.gguf", "scripted",
    "my model (v2)", "模型/通义", "databricks/dbrx-instruct",
]  # fmt: skip


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    AttentionMoA("question -> answer", ["openai/first", "openai/second"]).save(tmp_path / "good.json")
    return json.loads((tmp_path / "good.json").read_text())


def refused(tmp_path: Path, content: dict[str, Any]) -> str:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))
    began = time.process_time()
    with pytest.raises(ProgramFileError) as caught:
        moa_dspy.load(path)
    assert time.process_time() - began < 1.0
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    return str(caught.value)


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_model_that_holds_an_address_is_refused(name: str, tmp_path: Path, content: dict[str, Any]):
    content["architecture"]["agents"][1]["model"] = name
    assert "names models and no addresses" in refused(tmp_path, content)
    content["architecture"]["agents"][1]["model"] = "openai/second"
    content["architecture"]["aggregator"] = {**content["architecture"]["agents"][0], "name": "judge", "model": name}
    assert "'judge'" in refused(tmp_path, content)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_models_are_no_addresses(name: str):
    assert address_in(name) is None


def test_nothing_is_sent_to_the_address_of_a_file(tmp_path: Path, content: dict[str, Any]):
    with Loopback(lambda body: "the stranger's answer") as stranger:
        for agent in content["architecture"]["agents"]:
            agent["model"] = f"oobabooga/{stranger.url}/x"
        (tmp_path / "bad.json").write_text(json.dumps(content))
        with pytest.raises(ProgramFileError, match="no addresses"):
            moa_dspy.load(tmp_path / "bad.json")(question="secret?")
        program = AttentionMoA("question -> answer", ["openai/first", "openai/second"])
        with pytest.raises(ProgramFileError, match="no addresses"):
            program.load(tmp_path / "bad.json")
        assert stranger.calls == []


@pytest.mark.parametrize(
    "option",
    [
        {"api_base": "http://evil.example"},
        {"base_url": "http://evil.example"},
        {"headers": {"Host": "evil"}},
        {"extra_headers": {"x": "y"}},
        {"api_key": "sk-x"},
        {"model_list": []},
        {"custom_llm_provider": "oobabooga"},
        {"extra_body": {"api_base": "http://evil.example"}},
        {"seed": {"api_base": "http://evil.example"}},
        {"seed": "http://evil.example"},
        {"top_p": ["http://evil.example"]},
        {"stop": {"api_base": "x"}},
        {"stop": [{"api_base": "x"}]},
        {"logit_bias": {"http://evil.example": 1}},
        {"logit_bias": {"5": "http://evil.example"}},
        {"reasoning_effort": "http://evil.example"},
        {"reasoning_effort": {"effort": "http://evil.example"}},
        {"presence_penalty": True},
        {"timeout": 3},
        {"fallbacks": ["openai/x"]},
    ],
)
def test_options_hold_sampling_settings_only(option: dict[str, Any], tmp_path: Path, content: dict[str, Any]):
    content["architecture"]["agents"][0]["options"] = option
    assert "option" in refused(tmp_path, content)


def test_sampling_settings_of_every_kind_are_kept(tmp_path: Path):
    options: dict[str, Any] = {
        "top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 7, "stop": ["\n", "://"], "presence_penalty": 1,
        "frequency_penalty": 0.5, "reasoning_effort": "high", "logit_bias": {"5": -100},
    }  # fmt: skip
    AttentionMoA("question -> answer", [dspy.LM("openai/first", **options)]).save(tmp_path / "p.json")
    assert moa_dspy.load(tmp_path / "p.json").architecture.agents[0].options == options


def test_a_program_whose_model_holds_an_address_is_not_saved(tmp_path: Path):
    lm = ScriptedLM("x", "huggingface/https://mine.example/v1")
    with pytest.raises(ConfigurationError, match=r"give its address when you load the program \(lms="):
        AttentionMoA("question -> answer", [Agent(lm)]).save(tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()


def nested(depth: int, width: int) -> dict[str, Any]:
    if depth == 0:
        return {"type": "str"}
    fields = {f"f{number}": {"is": nested(depth - 1, width)} for number in range(width)}
    return {"type": "model", "name": f"M{depth}", "doc": None, "config": {}, "fields": fields}


def lists(depth: int) -> dict[str, Any]:
    kind: dict[str, Any] = {"type": "str"}
    for _ in range(depth):
        kind = {"type": "list", "of": [kind]}
    return kind


LARGE: dict[str, Any] = {
    "literal": {"type": "literal", "values": [f"value {number}" for number in range(200_000)]},
    "numbers": {"type": "literal", "values": list(range(100_000))},
    "union": {"type": "union", "of": [{"type": "literal", "values": [f"{number}"]} for number in range(30_000)]},
    "enum": {"type": "enum", "name": "E", "base": None, "doc": None, "members": {f"m{n}": n for n in range(50_000)}},
    "models": nested(9, 3),
    "fields": nested(1, 30_000),
    "tuple": {"type": "tuple", "of": [{"type": "str"}] * 30_000},
    "deep": lists(200),
    "deeper": lists(400),
    "examples": {"type": "limited", "is": {"type": "str"}, "limits": {"examples": list(range(30_000))}},
}


@pytest.mark.parametrize("kind", LARGE)
def test_an_absurdly_large_type_is_refused_at_once(kind: str, tmp_path: Path, content: dict[str, Any]):
    content["task"]["outputs"]["answer"]["is"] = LARGE[kind]
    assert "the types of its fields" in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("agents", "layers", "attention"),
    [(3_000, 1, "none"), (1, 10**6, "none"), (1, 10**400, "none"), (900, 2, "full"), (100, 900, "full")],
)
def test_an_absurdly_large_architecture_is_refused_at_once(
    agents: int, layers: int, attention: str, tmp_path: Path, content: dict[str, Any]
):
    shape = content["architecture"]
    shape["agents"] = [{**shape["agents"][0], "name": f"a{number}"} for number in range(agents)]
    shape |= {"layers": layers, "attention": attention}
    assert "is damaged" in refused(tmp_path, content)


@pytest.mark.slow
def test_a_large_type_that_is_allowed_loads_in_seconds(tmp_path: Path):
    kind = Literal[tuple(f"v{number}" for number in range(15_000))]
    make: Any = dspy.Signature
    task = make({"q": dspy.InputField(), "a": (kind, dspy.OutputField())})
    AttentionMoA(task, ["openai/first"]).save(tmp_path / "p.json")
    began = time.perf_counter()
    assert moa_dspy.load(tmp_path / "p.json").task.output_fields["a"].annotation == kind
    assert time.perf_counter() - began < 10.0


def test_a_type_that_a_file_cannot_hold_is_not_saved(tmp_path: Path):
    kind = Literal[tuple(range(25_000))]
    make: Any = dspy.Signature
    task = make({"q": dspy.InputField(), "a": (kind, dspy.OutputField())})
    program = AttentionMoA(task, ["openai/first"])
    with pytest.raises(ConfigurationError, match="more than 20,000 parts"):
        program.save(tmp_path / "p.json")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://evil.example/x"},
        {"a": [{"$ref": "file:///etc/passwd"}]},
        {"$id": "urn:x"},
        {"$schema": "//evil"},
    ],
)
def test_a_schema_refers_to_nothing_outside_the_file(schema: dict[str, Any], tmp_path: Path, content: dict[str, Any]):
    field = {"is": {"type": "str"}, "json_schema_extra": schema}
    kind = {"type": "model", "name": "M", "doc": None, "config": {}, "fields": {"f": field}}
    content["task"]["outputs"]["answer"]["is"] = kind
    assert "is not a type of a field" in refused(tmp_path, content)
    inside = copy.deepcopy(kind)
    inside["fields"]["f"] = {"is": {"type": "str"}}
    content["task"]["outputs"]["answer"]["is"] = {**inside, "config": {"json_schema_extra": schema}}
    assert "is not a type of a field" in refused(tmp_path, content)
