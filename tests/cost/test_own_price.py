"""An agent's own price: in plans, budgets, traces, records, comparisons and DSPy's optimizers."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.loopback import Body, Http, Loopback, completion
from support.runs import Watched

from moa_dspy import (
    Agent,
    AllProposalsFailedError,
    AttentionMoA,
    Budget,
    ConfigurationError,
    evaluate,
    load,
    single_model,
)
from moa_dspy.cli import main
from moa_dspy.config import load_config
from moa_dspy.cost.meter import metered
from moa_dspy.cost.own_price import OwnPrice, own_price
from moa_dspy.data import ExactMatch
from moa_dspy.evaluation import Devset
from moa_dspy.evaluation.suite import OwnData
from moa_dspy.optimizers import compile as tune
from moa_dspy.testing import ScriptedLM
from moa_dspy.trace import watch

PRICE = {"prompt": 2.0, "completion": 10.0}


def dollars(step: Any) -> float:
    return (step.tokens.prompt * 2 + step.tokens.completion * 10) / 1e6


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({"prompt": 1, "completion": 2}, OwnPrice(prompt=1, completion=2)),
        ({"prompt": 0.15, "completion": 0.6}, OwnPrice(prompt=0.15, completion=0.6)),
        ({"prompt": 0, "completion": 0}, OwnPrice(prompt=0, completion=0)),
        ({"completion": 2.5, "prompt": 1e-3}, OwnPrice(prompt=0.001, completion=2.5)),
        (OwnPrice(prompt=3, completion=4), OwnPrice(prompt=3, completion=4)),
    ],
)
def test_forms_of_a_price(given: Any, expected: OwnPrice | None) -> None:
    agent = Agent("openai/my-model", price=given)
    assert agent.price == expected
    assert own_price(agent.lm) == expected


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"prompt": 1},
        {"completion": 1},
        {"input": 1, "output": 2},
        {"prompt": 1, "completion": 2, "cached": 0},
        {"prompt": -1, "completion": 2},
        {"prompt": float("nan"), "completion": 2},
        {"prompt": float("inf"), "completion": 2},
        {"prompt": "1", "completion": 2},
        {"prompt": "$1", "completion": "$2"},
        {"prompt": None, "completion": 2},
        {"prompt": True, "completion": 2},
        1.5,
        "1.5",
        (1, 2),
        [1, 2],
        float("nan"),
    ],
)
def test_what_is_no_price_is_refused_in_one_line(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is not a price; write price=\{'prompt': 0.5") as refused:
        Agent("openai/my-model", price=given)
    assert "\n" not in str(refused.value)


def test_a_run_and_its_plan_have_the_same_price() -> None:
    with Loopback() as served:
        program = single_model("question -> answer", Agent(served.lm(), price=PRICE))
        (step,) = program(question="?").trace.steps
        assert step.tokens.total > 0
        assert step.cost_usd == pytest.approx(dollars(step))
        assert not step.estimated
    plan = program.plan(question="?")
    (share,) = plan.full.models
    assert share.price is not None
    assert (share.price.input, share.price.output, share.price.source) == (2.0, 10.0, "own")
    assert plan.full.usd == pytest.approx((share.prompt_tokens * 2 + share.completion_tokens * 10) / 1e6)
    assert not [note for note in plan.notes if "unknown" in note]


def test_a_price_of_ones_own_replaces_the_listed_one() -> None:
    listed = single_model("question -> answer", "openai/gpt-4.1").plan(question="?").full.usd
    own = single_model("question -> answer", Agent("openai/gpt-4.1", price=PRICE)).plan(question="?")
    assert listed is not None
    assert own.full.usd != pytest.approx(listed)
    assert own.full.models[0].price is not None
    assert own.full.models[0].price.source == "own"


@pytest.mark.parametrize("priced", [OwnPrice(prompt=0, completion=0), OwnPrice(prompt=2, completion=10)])
def test_a_server_that_reports_no_usage_is_priced_from_the_texts(priced: OwnPrice) -> None:
    def silent(body: Body) -> Http:
        content = completion(body, "a reply of several words")
        del content["usage"]
        return Http(200, content)

    with Loopback(silent) as served:
        program = single_model("question -> answer", Agent(served.lm(), price=priced))
        (step,) = program(question="?").trace.steps
    assert step.estimated
    assert step.tokens.completion > 0
    assert step.cost_usd == pytest.approx(priced.cost(step.tokens.prompt, step.tokens.completion))


@pytest.mark.parametrize(
    ("usage", "reported", "message"),
    [
        ({"prompt_tokens": 40}, {"prompt": 40}, {"content": "Paris"}),
        ({"completion_tokens": 7}, {"completion": 7}, {"content": "Paris"}),
        ({"prompt_tokens": 40, "completion_tokens": 0}, {"prompt": 40}, {"content": "Paris"}),
        ({"prompt_tokens": None, "completion_tokens": 7}, {"completion": 7}, {"content": "Paris"}),
        ({"total_tokens": 47}, {}, {"content": "Paris"}),
        ({"prompt_tokens": 40}, {"prompt": 40}, {"content": None, "reasoning_content": "Let me think of it."}),
    ],
)
@pytest.mark.parametrize("model", ["gpt-4.1", "own"])
def test_a_part_of_the_usage_that_a_server_leaves_out_is_completed_and_marked(
    model: str, usage: dict[str, Any], reported: dict[str, int], message: dict[str, Any]
) -> None:
    def partial(body: Body) -> Http:
        content = completion(body, "")
        content["choices"][0]["message"] |= message
        return Http(200, {**content, "usage": usage})

    own = {"prompt": 2.0, "completion": 10.0} if model == "own" else None
    seen = Watched()
    with Loopback(partial) as served, watch(seen):
        program = single_model("question -> answer", Agent(served.lm(model), price=own))
        with contextlib.suppress(AllProposalsFailedError):
            program(question="?", budget=Budget(usd=1))
    (step,) = seen.trace.steps
    assert step.estimated
    assert {kind: getattr(step.tokens, kind) for kind in reported} == reported
    assert step.tokens.prompt > 0
    assert step.tokens.completion > 0
    price = OwnPrice.of(own or {"prompt": 2.0, "completion": 8.0})
    assert price is not None
    assert step.cost_usd == pytest.approx(price.cost(step.tokens.prompt, step.tokens.completion))


def test_each_agent_has_its_own_price_and_a_cached_call_costs_nothing() -> None:
    with Loopback() as served:
        lm = served.lm(cache=True)
        agents = [Agent(lm, price=PRICE), Agent(lm, price={"prompt": 0.0, "completion": 1000.0}), Agent(lm)]
        program = AttentionMoA("question -> answer", agents, layers=1, attention="none", aggregation="vote")
        first, second, third, *_ = program(question="?").trace.steps
        assert first.cost_usd == pytest.approx(dollars(first))
        assert second.cost_usd == pytest.approx(second.tokens.completion / 1000)
        assert third.cost_usd is None
        again, *_ = program(question="?").trace.steps
        assert (again.cost_usd, again.cached) == (0.0, True)
        assert again.saved_usd == pytest.approx(first.cost_usd)


def test_the_model_of_the_settings_can_have_a_price() -> None:
    with Loopback() as served, dspy.context(lm=served.lm()):
        program = AttentionMoA("question -> answer", [Agent(price=PRICE)] * 2, layers=1)
        trace = program(question="?").trace
    assert trace.cost_usd == pytest.approx(sum(dollars(step) for step in trace.steps))
    assert {step.stage for step in trace.steps} == {"propose", "critique", "refine", "aggregate"}


def test_a_budget_in_dollars_holds_for_a_self_hosted_model() -> None:
    with Loopback() as served:
        plain, agent = Agent(served.lm()), Agent(served.lm(), price=PRICE)
        with pytest.raises(ConfigurationError, match="give the agent a price"):
            single_model("question -> answer", plain, budget=Budget(usd=1))(question="?")
        program = AttentionMoA("question -> answer", [agent] * 3, layers=2)
        free = program(question="?").trace
        cost = free.cost_usd
        assert cost is not None
        limited = program(question="?", budget=Budget(usd=cost / 3)).trace
        assert limited.cost_usd is not None
        assert 0 < limited.cost_usd < cost
        assert limited.calls < free.calls


def test_an_evaluation_and_an_optimizer_count_the_same_dollars(tmp_path: Path) -> None:
    rows = [dspy.Example(id=str(n), question=f"{n}", answer="a reply").with_inputs("question") for n in range(4)]
    with Loopback() as served:
        program = single_model("question -> answer", Agent(served.lm(), price=PRICE))
        result = evaluate(program, Devset(OwnData("mine.jsonl"), rows), ExactMatch(), out=tmp_path / "run.jsonl")
        spent = sum(call.usage["prompt_tokens"] * 2 + call.usage["completion_tokens"] * 10 for call in served.calls)
        assert result.cost_usd == pytest.approx(spent / 1e6)
        served.calls.clear()
        with metered() as meter:
            tuned = tune(program, trainset=rows, metric=ExactMatch(), method="bootstrap", budget=Budget(usd=1))
        spent = sum(call.usage["prompt_tokens"] * 2 + call.usage["completion_tokens"] * 10 for call in served.calls)
        assert served.calls
        assert meter.usage.cost_usd == pytest.approx(spent / 1e6)
        assert tuned.cost.cost_usd == pytest.approx(spent / 1e6)


def test_a_program_file_has_no_price_and_takes_it_from_the_configuration(tmp_path: Path) -> None:
    program = single_model("question -> answer", Agent("openai/my-model", price=PRICE, name="mine"))
    program.save(tmp_path / "program.json")
    assert "price" not in (tmp_path / "program.json").read_text()
    assert load(tmp_path / "program.json").plan(question="?").full.usd is None
    priced = load(tmp_path / "program.json", lms={"mine": program.agents[0].lm})  # type: ignore[dict-item]
    assert priced.plan(question="?").full.usd is not None


CONFIG = """
[[agents]]
model = "openai/my-model"
api_base = "{url}"
temperature = 1.0
price = {{ prompt = 2, completion = 10.0 }}
options = {{ num_retries = 0 }}

[architecture]
layers = 1
attention = "none"
"""


def test_a_price_in_the_configuration_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"item {n}", "answer": "a reply"} for n in range(14)]
    Path("items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Loopback() as served:
        Path("moa.toml").write_text(CONFIG.format(url=served.url))
        assert main(["ask", "?", "--config", "moa.toml", "--max-usd", "1", "--json", "--quiet"]) == 0
        used = json.loads(capsys.readouterr().out)
        spent = sum(call.usage["prompt_tokens"] * 2 + call.usage["completion_tokens"] * 10 for call in served.calls)
        assert used["cost_usd"] == pytest.approx(spent / 1e6)
        load_config("moa.toml").program().save("program.json")
        assert main(["plan", "?", "--program", "program.json", "--config", "moa.toml", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["full"]["models"][0]["price"]["source"] == "own"
        common = ["--config", "moa.toml", "--data", "items.jsonl", "--metric", "exact", "--quiet"]
        compared = ["compare", *common, "--match", "usd", "--baseline", "self-consistency", "--max-usd", "1"]
        assert main([*compared, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["cost"]["cost_usd"] > 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("price = 1.5", "price"),
        ("price = { prompt = 1 }", "completion"),
        ("price = { prompt = -1, completion = 1 }", "prompt"),
        ('price = { prompt = "1", completion = 1 }', "prompt"),
        ("price = { prompt = 1, completion = 1, cached = 1 }", "cached"),
        ("options = { input_cost_per_token = 1e-6 }", "price = { prompt = 0.5, completion = 1.5 }"),
        ("options = { output_cost_per_token = 1e-6 }", "in dollars per million tokens"),
    ],
)
def test_a_wrong_price_in_the_file_is_one_line_that_names_the_key(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "moa.toml"
    path.write_text(f'[[agents]]\nmodel = "openai/m"\n{line}\n')
    with pytest.raises(ConfigurationError) as refused:
        load_config(path)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_users_model_is_not_changed_and_copies_keep_the_price() -> None:
    lm = ScriptedLM("a")
    agent = Agent(lm, price=PRICE)
    assert own_price(lm) is None
    assert isinstance(agent.lm, ScriptedLM)
    assert Agent(lm, price=PRICE).lm is agent.lm
    single_model("question -> answer", agent)(question="?")
    assert len(lm.requests) == 1
    for copied in (agent.lm.copy(temperature=0.3), copy.copy(agent.lm), copy.deepcopy(agent.lm)):
        assert own_price(copied) == OwnPrice(prompt=2, completion=10)
    plain = dspy.LM("openai/m")
    assert Agent(plain, price=PRICE).lm is not plain
    assert own_price(Agent(plain).lm) is None
    other = Agent(Agent(plain, price=PRICE).lm, price={"prompt": 1, "completion": 1})
    assert own_price(other.lm) == OwnPrice(prompt=1, completion=1)


def test_a_local_model_may_have_a_price() -> None:
    agent = Agent("local", price=PRICE)
    plan = single_model("question -> answer", agent).plan(question="?")
    assert plan.full.usd is not None
    assert plan.full.usd > 0


def test_a_model_that_is_changed_later_is_changed_under_every_price() -> None:
    lm = ScriptedLM("Paris")
    agents = [Agent(lm, name=f"costs {usd}", price={"prompt": usd, "completion": usd}) for usd in (1, 10)]
    program = AttentionMoA("question -> answer", agents, layers=1, attention="none", aggregation="vote")
    lm.model, lm.kwargs = "scripted/renamed", {**lm.kwargs, "top_p": 0.25}
    first, second, _ = program(question="?").trace.steps
    assert first.model == second.model == "scripted/renamed"
    assert {request.config.top_p for request in lm.requests} == {0.25}
    assert second.cost_usd == pytest.approx(10 * (first.cost_usd or 0.0))
