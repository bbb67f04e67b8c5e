from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from moa_dspy.architecture import Architecture
from moa_dspy.config import load_config
from moa_dspy.cost.budget import Budget
from moa_dspy.errors import ConfigurationError
from moa_dspy.runtime.tolerance import Tolerance

FULL = """
[task]
signature = "context, question -> answer"
instructions = "Answer from the context alone."

[[agents]]
model = "openai/gpt-4.1"
name = "careful"
api_key_env = "TEAM_KEY"
temperature = 0
max_tokens = 500
persona = "You check every figure."
options = { top_p = 0.9, timeout = 30 }

[[agents]]
model = "openai/qwen"
api_base = "http://127.0.0.1:9/v1"
temperature = 0.7

[aggregator]
model = "openai/gpt-4.1"
api_key_env = "TEAM_KEY"

[architecture]
layers = 3
attention = 1
residual = "none"
early_stop = false
shared_prompts = false
aggregation = "synthesis"
reasoning = false

[budget]
calls = 40
tokens = 60000
usd = 0.05
seconds = 20

[tolerance]
timeout = 30
retries = 2
layer_deadline = 15.5
quorum = 2
grace = 3
patience = 10
strict = true
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "moa.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    path = write(folder, text)
    with pytest.raises(ConfigurationError) as caught:
        load_config(path).program()
    message = str(caught.value)
    assert message.startswith(str(path)), message
    assert "\n" not in message
    return message.removeprefix(str(path))


def test_a_full_file_becomes_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", "secret-1")
    program = load_config(write(tmp_path, FULL)).program()

    shape = program.architecture
    assert list(program.task.input_fields) == ["context", "question"]
    assert program.task.instructions == "Answer from the context alone."
    assert [agent.name for agent in shape.agents] == ["careful", "qwen"]
    assert shape.agents[0].temperature == 0
    assert shape.agents[0].max_tokens == 500
    assert shape.agents[0].persona == "You check every figure."
    assert shape.agents[0].options == {"top_p": 0.9}
    assert shape.agents[1].temperature == 0.7
    assert shape.aggregator is not None
    assert shape.aggregator.model == "openai/gpt-4.1"
    assert (shape.layers, shape.attention, shape.residual) == (3, 1, "none")
    assert (shape.early_stop, shape.shared_prompts, shape.reasoning) == (False, False, False)
    assert program.budget == Budget(calls=40, tokens=60000, usd=0.05, seconds=20)
    assert program.tolerance == Tolerance(
        timeout=30, retries=2, layer_deadline=15.5, quorum=2, grace=3, patience=10, strict=True
    )
    lm: Any = program.agents[0].lm
    assert lm.kwargs["api_key"] == "secret-1"
    assert lm.kwargs["timeout"] == 30
    assert "secret-1" not in shape.model_dump_json()


def test_what_is_not_given_is_left_to_the_programs_defaults(tmp_path: Path) -> None:
    program = load_config(write(tmp_path, '[[agents]]\nmodel = "openai/gpt-4.1"\n')).program()
    assert program.architecture.layers == 2
    assert program.architecture.attention == "full"
    assert list(program.task.output_fields) == ["answer"]
    assert program.aggregator is None
    assert program.budget == Budget()
    assert program.tolerance == Tolerance()


@pytest.mark.parametrize(("name", "limits"), [("budget", Budget), ("tolerance", Tolerance)])
def test_every_limit_of_a_program_has_a_key(name: str, limits: Any, tmp_path: Path) -> None:
    values = {field.name: 2 for field in dataclasses.fields(limits) if field.name != "strict"}
    lines = [f"{field} = {value}" for field, value in values.items()]
    config = load_config(write(tmp_path, "\n".join([f"[{name}]", *lines])))
    assert getattr(config, name) == limits(**values)


def test_an_endless_timeout_is_none(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, '[[agents]]\nmodel = "openai/x"\n[tolerance]\ntimeout = inf\n'))
    assert config.program().tolerance == Tolerance(timeout=None)


def test_a_server_of_ones_own_is_never_sent_the_providers_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the-real-one")
    text = '[[agents]]\nmodel = "openai/qwen"\napi_base = "http://127.0.0.1:9/v1"\n'
    lm: Any = load_config(write(tmp_path, text)).program().agents[0].lm
    assert lm.kwargs["api_key"] != "the-real-one"


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "moa.toml"
    path.write_text('[[agents]]\nmodel = "openai/x"\n', encoding="utf-8-sig")
    assert load_config(path).agents[0].model == "openai/x"


def test_the_example_in_the_documentation_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    example = page.partition("```toml\n")[2].partition("```")[0]
    config = load_config(write(tmp_path, example))
    assert [agent.model for agent in config.agents] == [
        "openai/gpt-4.1",
        "openai/qwen3-32b",
        "local/models/mine.gguf",
    ]
    assert config.architecture.keys() == Architecture.model_fields.keys() - {"agents", "aggregator"}
    for limits in (config.budget, config.tolerance):
        assert all(getattr(limits, field.name) is not None for field in dataclasses.fields(limits))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no agent is named; add an [[agents]] table"),
        ("agents = []", "no agent is named"),
        ("[[agents]", "is not valid TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "is not valid TOML"),
        ("agents = 3", "agents: input should be a list of tables"),
        ("agents = [3]", "agents[1]: input should be a valid table"),
        ('[agent]\nmodel = "local"', "agent: is not a known key; did you mean agents?"),
        ('[[agents]]\nname = "a"', "agents[1].model: is missing"),
        ('[[agents]]\nmodel = ""', "agents[1].model: string should have at least 1 character"),
        ("[[agents]]\nmodel = 3", "agents[1].model: input should be a valid string"),
        (
            '[[agents]]\nmodel = "openai/x"\n[[agents]]\nmodel = "openai/x"\ntemprature = 1',
            "agents[2].temprature: is not a known key; did you mean temperature?",
        ),
        ('[[agents]]\nmodel = "openai/x"\nzzz = 1', "known here: model, name, api_base"),
        ('[[agents]]\nmodel = "openai/x"\ntemperature = 2.5', "agents[1].temperature: input should be less than"),
        (
            '[[agents]]\nmodel = "openai/x"\ntemperature = "hot"',
            "agents[1].temperature: input should be a valid number",
        ),
        ('[[agents]]\nmodel = "openai/x"\nmax_tokens = 0', "agents[1].max_tokens: input should be greater than"),
        ('[[agents]]\nmodel = "openai/x"\napi_base = "nonsense"', "agents[1].api_base: it must be an address"),
        ('[[agents]]\nmodel = "openai/x"\napi_base = "http://u:p@h/v1"', "agents[1].api_base: it must be an address"),
        ('[[agents]]\nmodel = "openai/x"\napi_key_env = "NOT_SET_HERE"', "environment variable NOT_SET_HERE"),
        ('[[agents]]\nmodel = "openai/x"\noptions = { model = "y" }', "agents[1].options: model does not belong"),
        ('[[agents]]\nmodel = "openai/x"\noptions = { num_retries = -1 }', "num_retries must be a nonnegative integer"),
        ('[[agents]]\nmodel = "nowhere/x"', "agent 1: model 'nowhere/x' names no provider"),
        ('[[agents]]\nmodel = "local"\napi_base = "http://h/v1"', "agent 1: model 'local' runs on this machine"),
        (
            '[[agents]]\nmodel = "openai/x"\nname = "a"\n[[agents]]\nmodel = "openai/x"\nname = "a"',
            "agent names must differ, but a is used more than once",
        ),
        ('[[agents]]\nmodel = "openai/x"\n[aggregator]\nmodel = "nowhere/x"', "aggregator: model 'nowhere/x'"),
        ('[[agents]]\nmodel = "openai/x"\n[architecture]\nlayers = 0', "architecture.layers: input should be greater"),
        (
            '[[agents]]\nmodel = "openai/x"\n[architecture]\nlayers = "2"',
            "architecture.layers: input should be a valid",
        ),
        (
            '[[agents]]\nmodel = "openai/x"\n[architecture]\nattention = "fool"',
            "architecture.attention: it must be full",
        ),
        ('[[agents]]\nmodel = "openai/x"\n[architecture]\nattention = true', "architecture.attention: it must be full"),
        ('[[agents]]\nmodel = "openai/x"\n[architecture]\nattention = 1', "attention=1 asks for 1 peers"),
        ('[[agents]]\nmodel = "openai/x"\n[architecture]\nresidual = "x"', "architecture.residual: input should be"),
        ('[[agents]]\nmodel = "openai/x"\n[architecture]\nearly_stop = 1', "architecture.early_stop: input should be"),
        ('[[agents]]\nmodel = "openai/x"\n[architecture]\nlayer = 1', "did you mean layers?"),
        ('[[agents]]\nmodel = "openai/x"\n[task]\nsignature = "question"', "task: signature 'question' has no output"),
        ('[[agents]]\nmodel = "openai/x"\n[task]\nsignature = 3', "task.signature: input should be a valid string"),
        ("task = 3", "task: input should be a valid table"),
        ("budget = 3", "budget: input should be a valid table"),
        ("[budget]\ncalls = 0", "budget: calls=0 is too small for a single proposal; it must be at least 1"),
        ("[budget]\nusd = -0.5", "budget: usd=-0.5 is too small for a single proposal; it must be above 0"),
        ("[budget]\nusd = nan", "budget: usd=nan is too small"),
        ("[budget]\ncalls = 1.5", "budget.calls: input should be a valid integer"),
        ('[budget]\nseconds = "ten"', "budget.seconds: input should be a valid number, not 'ten'"),
        ("[budget]\ndollars = 1", "budget.dollars: is not a known key; known here: calls, tokens, usd, seconds"),
        ("[tolerance]\ntimeout = 0", "tolerance: timeout=0.0 is out of range; it must be above 0"),
        ("[tolerance]\nretries = -1", "tolerance: retries=-1 is out of range"),
        ("[tolerance]\ngrace = -1", "tolerance: grace=-1.0 is out of range; it must be from 0"),
        ("[tolerance]\ngrace = nan", "tolerance: grace=nan is out of range"),
        ("[tolerance]\nstrict = 1", "tolerance.strict: input should be a valid boolean"),
        ("[tolerance]\nretry = 1", "tolerance.retry: is not a known key; did you mean retries?"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        'api_key = "sk-very-secret"',
        'api_key_env = "sk-very-secret"',
        'api_base = "http://user:sk-very-secret@host/v1"',
        'options = { api_key = "sk-very-secret" }',
        'options = { extra_headers = { Authorization = "sk-very-secret" } }',
        'options = { aws_secret_access_key = "sk-very-secret" }',
        'options = { azure_ad_token = "sk-very-secret" }',
        'token = "sk-very-secret"',
    ],
)
def test_keys_in_the_file_are_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    message = refused(tmp_path, f'[[agents]]\nmodel = "openai/x"\n{text}\n')
    assert "secret" not in message.replace("may hold a secret", "").replace("aws_secret_access_key", "")


def test_an_api_key_is_answered_with_what_to_write_instead(tmp_path: Path) -> None:
    message = refused(tmp_path, '[[agents]]\nmodel = "openai/x"\napi_key = "sk-1"\n')
    assert "agents[1].api_key" in message
    assert "api_key_env" in message


def test_an_empty_variable_counts_as_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", "  ")
    message = refused(tmp_path, '[[agents]]\nmodel = "openai/x"\napi_key_env = "TEAM_KEY"\n')
    assert "agent 1: environment variable TEAM_KEY" in message


def test_a_missing_file_a_folder_and_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for path, says in (
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "bytes.toml", "UTF-8"),
    ):
        with pytest.raises(ConfigurationError, match=says) as caught:
            load_config(path)
        assert str(path) in str(caught.value)


def test_a_model_file_beside_the_configuration_is_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.gguf").write_bytes(b"GGUF")
    config = load_config(
        write(tmp_path, '[[agents]]\nmodel = "local/models/m.gguf"\n[aggregator]\nmodel = "local/a/b"\n')
    )
    assert config.agents[0].model == f"local/{tmp_path / 'models' / 'm.gguf'}"
    assert config.aggregator is not None
    assert config.aggregator.model == "local/a/b"


def test_what_was_overridden_is_no_longer_blamed_on_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, '[[agents]]\nmodel = "openai/x"\n'))
    assert config.overridden() is config
    assert config.overridden(agents=None).source == str(tmp_path / "moa.toml")
    changed = config.overridden(architecture={**config.architecture, "attention": 4})
    assert changed.source is None
    with pytest.raises(ConfigurationError, match="attention=4") as caught:
        changed.program()
    assert "moa.toml" not in str(caught.value)


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(inner) for inner in value) + "]"
    return json.dumps(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(
    st.sampled_from(["task", "agents", "aggregator", "architecture", "budget", "tolerance", "other"]),
    st.recursive(
        st.one_of(st.integers(-3, 3), st.booleans(), st.floats(-3, 3), st.text(max_size=8)),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    ["model", "name", "options", "layers", "attention", "signature", "calls", "usd", "grace"]
                )
                | st.text(max_size=6),
                inner,
                max_size=2,
            )
        ),
        max_leaves=6,
    ),
)
def test_any_content_is_accepted_or_refused_in_one_line(tmp_path: Path, section: str, value: Any) -> None:
    path = write(tmp_path, f"{section} = {as_toml(value)}\n")
    said = str(path)
    try:
        load_config(path)
    except ConfigurationError as error:
        said = str(error)
    assert said.startswith(str(path))
    assert len(said.splitlines()) == 1
