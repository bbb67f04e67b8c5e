"""What a model is known to reject is not sent; what its server rejects is adapted, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMError, LMInvalidRequestError, LMRateLimitError
from support.loopback import Body, Http, Loopback, refusal
from support.runs import in_format, role_of

from moa_dspy import Agent, AttentionMoA, Budget, load, self_consistency, single_model
from moa_dspy.cli import main
from moa_dspy.data import ExactMatch
from moa_dspy.errors import AllProposalsFailedError
from moa_dspy.model_limits import takes_system, takes_temperature
from moa_dspy.optimizers import search
from moa_dspy.runtime.accepted import rejected_in

TYPED = "[[ ## answer ## ]]\n7\n\n[[ ## completed ## ]]"


def rejecting(test: Callable[[Body], bool], message: str, status: int = 400, text: str = "7") -> Loopback:
    """A server that rejects some requests."""

    def reply(body: Body) -> Any:
        if test(body):
            return refusal(status, message)
        typed = "[[ ##" in json.dumps(body["messages"]) and role_of(body) != "synthesize"
        return TYPED if typed else in_format(body, text)

    return Loopback(reply)


def has_system(body: Body) -> bool:
    return any(message["role"] in ("system", "developer") for message in body["messages"])


@pytest.mark.parametrize("signature", ["question -> answer", "question -> answer: int"])
@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("System role not supported", 500),  # llama.cpp with the template of Gemma
        ("Conversation roles must alternate user/assistant/user/assistant/...", 400),  # vLLM with Mistral's template
        ("Unsupported value: 'messages[0].role' does not support 'system' with this model.", 400),
    ],
)
def test_instructions_go_into_the_user_message_once_the_system_role_is_rejected(
    signature: str, engine: str, message: str, status: int
) -> None:
    with rejecting(has_system, message, status) as served:
        program = single_model(signature, served.lm(engine=engine), reasoning=False)
        program.propose.signature = program.propose.signature.with_instructions("Count the legs.")  # type: ignore[union-attr]
        first = program(question="a spider?")
        assert str(first.answer) == "7"
        (step,) = first.trace.steps
        assert (step.calls, step.status, len(step.failures)) == (2, "ok", 1)
        assert not step.failures[0].message.startswith("not asked again")
        accepted = served.calls[1]
        assert [turn["role"] for turn in accepted.body["messages"]] == ["user"]
        assert "Count the legs." in accepted.prompt
        assert "a spider?" in accepted.prompt
        program(question="an ant?")
        assert len(served.calls) == 3, "what was rejected is remembered"


def test_a_whole_run_pays_for_one_rejection_by_each_call_in_flight() -> None:
    with rejecting(has_system, "System role not supported", 500) as served:
        program = AttentionMoA("question -> answer", [served.lm(), served.lm("other")], layers=2)
        trace = program(question="?").trace
        assert {step.status for step in trace.steps} == {"ok"}
        assert sum(step.calls for step in trace.steps) == len(served.calls)
        assert len([call for call in served.calls if isinstance(call.reply, Http)]) == 2


def test_demos_keep_their_turns() -> None:
    with rejecting(has_system, "System role not supported", 500) as served:
        program = single_model("question -> answer", served.lm())
        program.propose.demos = [dspy.Example(question="one?", answer="first")]  # type: ignore[union-attr]
        program(question="two?")
        turns = served.calls[-1].body["messages"]
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
        assert "one?" in str(turns[0]["content"])
        assert "two?" in str(turns[2]["content"])


@pytest.mark.parametrize("signature", ["question -> answer", "question -> answer: int"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("temperature", "Unsupported value: 'temperature' does not support 0.3 with this model. Only the default (1)"),
        ("temperature", "`temperature` is deprecated for this model."),
        ("top_p", "Unsupported parameter: 'top_p' is not supported with this model."),
        ("seed", "Unrecognized request argument supplied: seed"),
        ("presence_penalty", "unknown field `presence_penalty`"),
        ("frequency_penalty", "Extra inputs are not permitted: frequency_penalty"),
    ],
)
def test_a_rejected_option_is_left_out(signature: str, name: str, message: str) -> None:
    with rejecting(lambda body: name in body, message) as served:
        lm = served.lm(temperature=0.3, top_p=0.9, seed=1, presence_penalty=0.1, frequency_penalty=0.1)
        program = single_model(signature, lm, reasoning=False)
        assert str(program(question="?").answer) == "7"
        assert len(served.calls) == 2
        kept = {"temperature", "top_p", "seed", "presence_penalty", "frequency_penalty"} - {name}
        assert kept <= served.calls[-1].body.keys()
        program(question="and?")
        assert len(served.calls) == 3


@pytest.mark.parametrize("signature", ["question -> answer", "question -> answer: int"])
@pytest.mark.parametrize(
    ("rejected", "other"), [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")]
)
def test_the_limit_has_the_other_name_once_one_is_rejected(signature: str, rejected: str, other: str) -> None:
    message = f"Unsupported parameter: '{rejected}' is not supported with this model. Use '{other}' instead."
    with rejecting(lambda body: rejected in body, message) as served:
        for engine in ("auto", "litellm"):
            program = single_model(signature, served.lm(max_tokens=123, engine=engine), reasoning=False)
            assert str(program(question="?").answer) == "7"
            body = served.calls[-1].body
            assert (body.get(other), rejected in body) == (123, False)


def test_several_rejections_one_after_the_other() -> None:
    def reply(body: Body) -> Any:
        for name in ("temperature", "top_p"):
            if name in body:
                return refusal(400, f"Unsupported parameter: '{name}' is not supported with this model.")
        return refusal(500, "System role not supported") if has_system(body) else "7"

    with Loopback(reply) as served:
        program = single_model("question -> answer", served.lm(top_p=0.9))
        assert program(question="?").answer == "7"
        assert len(served.calls) == 4


def test_a_rejection_without_end_is_a_failure() -> None:
    with rejecting(lambda body: True, "System role not supported; temperature is not supported") as served:
        with pytest.raises(AllProposalsFailedError):
            single_model("question -> answer", served.lm())(question="?")
        assert len(served.calls) == 2


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("System role not supported", ["system"]),
        ("system role is not supported by this chat template", ["system"]),
        ("Only user and assistant roles are supported!", ["system"]),
        ("Conversation roles must alternate user/assistant/user/assistant/...", ["system"]),
        ("Developer instruction is not enabled for models/gemma-3-27b-it", ["system"]),
        ("Unsupported value: 'messages[0].role' does not support 'system' with this model.", ["system"]),
        ("This model doesn't support system messages", ["system"]),
        ("System prompt is not supported", ["system"]),
        (
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1)",
            ["temperature"],
        ),
        ("temperature must be 1 for this model", ["temperature"]),
        ("openai does not support parameters: {'temperature': 0.7}, for model=gpt-5", ["temperature"]),
        ("Unsupported parameter: 'max_tokens' ... Use 'max_completion_tokens' instead.", ["max_tokens"]),
        ("Unrecognized request argument supplied: max_completion_tokens", ["max_completion_tokens"]),
        ('{"loc":["body","max_completion_tokens"],"msg":"Extra inputs are not permitted"}', ["max_completion_tokens"]),
        ("`top_k` is not supported", ["top_k"]),
        ("temperature and top_p cannot be supported together by this model", ["temperature", "top_p"]),
        ("reasoning_effort is not supported with this model", ["reasoning_effort"]),
        ("logit_bias: unknown field", ["logit_bias"]),
        ("`temperature` and `top_p` cannot both be specified for this model.", ["temperature", "top_p"]),
        ("`temperature` may only be set to 1 when thinking is enabled.", ["temperature"]),
        ("invalid temperature: only 0.6 is allowed for this model", ["temperature"]),
        ("The parameter `temperature` is fixed for this model", ["temperature"]),
        ("The temperature parameter is incompatible with reasoning models", ["temperature"]),
        ("This model only supports temperature=1", ["temperature"]),
        ("top_p must be 0.95 for this model", ["top_p"]),
        ("Per-request seed is disabled on this server", ["seed"]),
        ("logit_bias is not implemented", ["logit_bias"]),
        ("Argument not supported on this model: presencePenalty", ["presence_penalty"]),
        ("Argument not supported on this model: reasoningEffort", ["reasoning_effort"]),
        ("max_tokens cannot be used with this model, use max_completion_tokens", ["max_tokens"]),
        ("invalid role: system", ["system"]),
        ("message[0].role must be one of user, assistant", ["system"]),
        ("Developer message is not supported", ["system"]),
        ("Invalid value for temperature: expected at most 2", []),
        ("temperature must be 0 or more", []),
        ("reasoning_effort must be one of low, medium, high", []),
        ("This model only supports 4096 tokens, and max_tokens is 8192", []),
        ("max_tokens is too large: 99999. This model supports at most 4096 completion tokens", []),
        ("Model openai/temperature-3 does not exist", []),
        ("the prompt mentions a system", []),
        ("The system is overloaded", []),
        ("Unknown model", []),
        ("Internal server error", []),
    ],
)
def test_what_an_error_says_is_rejected(message: str, expected: list[str]) -> None:
    assert rejected_in(LMInvalidRequestError(message, model="m")) == expected


def test_other_failures_are_no_rejections() -> None:
    assert rejected_in(LMRateLimitError("temperature is not supported", model="m")) == []
    assert rejected_in(ValueError("temperature is not supported")) == []
    assert rejected_in(LMError("no", model="m")) == []


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("openai/gpt-5", False),
        ("openai/gpt-5-mini", False),
        ("openai/gpt-5-2025-08-07", False),
        ("openai/gpt-5.1", False),
        ("openai/gpt-5.6-luna", False),
        ("azure/gpt-5-nano", False),
        ("openrouter/openai/gpt-5", False),
        ("gpt-5", False),
        ("openai/o1", False),
        ("openai/o1-mini", False),
        ("openai/o1-preview", False),
        ("openai/o3", False),
        ("openai/o3-mini-2025-01-31", False),
        ("openai/o4-mini", False),
        ("OpenAI/O3-Pro", False),
        ("openai/gpt-5-chat-latest", True),
        ("openai/gpt-5.1-chat", True),
        ("openai/gpt-4.1", True),
        ("openai/gpt-4o", True),
        ("openai/gpt-50", True),
        ("anthropic/claude-haiku-4-5", True),
        ("openai/my-o1-tune", True),
        ("local", True),
        (None, True),
    ],
)
def test_models_that_take_no_temperature(model: str | None, expected: bool) -> None:
    assert takes_temperature(model) is expected
    if model is not None and model != "local" and expected:
        assert dspy.LM(model, temperature=0.5).kwargs["temperature"] == 0.5  # else DSPy refuses it


def test_models_that_take_no_system_role() -> None:
    assert not takes_system("gemini/gemma-3-27b-it")
    assert takes_system("openai/gpt-4.1")
    assert takes_system("openai/nobody-knows-this")


def strict(body: Body) -> bool:
    return body.get("temperature", 1) != 1


def test_a_model_without_temperature_is_never_sent_one() -> None:
    with rejecting(strict, "Unsupported value: 'temperature' does not support 0.7 with this model") as served:
        lm = dspy.LM("openai/gpt-5", api_base=served.url, api_key="k", num_retries=0)
        program = self_consistency(
            "question -> answer: int", Agent(lm, temperature=0.0, max_tokens=500), samples=3, reasoning=False
        )
        assert program(question="?").answer == 7
        assert len(served.calls) == 3
        assert all(call.body.get("max_completion_tokens") == 500 for call in served.calls)
        assert "openai/gpt-5 takes no temperature: 0 of gpt-5 is not sent" in program.plan(question="?").notes


@pytest.mark.parametrize("model", ["openai/gpt-5", "openai/o3-mini"])
def test_a_search_with_default_settings_runs_and_does_not_vary_the_temperature(model: str) -> None:
    trainset = [dspy.Example(question=str(n), answer="7").with_inputs("question") for n in range(2)]
    with rejecting(strict, "Unsupported value: 'temperature' does not support 0.7 with this model") as served:
        lm = dspy.LM(model, api_base=served.url, api_key="k", num_retries=0)
        found = search("question -> answer", [lm], trainset=trainset, metric=ExactMatch(), n_trials=2)
        assert found.score.value == 1.0
        assert not [call for call in served.calls if isinstance(call.reply, Http)]
        assert not [name for trial in found.study.trials for name in trial.params if name.startswith("temperature")]
        assert {spec.temperature for spec in found.program.architecture.agents} == {None}


def test_a_saved_program_of_such_a_model_loads_and_says_what_is_not_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "program.json"
    single_model("question -> answer", Agent("openai/gpt-5", temperature=0.7, max_tokens=500)).save(path)
    loaded = load(path)
    assert loaded.architecture.agents[0].temperature == 0.7
    assert loaded.architecture.agents[0].max_tokens == 500
    assert main(["show", str(path)]) == 0
    assert "the model takes no temperature: it is not sent" in " ".join(capsys.readouterr().out.split())


def test_the_command_line_plans_such_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "?", "--agent", "openai/gpt-5@0.7", "--layers", "1"]) == 0
    assert "openai/gpt-5 takes no temperature: 0.7 of gpt-5 is not sent" in capsys.readouterr().out


def test_a_command_says_what_is_not_sent_before_it_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rejecting(strict, "Unsupported value: 'temperature' does not support 0.7 with this model") as served:
        agent = f'[[agents]]\nmodel = "openai/gpt-5"\napi_base = "{served.url}"\ntemperature = 0.7\nmax_tokens = 300\n'
        (tmp_path / "moa.toml").write_text(f"{agent}[architecture]\nlayers = 1\nattention = 'none'\n")
        assert main(["ask", "?", "--config", str(tmp_path / "moa.toml")]) == 0
        said = capsys.readouterr()
        assert said.out == "7\n"
        assert "openai/gpt-5 takes no temperature: 0.7 of gpt-5 is not sent" in said.err.splitlines()[0]
        assert [call.body["max_completion_tokens"] for call in served.calls] == [300] * len(served.calls)


def test_a_rejected_call_counts_in_the_budget() -> None:
    with rejecting(has_system, "System role not supported", 500) as served:
        program = single_model("question -> answer", served.lm(), budget=Budget(calls=1))
        with pytest.raises(AllProposalsFailedError):
            program(question="?")
        assert len(served.calls) == 1
        assert program(question="?").answer == "7"
