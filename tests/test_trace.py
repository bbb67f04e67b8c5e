"""The record of a run: JSON in and out, totals that add up, a summary for people."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
from hypothesis import given, strategies as st
from support.loopback import Body, Http, Loopback, completion

import moa_dspy
from moa_dspy import AttentionMoA, ConfigurationError, Step, Tokens, Trace, record_prompts, single_model
from moa_dspy.testing import ScriptedLM, prompt_of
from moa_dspy.trace import STAGES, Failure, Grouping, Stage, Status, StoppedBy

TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
COUNTS = st.integers(0, 10**9)
SECONDS = st.floats(0, 1e3)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)
OUTPUTS = st.dictionaries(TEXTS, VALUES, max_size=3)
STEPS = st.builds(
    Step,
    layer=st.integers(1, 4),
    stage=st.sampled_from(STAGES),
    agent=TEXTS.filter(lambda text: text.isprintable()),
    target=st.none() | st.just("b"),
    model=st.none() | st.just("provider/model"),
    status=st.sampled_from(get_args(Status)),
    text=TEXTS,
    outputs=OUTPUTS,
    calls=st.integers(0, 3),
    cached=st.booleans(),
    tokens=st.builds(Tokens, prompt=COUNTS, cached=COUNTS, completion=COUNTS),
    cost_usd=st.none() | st.floats(0, 100),
    start=SECONDS,
    end=SECONDS,
    unanswered=st.integers(0, 2),
    failures=st.lists(st.builds(Failure, kind=TEXTS, message=TEXTS), max_size=2).map(tuple),
    error=st.none() | st.builds(Failure, kind=TEXTS, message=TEXTS),
    prompts=st.lists(TEXTS, max_size=2).map(tuple),
)
TRACES = st.builds(
    Trace,
    steps=st.lists(STEPS, max_size=8).map(tuple),
    outputs=st.lists(OUTPUTS, max_size=3).map(tuple),
    improved=st.lists(st.none() | st.booleans(), max_size=3).map(tuple),
    stopped_by=st.sampled_from(get_args(StoppedBy)),
    seconds=SECONDS,
    inputs=OUTPUTS,
    program=st.none() | st.just("0123456789abcdef"),
    version=st.none() | st.just("0.1.0"),
    date=st.none() | st.datetimes(timezones=st.just(datetime.UTC)),
)


@given(TRACES)
def test_what_is_written_is_read_back_equal(trace: Trace):
    text = trace.to_json()
    assert Trace.from_json(text) == trace
    assert Trace.from_json(text.encode()) == trace
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert Trace.from_json(trace.to_json(indent=2)) == trace


@given(TRACES)
def test_totals_are_the_sums_over_the_steps(trace: Trace):
    assert trace.calls == sum(step.calls for step in trace.steps)
    assert 0 <= trace.cached_calls <= trace.calls
    assert trace.tokens.total == sum(step.tokens.prompt + step.tokens.completion for step in trace.steps)
    assert trace.layers == max([step.layer for step in trace.steps], default=0)
    costs = [step.cost_usd for step in trace.steps]
    assert trace.cost_usd == (None if None in costs else pytest.approx(sum(map(float, [cost or 0 for cost in costs]))))


@given(TRACES)
def test_the_summary_has_a_row_for_each_layer_and_stage_and_agent_and_the_totals(trace: Trace):
    stages, agents, *_ = trace.summary().split("\n\n")
    assert len(stages.split("\n")) == 1 + len({(step.layer, step.stage) for step in trace.steps}) + 1
    assert len(agents.split("\n")) == 1 + len({step.agent for step in trace.steps})
    assert trace.stopped_by in trace.summary().split("\n")[-1]
    steps = trace.summary(steps=True).split("\n\n")[0]
    assert len(steps.split("\n")) == 1 + len(trace.steps)


@given(TRACES)
def test_groups_add_up_to_the_whole(trace: Trace):
    for grouping in get_args(Grouping):
        parts = trace.by(grouping)
        concerned = [step for step in trace.steps if getattr(step, grouping) is not None]
        assert len(parts) == len({getattr(step, grouping) for step in concerned})
        assert sum(part.steps for part in parts) == len(concerned)
        assert sum(part.usage.calls for part in parts) == sum(step.calls for step in concerned)
        assert sum(part.usage.tokens.prompt for part in parts) == sum(step.tokens.prompt for step in concerned)
    assert trace.total.usage.calls == trace.calls
    assert trace.total.usage.unanswered == sum(step.unanswered for step in trace.steps)
    assert trace.cost_is_lower_bound == any(step.unanswered for step in trace.steps)


def test_steps_are_grouped_by_what_there_is():
    with pytest.raises(ConfigurationError, match="by agent, stage, layer, model, not by 'colour'"):
        run().by("colour")  # type: ignore[arg-type]


def test_wall_time_of_a_group_is_the_time_in_which_one_of_its_steps_was_under_way():
    spans = (0, 2), (1, 3), (2.5, 2.75), (5, 6)
    steps = [Step(layer=1, stage="critique", agent="a", start=start, end=end, queued=0.5) for start, end in spans]
    (sums,) = Trace(steps=tuple(steps), outputs=()).by("agent")
    assert (sums.name, sums.usage.seconds, sums.queued) == ("a", 4, 2)


def test_stages_are_named_once():
    assert get_args(Stage) == STAGES


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"steps": 1, "outputs": []}', '{"steps": [], "outputs": [], "x": 1}']
)
def test_what_is_no_trace_is_refused(text: str):
    with pytest.raises(ConfigurationError, match=r"^the text is not a trace \(.+\); give what .+") as error:
        Trace.from_json(text)
    assert "\n" not in str(error.value)


def test_a_record_cannot_be_changed_afterwards():
    with pytest.raises(pydantic.ValidationError):
        Step(layer=1, stage="propose", agent="a").text = "other"  # type: ignore[misc]


def run() -> Trace:
    first, second = ScriptedLM("Paris is big.", "a/first"), ScriptedLM("Rome", "b/second")
    return AttentionMoA("question -> answer", [first, second], layers=1)(question="Where?").trace


def test_a_real_run_is_selected_by_what_one_asks_for():
    trace = run()
    assert [step.text for step in trace.select(stage="propose")] == ["Paris is big.", "Rome"]
    assert [(step.agent, step.target) for step in trace.select(stage="critique", target="first")] == [
        ("first", "first"),
        ("second", "first"),
    ]
    assert list(trace.select(layer=2)) == []
    assert list(trace.select()) == list(trace.steps)


def test_a_real_run_is_read_back_equal_and_in_order():
    trace = run()
    assert Trace.from_json(trace.to_json()) == trace
    assert [step.stage for step in trace.steps] == ["propose"] * 2 + ["critique"] * 4 + ["refine"] * 2 + ["aggregate"]
    assert all(0 <= step.start <= step.end <= trace.seconds for step in trace.steps)
    assert trace.outputs == ({"answer": "Paris is big."},)


@pytest.mark.parametrize(("written", "shown"), [("NaN", "NaN"), ("-Infinity", "-Infinity"), ("2.5", 2.5)])
def test_numbers_that_json_does_not_have_are_said_by_name(written: str, shown: Any):
    lm = ScriptedLM(f"[[ ## reasoning ## ]]\nr\n\n[[ ## x ## ]]\n{written}")
    trace = single_model("question -> x: float", lm)(question="?").trace
    assert trace.outputs[0]["x"] == shown
    assert Trace.from_json(trace.to_json()) == trace


def test_half_an_emoji_from_a_model_can_be_recorded():
    trace = single_model("question -> answer", ScriptedLM("half \ud83d"))(question="?").trace
    assert trace.steps[0].text == "half ?"
    assert Trace.from_json(trace.to_json()) == trace


SUMMARY = """
layer  stage      agent  target  status  calls  cached  prompt  (cached)  completion          cost  seconds  queued
    1  propose    a              ok          1       0      10         4           2     $0.500000     2.00    0.00
    1  propose    b              failed      2       0       0         0           0  >= $0.000000     2.00    0.00
    1  aggregate  a              ok          1       1       0         0           0     $0.000000     1.50    0.25

layer  stage      steps  failed  calls  cached  prompt  (cached)  completion          cost  seconds  queued
    1  propose        2       1      3       0      10         4           2  >= $0.500000     3.00    0.00
    1  aggregate      1       0      1       1       0         0           0     $0.000000     1.50    0.25
  all                 3       1      4       1      10         4           2  >= $0.500000     4.50    0.25

agent  steps  failed  calls  cached  prompt  (cached)  completion          cost  seconds  queued
a          2       0      2       1      10         4           2     $0.500000     3.50    0.25
b          1       1      2       0       0         0           0  >= $0.000000     2.00    0.00

failed: timeout: no reply in time (propose by b)
stopped by layers after 1 layer(s), 4.50 s, at least $0.500000, 1 call(s) cut short, which may be billed
"""


def test_the_summary_reads_well():
    slow = Failure(kind="timeout", message="no reply in time")

    def step(stage: Stage, agent: str, **values: Any) -> Step:
        return Step(layer=1, stage=stage, agent=agent, **values)

    trace = Trace(
        steps=(
            step("propose", "a", calls=1, tokens=Tokens(prompt=10, cached=4, completion=2), cost_usd=0.5, end=2),
            step("propose", "b", calls=2, unanswered=1, status="failed", start=1, end=3, failures=(slow,), error=slow),
            step("aggregate", "a", calls=1, cached_calls=1, cached=True, start=3, queued=0.25, end=4.5),
        ),
        outputs=({"answer": "x"},),
        seconds=4.5,
    )
    assert trace.summary(steps=True).splitlines() == SUMMARY.strip("\n").splitlines()


def test_a_trace_of_an_earlier_version_is_read():
    step = {
        "layer": 1,
        "stage": "propose",
        "agent": "a",
        "status": "failed",
        "error": {"kind": "auth", "message": "no"},
    }
    trace = Trace.from_json(json.dumps({"steps": [step], "outputs": []}))
    assert trace.steps[0].error == Failure(kind="auth", message="no")
    assert "failed: auth: no (propose by a)" in trace.summary()


def test_a_reply_that_was_cut_off_is_on_record_and_the_summary_says_whose() -> None:
    def cut(body: Body) -> Http:
        reply = completion(body, "an answer that")
        reply["choices"][0]["finish_reason"] = "length" if body["model"] == "long" else "stop"
        return Http(body=reply)

    with Loopback(cut) as server:
        moa = AttentionMoA("question -> answer", [server.lm("short"), server.lm("long")], layers=1, attention="none")
        trace = moa(question="?").trace
    assert [step.agent for step in trace.steps if step.truncated] == ["long"]
    assert "1 reply was cut at max_tokens" in trace.summary()
    assert "raise max_tokens (propose by long)" in trace.summary()


def test_a_trace_says_what_was_asked_of_which_program_and_when(tmp_path: Path):
    class Pattern:
        def critics(self, target: int, agents: int, layer: int) -> tuple[int, ...]:
            return (target,)

    agents = [ScriptedLM("Paris", "openai/a"), ScriptedLM("Rome", "openai/b")]
    program = AttentionMoA("question, hint -> answer", agents, layers=1)
    before = datetime.datetime.now(datetime.UTC)
    trace = program(question="Where?", hint="\ud800").trace
    assert trace.inputs == {"question": "Where?", "hint": "?"}
    assert trace.version == moa_dspy.__version__
    assert trace.date is not None
    assert before <= trace.date <= datetime.datetime.now(datetime.UTC)
    program.save(tmp_path / "program.json")
    loaded = moa_dspy.load(tmp_path / "program.json", lms={lm.model: lm for lm in agents})
    assert loaded(question="Where?", hint="").trace.program == trace.program is not None
    propose: Any = program.propose
    propose.signature = propose.signature.with_instructions("Think.")
    assert program(question="Where?", hint="").trace.program != trace.program
    custom = AttentionMoA("question -> answer", agents, layers=1, attention=Pattern())
    assert custom(question="Where?").trace.program is None  # it cannot be written to a file


def test_traces_of_older_versions_are_read():
    old = (
        '{"steps": [{"layer": 1, "stage": "propose", "agent": "a", "text": "Paris"}], "outputs": [{"answer": "Paris"}]}'
    )
    trace = Trace.from_json(old)
    assert (trace.inputs, trace.program, trace.version, trace.date, trace.steps[0].prompts) == (
        {},
        None,
        None,
        None,
        (),
    )


def test_prompts_are_recorded_on_request_one_for_each_call():
    lms = [ScriptedLM(["no number", "4"], "scripted/a"), ScriptedLM("4", "scripted/b")]
    program = AttentionMoA("question -> answer: int", lms, layers=1, aggregation="vote")
    assert all(step.prompts == () for step in program(question="What is 2 + 2?").trace.steps)
    lms[0] = ScriptedLM(["no number", "4"], "scripted/c")
    program = AttentionMoA("question -> answer: int", lms, layers=1, aggregation="vote")
    with record_prompts():
        steps = program(question="What is 2 + 2?").trace.steps
    assert [len(step.prompts) for step in steps] == [step.calls for step in steps]
    assert steps[0].calls == 2
    assert all("What is 2 + 2?" in prompt for step in steps for prompt in step.prompts)
    sent = [prompt_of(request).strip() for request in lms[0].requests]
    assert [prompt.strip() for step in steps if step.model == "scripted/c" for prompt in step.prompts] == sent
