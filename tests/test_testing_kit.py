"""The models that users test with: scripted ones do as told, simulated ones are as skilled as they are said to be."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import dspy
import pytest
from scipy.stats import multivariate_normal, norm
from support import planted

import moa_dspy
from benchmarks import search_worlds
from moa_dspy import AttentionMoA, ConfigurationError
from moa_dspy.runtime.adapters import PlainTextAdapter
from moa_dspy.signatures import Roles, derive_roles
from moa_dspy.testing import INDEPENDENT, ScriptedLM, SimulatedLM, prompt_of

TASKS = {f"What is the colour of box {number:04}?": f"colour {number % 7}" for number in range(500)}
ADAPTERS: dict[str, Callable[[], dspy.Adapter]] = {
    "plain": PlainTextAdapter,
    "chat": lambda: dspy.ChatAdapter(use_json_adapter_fallback=False),
    "json": dspy.JSONAdapter,
}
ROLES: Roles = derive_roles("question -> answer")


def ask(lm: dspy.BaseLM, role: Any, inputs: dict[str, Any], adapter: str = "plain") -> Any:
    with dspy.context(lm=lm, adapter=ADAPTERS[adapter](), disable_history=True):
        return cast("Any", dspy.Predict(role)(**inputs))


def wrong(question: str) -> str:
    return "colour 99" if question else ""


def assert_rate(hits: Iterable[bool], expected: float) -> None:
    """The share of hits is what a fair draw of that many gives but once in about 30 000 times."""
    outcomes = list(hits)
    deviation = math.sqrt(expected * (1 - expected) / len(outcomes))
    assert abs(sum(outcomes) / len(outcomes) - expected) <= 4.2 * deviation + 1e-9, (sum(outcomes), len(outcomes))


def test_a_script_is_a_text_a_sequence_or_a_function():
    assert ScriptedLM("a")("x") == ["a"]
    lm = ScriptedLM(["a", "b"])
    assert [lm("x")[0] for _ in range(4)] == ["a", "b", "b", "b"]
    assert ScriptedLM(lambda request: prompt_of(request).strip().upper())("x") == ["X"]


def test_a_model_that_cannot_be_is_refused():
    with pytest.raises(ConfigurationError, match="no reply"):
        ScriptedLM([])
    wrong: dict[str, Any] = {"knows": 7, "finds": -3, "adopts": "often", "misled": math.nan}
    wrong |= {"difficulty": 1.1, "same_error": -0.1, "deceives": lambda request: 0.5}
    for name, chance in wrong.items():
        with pytest.raises(ConfigurationError, match=f"{name}=.* is not a probability"):
            SimulatedLM(TASKS, **{name: chance})


def test_requests_are_kept_in_order_of_arrival_over_copies():
    lm = ScriptedLM("a")
    lm("first")
    lm.copy(temperature=0.5)("second")
    assert [prompt_of(request) for request in lm.requests] == ["\n\nfirst", "\n\nsecond"]


def test_a_function_may_fail_as_a_provider_does():
    def failing(request: Any) -> str:
        raise ConnectionError("gone")

    with pytest.raises(Exception, match="gone"):
        ScriptedLM(failing)("x")


def test_calls_overlap_and_take_their_time():
    lm = ScriptedLM("a", latency=0.2)

    async def several() -> list[Any]:
        return await asyncio.gather(*(lm.acall(f"prompt {number}") for number in range(10)))

    began = time.perf_counter()
    assert len(asyncio.run(several())) == 10
    assert 0.2 <= time.perf_counter() - began < 1.5


def test_the_cache_is_off_unless_it_is_switched_on():
    for cache, calls in ((False, 2), (True, 1)):
        lm = ScriptedLM("a", cache=cache)
        lm("x")
        lm("x")
        assert len(lm.requests) == calls


def test_usage_is_counted():
    with dspy.track_usage() as tracker:
        ScriptedLM("three more words", "my/model")("one two")
    (entry,) = tracker.usage_data["my/model"]
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (2, 3)


@pytest.mark.parametrize("knows", [0.0, 0.25, 0.8, 1.0])
def test_it_knows_as_often_as_it_is_said_to(knows: float):
    lm = SimulatedLM(TASKS, knows=knows, seed=3)
    assert_rate((ask(lm, ROLES.propose, {"question": q}).answer == right for q, right in TASKS.items()), knows)


def test_its_wrong_answers_are_spread_over_the_others():
    lm = SimulatedLM({"q1?": "yes"}, knows=0, same_error=0, wrong=["no", "maybe", "yes"])
    answers = [ask(lm.copy(rollout_id=n), ROLES.propose, {"question": "q1?"}).answer for n in range(600)]
    assert set(answers) == {"no", "maybe"}
    assert_rate((answer == "no" for answer in answers), 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("difficulty", "same_error"), [(0, 0), (0.3, 0.5), (0.5, 0.75), (1, 1)])
def test_agents_fail_together_as_the_model_says_and_each_is_as_skilled_as_stated(difficulty: float, same_error: float):
    """Marginal rates are the skills. Joint ones are those of two correlated normal variables."""
    tasks = {f"item {number:04}": f"colour {number % 7}" for number in range(1000)}
    shared: dict[str, Any] = {"difficulty": difficulty, "same_error": same_error}
    lms = [SimulatedLM(tasks, knows, model=f"sim/{knows}", **shared) for knows in (0.3, 0.7)]
    replies = [[lm(task)[0] for task in tasks] for lm in lms]
    failures = [[reply != right for reply, right in zip(of_one, tasks.values(), strict=True)] for of_one in replies]
    assert_rate(failures[0], 0.7)
    assert_rate(failures[1], 0.3)
    bounds = [norm.ppf(1 - knows) for knows in (0.3, 0.7)]
    correlation = min(difficulty, 1 - 1e-9)
    normal: Any = multivariate_normal
    both = normal.cdf(bounds, mean=[0, 0], cov=[[1, correlation], [correlation, 1]])
    together = [all(pair) for pair in zip(*failures, strict=True)]
    assert_rate(together, both)
    same = [one == other for one, other, fail in zip(*replies, together, strict=True) if fail]
    assert_rate(same, same_error**2 + (1 - same_error**2) / 6)


def test_hard_questions_stay_hard_and_belong_to_the_world():
    """The draws of one agent agree on a question. Another world has other hard questions."""
    tasks = {f"item {number:04}": "yes" for number in range(600)}

    def failures(lm: SimulatedLM, rollout: int | None) -> list[bool]:
        return [lm(task, rollout_id=rollout)[0] != "yes" for task in tasks]

    def together(one: list[bool], other: list[bool]) -> list[bool]:
        return [all(pair) for pair in zip(one, other, strict=True)]

    lm, other_world = SimulatedLM(tasks, 0.5), SimulatedLM(tasks, 0.5, world=1, model="sim/other")
    assert_rate(together(failures(lm, 1), failures(lm, 2)), 1 / 3)  # at a correlation of 0.5; independent: 1 / 4
    assert_rate(together(failures(lm, 1), failures(other_world, 1)), 1 / 4)


def test_agents_of_one_seed_with_other_names_draw_for_themselves():
    tasks = {f"item {number:04}": "yes" for number in range(600)}
    lms = [SimulatedLM(tasks, 0.5, model=f"sim/{name}", **INDEPENDENT) for name in "ab"]
    assert_rate([all(lm(task)[0] == "yes" for lm in lms) for task in tasks], 1 / 4)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_deceptive_agent_is_wrong_on_purpose_in_every_role(adapter: str):
    liar = SimulatedLM(TASKS, knows=1, finds=1, deceives=1)
    question, right = next(iter(TASKS.items()))
    inputs = {"question": question}
    lie = ask(liar, ROLES.propose, inputs, adapter).answer
    assert lie != right
    assert lie in ask(liar, ROLES.critique, ROLES.for_critique(inputs, lie, right), adapter).critique
    assert "Nothing" in ask(liar, ROLES.critique, ROLES.for_critique(inputs, lie, lie), adapter).critique
    assert refined(liar, question, lie, right, adapter) == lie
    assert ask(liar, ROLES.aggregate, ROLES.for_aggregate(inputs, [right, right, lie]), adapter).answer == lie
    if adapter != "plain":
        made = ask(liar, ROLES.synthesize, ROLES.for_synthesize(inputs, [right, right]), adapter)
        assert (made.improved, made.answer) == (True, lie)


def test_it_deceives_about_as_many_tasks_as_it_is_said_to_and_stays_with_them():
    lm = SimulatedLM(TASKS, knows=1, deceives=0.3)
    lied = [[lm(task, rollout_id=rollout)[0] != right for task, right in TASKS.items()] for rollout in (1, 2)]
    assert_rate(lied[0], 0.3)
    assert lied[0] == lied[1]


@pytest.mark.parametrize("finds", [0.0, 0.3, 1.0])
def test_it_finds_errors_of_a_peer_as_often_as_it_is_said_to(finds: float):
    lm = SimulatedLM(TASKS, finds=finds, seed=4)

    def found(question: str, right: str) -> bool:
        inputs = ROLES.for_critique({"question": question}, own=wrong(question), peer=wrong(question))
        return f"The answer should be: {right}." in ask(lm, ROLES.critique, inputs).critique

    assert_rate((found(question, right) for question, right in TASKS.items()), finds)


def test_a_critic_that_does_not_see_pushes_its_own_answer():
    lm = SimulatedLM(TASKS, finds=0)
    question, right = next(iter(TASKS.items()))
    inputs = ROLES.for_critique({"question": question}, own="colour 99", peer=right)
    assert "The answer should be: colour 99." in ask(lm, ROLES.critique, inputs).critique
    inputs = ROLES.for_self_critique({"question": question}, own="colour 99")
    assert "Nothing needs to change" in ask(lm, ROLES.self_critique, inputs).critique


def refined(lm: dspy.BaseLM, question: str, own: str, suggestion: str, adapter: str = "plain") -> str:
    critique = f"The answer should be: {suggestion}. The reason is in the task."
    return ask(lm, ROLES.refine, ROLES.for_refine({"question": question}, own, [critique]), adapter).answer


@pytest.mark.parametrize("adopts", [0.0, 0.6, 1.0])
def test_it_adopts_right_suggestions_as_often_as_it_is_said_to(adopts: float):
    lm = SimulatedLM(TASKS, adopts=adopts, misled=0.5, seed=5)
    assert_rate((refined(lm, q, wrong(q), right) == right for q, right in TASKS.items()), adopts)


@pytest.mark.parametrize("misled", [0.0, 0.15, 1.0])
def test_it_is_misled_as_often_as_it_is_said_to(misled: float):
    lm = SimulatedLM(TASKS, adopts=0.5, misled=misled, seed=6)
    assert_rate((refined(lm, q, right, wrong(q)) == wrong(q) for q, right in TASKS.items()), misled)


def test_an_aggregate_is_what_most_said():
    lm = SimulatedLM(TASKS)
    question = next(iter(TASKS))
    inputs = ROLES.for_aggregate({"question": question}, ["a", "b", "b"])
    assert ask(lm, ROLES.aggregate, inputs).answer == "b"


@pytest.mark.parametrize("adapter", ["chat", "json"])
def test_a_synthesis_keeps_the_better_round_where_it_sees_it(adapter: str):
    lm = SimulatedLM(TASKS, finds=1)
    question, right = next(iter(TASKS.items()))
    for rounds, improved in (
        ([wrong(question), right], True),
        ([right, wrong(question)], False),
        ([right, right], False),
    ):
        made = ask(lm, ROLES.synthesize, ROLES.for_synthesize({"question": question}, rounds), adapter)
        assert (made.improved, made.answer) == (improved, right)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_role_is_played_through_every_adapter(adapter: str):
    lm = SimulatedLM(TASKS, knows=1, finds=1, adopts=1)
    question, right = next(iter(TASKS.items()))
    inputs, other = {"question": question}, wrong(question)
    assert ask(lm, ROLES.propose, inputs, adapter).answer == right
    assert ask(lm, ROLES.improve, ROLES.for_improve(inputs, other), adapter).answer == right
    assert right in ask(lm, ROLES.critique, ROLES.for_critique(inputs, other, other), adapter).critique
    assert right in ask(lm, ROLES.self_critique, ROLES.for_self_critique(inputs, other), adapter).critique
    assert refined(lm, question, other, right, adapter) == right
    assert ask(lm, ROLES.aggregate, ROLES.for_aggregate(inputs, [right, right, other]), adapter).answer == right


@pytest.mark.parametrize(
    ("adapter", "task"),
    [("plain", "question -> answer")]
    + [(name, task) for name in (None, "chat", "json") for task in ("question -> answer", "question -> answer: int")],
)
def test_a_whole_program_runs_through_every_adapter_without_a_failed_step(adapter: str | None, task: str):
    sums = {f"What is {a} + {b}?": str(a + b) for a in range(3) for b in range(3)}
    agents = [SimulatedLM(sums, knows=0.5, seed=seed, model=f"simulated/{seed}") for seed in range(3)]
    program = AttentionMoA(task, agents, layers=2, early_stop=False)
    with dspy.context(adapter=None if adapter is None else ADAPTERS[adapter]()):
        prediction = program(question="What is 1 + 2?")
    failed = [step for step in prediction.trace.steps if step.status != "ok"]
    if adapter == "plain":
        assert {step.stage for step in failed} <= {"synthesize"}  # which has a decision besides the text
    else:
        assert failed == []
        assert prediction.trace.calls == program.architecture.max_calls


def test_equal_seeds_give_equal_runs_and_others_do_not():
    def texts(seed: int) -> list[str]:
        lm = SimulatedLM(TASKS, knows=0.5, seed=seed)
        return [ask(lm, ROLES.propose, {"question": question}).answer for question in list(TASKS)[:100]]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_rollouts_are_draws_of_their_own_in_both_kinds_of_call():
    lm = SimulatedLM({"q?": "yes"}, knows=0.5, wrong=["no"])
    blocking = [lm("q?", rollout_id=number)[0] for number in range(40)]

    async def later() -> list[str]:
        return [(await lm.acall("q?", rollout_id=number))[0] for number in range(40)]

    assert set(blocking) == {"yes", "no"}
    assert asyncio.run(later()) == blocking
    assert [lm.copy(rollout_id=number)("q?")[0] for number in range(40)] == blocking


def test_skill_may_depend_on_the_prompt():
    lm = SimulatedLM({"q?": "yes"}, knows=lambda request: float("step by step" in prompt_of(request)), wrong=["no"])
    assert lm("q?")[0] == "no"
    assert lm("q? Think step by step.")[0] == "yes"


def test_critics_and_refinements_may_depend_on_the_prompt_too():
    def planted(request: Any) -> float:
        return float("Count in dozens." in prompt_of(request))

    question, right = next(iter(TASKS.items()))
    lm = SimulatedLM(TASKS, finds=planted, adopts=planted, misled=planted)
    inputs = ROLES.for_critique({"question": question}, own=wrong(question), peer=wrong(question))
    for words, sees in (("Be brief.", False), ("Count in dozens.", True)):
        critic = ROLES.critique.with_instructions(words)
        assert (right in ask(lm, critic, inputs).critique) is sees
        critiques = [f"The answer should be: {right}. The reason is in the task."]
        refined = ask(
            lm,
            ROLES.refine.with_instructions(words),
            ROLES.for_refine({"question": question}, wrong(question), critiques),
        )
        assert (refined.answer == right) is sees


def test_the_longest_task_that_is_found_counts():
    lm = SimulatedLM({"2 + 2": "4", "12 + 2": "14"}, knows=1)
    assert lm("What is 12 + 2?")[0] == "14"
    assert lm("What is 2 + 2?")[0] == "4"


def test_an_unknown_task_is_an_error_that_shows_the_prompt():
    with pytest.raises(Exception, match=r"knows no task in this prompt: 'What\?'"):
        SimulatedLM({"q?": "yes"})("What?")


@pytest.mark.slow
def test_agents_that_help_each_other_are_right_more_often_than_one_alone():
    """What the kit is for: with critics that see errors the ensemble beats its members, with blind ones it does not."""
    questions = list(TASKS)[:60]

    def accuracy(program: AttentionMoA) -> float:
        return sum(program(question=question).answer == TASKS[question] for question in questions) / len(questions)

    def agents(finds: float, **errors: Any) -> list[dspy.BaseLM]:
        skill: dict[str, Any] = {"finds": finds, "adopts": 0.9, "misled": 0.1, **errors}
        return [SimulatedLM(TASKS, 0.4, model=f"simulated/{number}", **skill) for number in range(3)]

    alone = accuracy(moa_dspy.single_model("question -> answer", agents(0.7)[0]))
    together = accuracy(AttentionMoA("question -> answer", agents(0.7), layers=1))
    blind = accuracy(AttentionMoA("question -> answer", agents(0.0), layers=1))
    flattered = accuracy(AttentionMoA("question -> answer", agents(0.7, **INDEPENDENT), layers=1))
    assert together > alone + 0.15
    assert together > blind + 0.15
    assert flattered > together


def accuracy_of(program: AttentionMoA, examples: Iterable[dspy.Example]) -> float:
    scores = [example.answer == program(**example.inputs()).answer for example in examples]
    return sum(scores) / len(scores)


@pytest.mark.slow
def test_planted_critics_pay_only_with_their_prompt_and_their_architecture():
    examples = planted.examples(0, 40)
    plain, without = (planted.program_of(planted.critics(), attention=attention) for attention in ("full", "none"))
    told = plain.deepcopy()
    critiques: list[Any] = [told.critique, told.self_critique]
    for predictor in critiques:
        predictor.signature = predictor.signature.with_instructions(planted.PHRASE)
    best = accuracy_of(told, examples)
    assert best >= accuracy_of(plain, examples) + 0.15
    assert best >= accuracy_of(without, examples) + 0.15


@pytest.mark.slow
def test_an_ensemble_is_better_without_its_deceptive_agent():
    world = search_worlds.worlds(40)["deceptive agent"]
    agents = world.agents()
    whole, honest = (AttentionMoA(search_worlds.TASK, some, layers=1) for some in (agents, agents[:-1]))
    assert accuracy_of(honest, world.examples) >= accuracy_of(whole, world.examples) + 0.1
