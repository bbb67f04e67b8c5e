"""Comparison at matched spend: verdicts where the truth is known, spends within the tolerance, and who is compared."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import dspy
import numpy as np
import pytest
from dspy.clients.cache import Cache
from support.loopback import Loopback
from support.simulated_tasks import exact, examples, simulated

from moa_dspy import Agent, AttentionMoA, Budget, ConfigurationError, RunError, Tolerance, load, single_model
from moa_dspy.optimizers import Comparison, DeclinedError, compare
from moa_dspy.optimizers.comparison.baselines import Ensemble, singles_of
from moa_dspy.optimizers.comparison.contenders import LARGEST, nearest_size
from moa_dspy.optimizers.comparison.verdict import PROGRAM, ContenderScores, judge
from moa_dspy.planning import WorkEstimate
from moa_dspy.testing import ScriptedLM, prompt_of

TASKS = examples(60)


def ensemble(knows: float = 0.45, finds: float = 0.75, **options: Any) -> AttentionMoA:
    """Three models whose critiques are worth more than their answers."""
    skill: dict[str, Any] = {"finds": finds, "adopts": 0.95, "misled": 0.02, "wrong": ["a decoy"]}
    agents = [simulated(name, knows=knows, seed=seed, **skill) for seed, name in enumerate("abc")]
    return AttentionMoA("question -> answer", agents, **{"layers": 1, **options})


together = pytest.mark.xdist_group("helpful")


@pytest.fixture(scope="module")
def helpful() -> Comparison:
    cache = Cache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None, memory_max_entries=10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dspy, "cache", cache)
        return compare(ensemble(), baselines=None, devset=TASKS, metric=exact, match="calls", tolerance=0.1)


@pytest.mark.slow
@together
def test_where_the_ensemble_helps_the_program_is_the_verdict(helpful: Comparison) -> None:
    assert helpful.use == "program"
    assert helpful.verdict == "use the program: it is better than every baseline"
    assert helpful.winner is helpful.program is helpful.programs["program"]
    assert helpful.score == helpful.contender("program").score
    assert [one.name for one in helpful.contenders] == ["program", "single", "self-consistency", "self-moa", "moa"]
    for one in helpful.contenders[1:]:
        assert one.gain is not None
        assert one.gain.low > 0
        assert one.p is not None
        assert one.gain.p <= one.p <= 0.05


@together
def test_the_spend_is_matched_within_the_tolerance(helpful: Comparison) -> None:
    sizes = {one.name: (one.size, one.spent.calls, one.matched) for one in helpful.contenders}
    assert sizes == {
        "program": (None, 16, False),
        "single": (None, 1, False),
        "self-consistency": (16, 16, True),
        "self-moa": (15, 16, True),
        "moa": (6, 16, True),
    }
    assert [one.ratio for one in helpful.contenders] == [1, 1 / 16, 1, 1, 1]


@together
def test_the_single_model_is_chosen_on_examples_that_do_not_judge(helpful: Comparison) -> None:
    assert helpful.examples + helpful.pilot == len(TASKS)
    assert helpful.pilot == 12
    assert any("chosen from a, b, c on 12 pilot examples" in note for note in helpful.notes)


@together
def test_it_prints_as_a_table_and_as_json(helpful: Comparison) -> None:
    text = str(helpful)
    assert "verdict: use the program" in text
    assert "16 samples of" in text
    written = json.loads(helpful.to_json())
    assert written == helpful.report
    assert "winner" not in written
    assert written["rule"].startswith("A contender is shown to be worse if")
    assert written["cost"]["calls"] > 0


@pytest.mark.slow
def test_where_one_model_is_as_good_it_is_the_verdict(tmp_path: Any) -> None:
    agents = [
        simulated("strong", knows=0.9, finds=0.0, adopts=0.0),
        simulated("weak", knows=0.2, finds=0.0, adopts=0.0),
    ]
    program = AttentionMoA("question -> answer", agents, layers=1)
    result = compare(program, baselines=["single", "moa"], devset=TASKS, metric=exact)
    assert result.use == "single"
    assert "use" in result.verdict
    assert "the single model strong" in result.verdict
    result.winner.save(tmp_path / "winner.json")
    again = load(tmp_path / "winner.json", lms={"simulated/strong": agents[0]})
    assert again(question="task 001").answer == result.winner(question="task 001").answer


def test_no_difference_is_called_that_and_the_cheaper_one_is_used() -> None:
    program = AttentionMoA("question -> answer", [simulated("a", knows=1.0), simulated("b", knows=1.0)], layers=1)
    result = compare(program, baselines=["single"], devset=TASKS[:20], metric=exact)
    assert result.use == "single"
    assert result.verdict.startswith(
        "use the single model a: it is the cheapest of those that are not shown to be worse; not excluded: the program "
        "is better than it by up to 0."
    )
    assert result.contender("program").gain is None


@pytest.mark.slow
def test_tokens_are_matched_on_what_runs_used() -> None:
    result = compare(
        ensemble(),
        baselines=["self-moa", "moa"],
        devset=TASKS[:12],
        metric=exact,
        match="tokens",
        tolerance=0.15,
        pilot=TASKS[12:20],
    )
    assert result.match == "tokens"
    for one in result.contenders[1:]:
        assert 0.6 <= one.ratio <= 1.15
        assert one.matched == (one.ratio >= 0.85)
        assert one.matched or any("no size comes nearer" in note for note in result.notes)
        assert one.ratio == pytest.approx(one.spent.tokens / result.contender("program").spent.tokens)
    assert result.pilot == 8
    assert result.examples == 12


@pytest.mark.slow
def test_a_cached_rerun_costs_nothing_and_says_the_same_of_the_spend() -> None:
    program = ensemble()
    first, second = (compare(program, baselines=["single", "moa"], devset=TASKS[:12], metric=exact) for _ in range(2))
    assert second.cost.paid_calls == 0
    assert [one.spent for one in second.contenders] == [one.spent for one in first.contenders]
    assert second.verdict == first.verdict


def test_dollars_need_prices() -> None:
    lm = ScriptedLM("x", "scripted/unheard-of")
    program = AttentionMoA("question -> answer", [lm, ScriptedLM("y")], layers=1)
    with pytest.raises(ConfigurationError, match=r"scripted/unheard-of.*use match='tokens' or match='calls'") as caught:
        compare(program, baselines=None, devset=TASKS, metric=exact, match="usd")
    assert "\n" not in str(caught.value)
    assert not lm.requests


def test_dollars_of_a_program_of_ones_own_need_prices_as_well() -> None:
    with Loopback(lambda body: "Paris") as served:
        program = AttentionMoA("question -> answer", [served.lm("gpt-4.1-nano")], layers=1)
        other = single_model("question -> answer", ScriptedLM("x", "scripted/unheard-of"))
        with pytest.raises(ConfigurationError, match=r"scripted/unheard-of.*is not known"):
            compare(program, baselines={"mine": other}, devset=TASKS, metric=exact, match="usd")
        assert not served.calls


def test_what_failed_runs_paid_for_is_in_the_cost() -> None:
    def aggregate(request: Any) -> str:
        if any(f"task 00{number}" in prompt_of(request) for number in range(5)):
            raise RuntimeError("down")
        return "answer 1"

    good, bad = simulated("a", knows=0.6, cache=False), ScriptedLM(aggregate, "scripted/aggregator")
    strict = Tolerance(strict=True, retries=0)
    program = AttentionMoA("question -> answer", [good, bad], layers=1, attention="none", tolerance=strict)
    result = compare(program, baselines=["moa"], devset=TASKS[:20], metric=exact)
    assert result.contender(PROGRAM).failed == 5
    assert result.cost.paid_calls == len(good.requests) + len(bad.requests)  # calls that fail count


def test_a_budget_ends_it_with_what_to_do() -> None:
    program = ensemble()
    with pytest.raises(RunError, match="with a larger one the same call continues"):
        compare(program, baselines=["single"], devset=TASKS[:12], metric=exact, budget=Budget(calls=100))
    assert sum(len(agent.lm.requests) for agent in program.agents) <= 100  # type: ignore[union-attr]
    assert compare(program, baselines=["single"], devset=TASKS[:12], metric=exact, budget=Budget(calls=400)).use


def announced(program: AttentionMoA, **options: Any) -> WorkEstimate:
    """What is announced before a comparison, in which nothing is paid."""
    shown: list[WorkEstimate] = []
    with pytest.raises(DeclinedError):
        compare(program, before=lambda cost: bool(shown.append(cost)), **options)
    return shown[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"critiques": "joint"}, {"layers": 2}, {"layers": 2, "attention": "none"}], ids=str
)
def test_with_matched_calls_no_more_are_made_than_announced(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = ensemble(**options)
    given: dict[str, Any] = {"devset": TASKS[:5], "metric": exact, "tolerance": 0.25, "pilot": TASKS[5:8]}
    cost = announced(program, **given)
    assert cost.bounded
    assert "at most: calls" in str(cost)
    for agent in program.agents:
        assert agent.lm.requests == []  # type: ignore[union-attr]
    monkeypatch.setattr(dspy, "cache", Cache(False, False, None))
    assert compare(program, **given).cost.paid_calls <= cost.most.calls


@pytest.mark.parametrize("match", ["tokens", "calls"])
def test_where_the_calls_have_no_bound_that_is_said_and_a_budget_is_one(match: Any) -> None:
    """Whether a reply can be read is known when it has come, and tokens are known when they have been used."""
    lms = [ScriptedLM("It is 7.", f"scripted/{name}", temperature=1.0) for name in "ab"]
    program = AttentionMoA(
        "question -> number: int, unit: str" if match == "calls" else "question -> answer", lms, layers=1
    )
    given: dict[str, Any] = {"devset": TASKS[:6], "metric": lambda *_: 1.0, "match": match, "pilot": TASKS[6:8]}
    cost = announced(program, baselines=["self-moa"], **given)
    assert not cost.bounded
    assert not cost.to_dict()["bounded"]
    assert "no bound: calls" in str(cost)
    assert f"sizes follow from the measured {match}" in str(cost)
    limits = [Budget(calls=number) for number in (20, cost.most.calls)] if match == "tokens" else [Budget(calls=20)]
    for budget in limits:
        before = sum(len(lm.requests) for lm in lms)
        with contextlib.suppress(RunError):
            compare(program, baselines=["self-moa"], budget=budget, **given)
        assert 0 < sum(len(lm.requests) for lm in lms) - before <= (budget.calls or 0)


def test_a_comparison_without_sizes_is_bounded_in_any_unit() -> None:
    given: dict[str, Any] = {"devset": TASKS[:12], "metric": exact, "match": "tokens"}
    assert announced(ensemble(), baselines=["single"], **given).bounded
    assert announced(ensemble(), baselines={"mine": ensemble(layers=2)}, **given).bounded


def test_repeated_questions_and_the_programs_own_demos_are_no_evidence() -> None:
    program = single_model("question -> answer", simulated("a", knows=0.5))
    program.propose.demos = [dspy.Example(question="task 000", answer="answer 0")]  # type: ignore[union-attr]
    other = single_model("question -> answer", simulated("b", knows=0.9))
    result = compare(program, baselines={"mine": other}, devset=[*TASKS[:10], *TASKS[5:10]], metric=exact)
    assert result.examples == 9
    assert "1 test examples are left out: a program shows them to its models as demos" in result.notes
    assert "5 test examples are left out: they repeat the question of another one" in result.notes


@pytest.mark.slow
def test_the_largest_size_is_called_that() -> None:
    lms = [simulated("a", knows=0.9), simulated("b", knows=0.9)]
    long = AttentionMoA("question -> answer", lms, layers=9, early_stop=False)
    result = compare(long, baselines=["self-consistency"], devset=TASKS[:6], metric=exact, pilot=TASKS[10:14])
    assert result.contender("self-consistency").size == LARGEST
    assert any("64 is the largest size tried" in note for note in result.notes)


@pytest.mark.slow
def test_dollars_are_matched_where_prices_are_known() -> None:
    with Loopback(lambda body: "Paris") as served:
        lms = [served.lm(name, cache=True) for name in ("gpt-4.1-nano", "gpt-4.1-mini")]
        program = AttentionMoA("question -> answer", lms, layers=1)
        result = compare(
            program,
            baselines=["single", "self-moa"],
            devset=TASKS[:8],
            metric=exact,
            match="usd",
            pilot=TASKS[8:10],
            tolerance=0.05,
        )
    single, sampled = result.contenders[1:]
    assert single.what == "the single model gpt-4.1-nano"  # as good as the other, and cheaper
    assert single.spent.usd is not None
    assert sampled.size is not None
    assert 0.8 <= sampled.ratio <= 1.05
    assert result.use == "single"


def test_a_baseline_that_cannot_be_small_enough_is_left_out_and_that_is_said() -> None:
    program = single_model("question -> answer", simulated("a", knows=0.5))
    result = compare(program, baselines=["single", "self-moa"], devset=TASKS[:10], metric=exact)
    assert [one.name for one in result.contenders] == ["program", "single"]
    assert any(note.startswith("Self-MoA is left out") for note in result.notes)
    with pytest.raises(RunError, match="nothing to compare with"):
        compare(program, baselines=["self-moa"], devset=TASKS[:10], metric=exact)


def test_programs_of_ones_own_are_compared_as_they_are() -> None:
    other = single_model("question -> answer", simulated("z", knows=0.95))
    result = compare(ensemble(knows=0.1, finds=0.0), baselines={"mine": other}, devset=TASKS[:30], metric=exact)
    assert result.use == "mine"
    assert result.verdict == "use mine: it is better than the program"
    assert result.winner is other
    assert result.examples == 30
    assert not result.contender("mine").matched


def test_baselines_take_over_the_program_s_prompts_and_leave_it_as_it_is() -> None:
    program = ensemble(shared_prompts=False)
    for number, predictor in enumerate(program.propose):  # type: ignore[arg-type]
        predictor.signature = predictor.signature.with_instructions(f"Tuned {number}.")
    program.aggregate.signature = program.roles.aggregate.with_instructions("Unite.")
    singles = singles_of(program)
    assert [one.program.propose.signature.instructions for one in singles] == ["Tuned 0.", "Tuned 1.", "Tuned 2."]  # type: ignore[union-attr]
    sampled = Ensemble("self-moa", program, singles[1]).build(3)
    assert sampled.propose.signature.instructions == "Tuned 1."  # type: ignore[union-attr]
    assert sampled.aggregate.signature.instructions == "Unite."  # type: ignore[attr-defined]
    mixed = Ensemble("moa", program, singles[1]).build(2)
    assert [one.signature.instructions for one in mixed.propose] == ["Tuned 0.", "Tuned 1.", "Tuned 2."]  # type: ignore[union-attr]
    sampled.propose.demos.append(dspy.Example(question="q", answer="a"))  # type: ignore[union-attr]
    assert not program.propose[1].demos  # type: ignore[index]


def test_equal_agents_are_one_single_model_and_the_aggregator_is_one_too() -> None:
    lm, chief = simulated("a"), simulated("chief")
    program = AttentionMoA("question -> answer", [lm, lm, Agent(lm, temperature=0.2)], aggregator=chief)
    assert [one.name for one in singles_of(program)] == ["a", "a-3", "aggregator"]


def test_samples_of_a_model_at_temperature_zero_are_warmed_and_that_is_said() -> None:
    program = AttentionMoA("question -> answer", [Agent(simulated("a"), temperature=0.0)], layers=1)
    sampled = Ensemble("self-consistency", program, singles_of(program)[0])
    assert {agent.temperature for agent in sampled.build(3).agents} == {0.7}
    assert sampled.describe(3) == "3 samples of a at temperature 0.7, vote"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": None}, "metric=None is invalid"),
        ({"baselines": {"mine": dspy.Predict("a -> b")}}, r"baselines\['mine'\] must be an AttentionMoA, not Predict"),
        ({"match": "euros"}, "match='euros' is unknown; use 'calls', 'tokens' or 'usd'"),
        ({"tolerance": -0.1}, "tolerance=-0.1"),
        ({"alpha": 2}, "alpha=2"),
        ({"prefer": "speed"}, "prefer='speed' is unknown; use 'cheapest' or 'score'"),
        ({"gain": 2}, "gain=2"),
        ({"devset": []}, "0 test examples are too few"),
        ({"devset": TASKS[:5]}, "1 test examples are too few to compare on when 4 are set aside"),
        ({"baselines": ["best"]}, "baselines='best' is unknown; use some of single, "),
        ({"baselines": "single"}, "must be a list of names"),
        ({"baselines": []}, r"baselines=\[\] is empty; use some of"),
        ({"baselines": {}}, "at least one"),
        ({"pilot": TASKS[:3]}, "3 of 3 pilot examples are among those that judge"),
        ({"pilot": []}, "pilot is empty"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_paid(options: dict[str, Any], message: str) -> None:
    lms = [ScriptedLM("x", "scripted/a"), ScriptedLM("y", "scripted/b")]
    program = AttentionMoA("question -> answer", lms, layers=1)
    with pytest.raises(ConfigurationError, match=message):
        compare(program, **{"devset": TASKS, "metric": exact, **options})
    assert not any(lm.requests for lm in lms)


def test_what_the_examples_can_show_is_said_before_anything_is_paid() -> None:
    program, told = single_model("question -> answer", simulated("a", knows=0.5)), list[str]()
    few = compare(program, baselines=["single"], devset=TASKS[:4], metric=exact, progress=told.append)
    assert "with 4 examples that decide, alpha 0.05 and 80% power, no gain can be shown" in told[0]
    assert told[0] in few.notes
    more = compare(program, baselines=["single"], devset=TASKS, metric=exact, gain=0.1)
    assert any("the smallest gain that can be shown is about" in note for note in more.notes)
    assert any("a gain of 0.1 takes about" in note for note in more.notes)


def test_decisions_on_the_same_test_examples_are_counted() -> None:
    counts = []
    for knows in (0.5, 0.5, 0.6):
        program = single_model("question -> answer", simulated("a", knows=knows)).replace(layers=1)
        mine = single_model("question -> answer", simulated(f"b{knows}"))
        result = compare(program, baselines={"mine": mine}, devset=TASKS[:6], metric=exact)
        counts.append(result.reused)
    assert counts == [0, 0, 1]
    assert any("have decided once before" in note for note in result.notes)


# Sizes


@pytest.mark.parametrize("target", [2, 3, 7.4, 16, 40, 500])
@pytest.mark.parametrize(("base", "each"), [(1, 1), (0.5, 3.3), (0, 2)])
def test_the_size_is_the_nearest_that_the_tolerance_allows(target: float, base: float, each: float) -> None:
    asked: list[int] = []

    def price(size: int) -> float:
        asked.append(size)
        return base + each * size + 0.002 * size * size

    size = nearest_size(price, target, 0.1, 2)
    allowed = [n for n in range(2, LARGEST + 1) if price(n) <= target * 1.1]
    expected = min(allowed, key=lambda n: abs(price(n) - target), default=None)
    if expected is None:
        assert size is None
    else:
        assert size is not None
        assert price(size) <= target * 1.1
        assert abs(price(size) - target) == pytest.approx(abs(price(expected) - target), abs=0.1)


def test_few_sizes_are_tried() -> None:
    asked: list[int] = []
    assert nearest_size(lambda size: asked.append(size) or 3.0 + 2 * size, 60, 0.05, 2) in (28, 29)  # type: ignore[func-returns-value]
    assert len(asked) <= 3


# The rule


def standing(words: str, right: int, cost: float, of: int = 60) -> ContenderScores:
    return ContenderScores(words, [1.0] * right + [0.0] * (of - right), (cost,))


def test_of_contenders_that_are_not_shown_to_be_worse_the_cheapest_is_used() -> None:
    field = {PROGRAM: standing("the program", 20, 16), "single": standing("A", 50, 1), "moa": standing("B", 52, 16)}
    verdict = judge(field, 0.05)
    assert verdict.use == "single"
    assert verdict.sentence.startswith(
        "use A: it is better than the program; not excluded: B is better than it by up to"
    )
    field["single"] = standing("A", 35, 1)
    assert judge(field, 0.05).use == "moa"
    field = {PROGRAM: standing("the program", 49, 16), "single": standing("A", 10, 1), "moa": standing("B", 50, 15)}
    assert judge(field, 0.05).use == "moa", "at the same price the score decides"
    field["moa"] = standing("B", 48, 15)
    assert judge(field, 0.05).use == PROGRAM, "a little cheaper is not cheaper"
    field = {PROGRAM: standing("the program", 55, 16), "single": standing("A", 10, 1), "moa": standing("B", 9, 16)}
    assert judge(field, 0.05).sentence == "use the program: it is better than every baseline"


def test_the_verdict_says_what_it_does_not_exclude() -> None:
    field = {PROGRAM: standing("the program", 17, 16, of=20), "single": standing("A", 14, 1, of=20)}
    verdict = judge(field, 0.05)
    gain = verdict.gains["single"]
    assert verdict.use == "single"
    assert verdict.sentence.startswith(
        "use A: it is the cheapest of those that are not shown to be worse; not excluded: the program is better than "
        f"it by up to {gain.high:.3f} (its gain: {gain}); 20 examples are too few: to show such a gain takes about "
    )
    preferred = judge(field, 0.05, prefer="score")
    assert preferred.use == PROGRAM
    assert "its score is the highest of those that are not shown to be worse" in preferred.sentence


def test_intervals_and_p_values_say_what_the_rule_says() -> None:
    for right in range(30, 50):
        field = {
            PROGRAM: standing("the program", 40, 16),
            "single": standing("A", right, 1),
            "moa": standing("B", 40, 9),
        }
        verdict = judge(field, 0.05)
        gain, shown = verdict.gains["single"], verdict.adjusted["single"] <= 0.05
        assert verdict.adjusted["moa"] == 1.0, "nothing differs"
        assert (gain.low > 0 or gain.high < 0) == shown
        assert ("up to -" in verdict.sentence, verdict.use == "single") == (False, right >= 40 or not shown)


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 100])
def test_with_all_contenders_equal_the_single_model_is_used(count: int) -> None:
    random, used = np.random.default_rng(5), 0
    for _ in range(60):
        field = {
            name: ContenderScores(name, (random.random(count) < 0.6).astype(float).tolist(), (cost,))
            for name, cost in {PROGRAM: 33.0, "single": 1.0, "self-consistency": 33.0, "moa": 33.0}.items()
        }
        used += judge(field, 0.05).use == "single"
    assert used >= 56
