"""The search for an architecture: what it finds, what it counts, what it keeps, how it ends."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import optuna
import pytest
from optuna.trial import TrialState
from support.simulated_tasks import ANSWERS, exact, examples, simulated

from moa_dspy import Agent, AttentionMoA, Budget, ConfigurationError, RunError
from moa_dspy.cost.usage import Price
from moa_dspy.optimizers import (
    DesignSampler,
    GaussianProcessDesigns,
    Pruning,
    RandomDesigns,
    SearchProgress,
    SearchSpace,
    measure,
    search,
)
from moa_dspy.optimizers.search.designs import BoundSpace
from moa_dspy.optimizers.search.objective import Incumbent, Objective, cannot_win, pick_rule
from moa_dspy.optimizers.search.storage import open_storage
from moa_dspy.optimizers.search.usual import UsualDesigns
from moa_dspy.optimizers.search.workers import in_order
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.optimizers.stop_fitting.rescoring import ExampleScores, StopRuleScores, score_rules
from moa_dspy.testing import ScriptedLM, SimulatedLM, prompt_of

TASK = "question -> answer"
SMALL = SearchSpace(
    samples=1,
    temperatures=(None,),
    attention=("full", "none"),
    residual=("synthesis",),
    aggregators=("a",),
    layers=(1, 2),
)


QUICK = SearchSpace(samples=1, temperatures=(0.7,), layers=(1,), attention=("none",), residual=("synthesis",))


def agents() -> list[SimulatedLM]:
    return [simulated("a", knows=0.3, finds=0.8), simulated("b", knows=0.6, finds=0.1)]


def reached(lms: list[SimulatedLM]) -> int:
    return sum(len(lm.requests) for lm in lms)


def found(lms: list[SimulatedLM], **options: Any) -> Any:
    given: dict[str, Any] = {"trainset": examples(16), "metric": exact, "unit": "calls", "n_trials": 6, **options}
    return search(TASK, lms, **{"space": SMALL, **given})


def test_equal_scores_are_equal_when_they_are_read_back() -> None:
    scores = StopRuleScores({StopRule(1): ExampleScores([2 / 3], [Price(calls=1)])})
    assert (
        StopRuleScores.from_attrs(json.loads(json.dumps(scores.to_attrs())))[StopRule(1)].score
        == scores[StopRule(1)].score
    )


def test_a_model_whose_answers_cannot_be_judged_is_a_bad_choice_and_no_end() -> None:
    def number(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
        return float(prediction.answer.split()[-1]) == float(example.answer.split()[-1])

    lms = [Agent(ScriptedLM("I cannot say.", model="scripted/bad"), name="bad"), Agent(agents()[0], name="good")]
    space = replace(QUICK, aggregators=("good",))
    options: dict[str, Any] = {"trainset": examples(16), "n_trials": 3}
    assert search(TASK, lms, space=space, metric=number, **options).score.value > 0
    with pytest.raises(RunError, match="no answer could be judged"):
        search(TASK, lms[:1], space=replace(space, aggregators=None), metric=number, **options)


class TestWhatItFinds:
    @pytest.mark.slow
    def test_the_best_of_everything_there_is(self) -> None:
        bound = BoundSpace(SMALL, TASK, agents(), {})
        scores = [
            measure(bound.program(design, rule), examples(16), exact).score().value
            for design in bound.designs()
            for rule in bound.rules(design)
        ]
        result = found(agents(), n_trials=50, pruning=Pruning(level=0.0))
        assert result.report["ended_by"] == "space"
        assert result.score.value == max(scores)

    @pytest.mark.slow
    def test_the_score_is_the_programs_own(self) -> None:
        lms = agents()
        result = found(lms)
        calls = reached(lms)
        again = measure(result.program, examples(16), exact)
        assert isinstance(result.program, AttentionMoA)
        assert again.score().value == result.score.value
        assert reached(lms) == calls, "nothing is paid again"

    @pytest.mark.slow
    def test_the_cost_is_what_reached_the_models(self) -> None:
        lms = agents()
        result = found(lms)
        assert result.cost.paid_calls == reached(lms) > 0

    @pytest.mark.slow
    def test_the_same_seed_finds_the_same(self) -> None:
        space = SearchSpace(samples=1, layers=(1, 2))
        first, second = (found(agents(), space=space, n_trials=12, seed=3, trainset=examples(8)) for _ in range(2))
        assert first.report["trials"] == second.report["trials"]

    @pytest.mark.slow
    def test_the_report_is_json_and_the_program_can_be_exported(self, tmp_path: Path) -> None:
        result = found(agents())
        report = json.loads(json.dumps(result.report))
        assert {"best", "trials", "history", "space", "depth_curve", "pareto", "cost", "score"} <= report.keys()
        assert report["best"]["architecture"] == result.program.architecture.model_dump(mode="json")
        result.program.save(tmp_path / "program.json")
        assert json.loads((tmp_path / "program.json").read_text())

    @pytest.mark.slow
    def test_progress_is_told(self) -> None:
        seen: list[SearchProgress] = []
        found(agents(), progress=seen.append)
        assert [step.cost.paid_calls for step in seen] == sorted(step.cost.paid_calls for step in seen)
        assert seen[-1].best is not None
        assert {step.of for step in seen} == {16}


class TestFewCalls:
    def test_two_architectures_that_differ_in_attention_alone_share_their_first_proposals(self) -> None:
        lms = agents()
        bound = BoundSpace(SearchSpace(samples=1, temperatures=(None,), layers=(1,)), TASK, lms, {})
        designs = {d.attention: d for d in bound.designs() if d.samples == (1, 1) and d.aggregator == "a"}
        measure(bound.program(designs["none"]), examples(10), exact)
        traces = [
            run.trace for run in measure(bound.program(designs["full"]), examples(10), exact, keep_traces=True).runs
        ]
        for trace in traces:
            assert trace is not None
            assert all(step.cached for step in trace.select(layer=1, stage="propose"))
            assert not any(step.cached for step in trace.select(layer=1, stage="refine"))

    @pytest.mark.slow
    def test_trials_that_cannot_win_are_given_up(self) -> None:
        lms = [simulated("a", knows=0.95), simulated("b", knows=0.05)]
        result = found(lms, trainset=examples(40), pruning=Pruning(first_batch=5))
        pruned = [trial for trial in result.report["trials"] if trial["state"] == "pruned"]
        assert pruned
        assert all(trial["examples"] < 40 for trial in pruned)
        assert result.score.examples == 40

    def test_rungs_double_up_to_all_examples(self) -> None:
        assert Pruning(5).sizes(40) == [5, 10, 20, 40]
        assert Pruning(7).sizes(30) == [7, 14, 28, 30]
        assert Pruning(8).sizes(3) == [3]

    @pytest.mark.parametrize("values", [{"first_batch": 0}, {"first_batch": -1}, {"level": 1.0}])
    def test_pruning_that_is_not_possible_is_refused(self, values: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match=next(iter(values))):
            Pruning(**values)

    @pytest.mark.slow
    def test_no_architecture_is_run_twice(self) -> None:
        result = found(agents(), space=SearchSpace(samples=1, temperatures=(None,), layers=(1,)), n_trials=10)
        architectures = [
            json.dumps(trial.user_attrs["architecture"]) for trial in result.study.get_trials() if trial.values
        ]
        assert len(set(architectures)) == len(architectures)


class TestObjectives:
    @pytest.mark.slow
    def test_the_best_score_within_a_price(self) -> None:
        result = found(agents(), objective="score_at_price", price=3.0, n_trials=8)
        best = next(t for t in result.report["trials"] if t["number"] == result.report["best"]["trial"])
        assert best["price"]["calls"] <= 3.0
        runs = measure(result.program, examples(16), exact, keep_traces=True).runs
        assert sum(run.trace.calls for run in runs if run.trace) / 16 <= 3.0

    @pytest.mark.slow
    def test_score_and_cost_give_a_front(self) -> None:
        result = found(agents(), objective=("score", "cost"), n_trials=8)
        scores, costs = [p.score.value for p in result.pareto], [p.price.calls for p in result.pareto]
        assert scores == sorted(set(scores))
        assert costs == sorted(set(costs))
        assert len(result.study.directions) == 2
        assert result.score.value == scores[-1]

    def test_dollars_that_are_not_known_are_no_basis(self) -> None:
        with pytest.raises(ConfigurationError, match="tokens"):
            found(agents(), objective=("score", "cost"), unit="usd")

    def test_a_rule_is_picked_by_score_then_by_price(self) -> None:
        scores = StopRuleScores()
        for layers, values in enumerate(([0.0, 1.0], [1.0, 1.0], [1.0, 1.0]), start=1):
            scores[StopRule(layers)] = ExampleScores(values)
        assert pick_rule(scores, Objective("score")) == StopRule(2)
        assert StopRuleScores.from_attrs(json.loads(json.dumps(scores.to_attrs()))) == scores

    def test_a_trial_is_hopeless_only_where_every_depth_is_beaten(self) -> None:
        scores = StopRuleScores({StopRule(1): ExampleScores([0.0] * 20), StopRule(2): ExampleScores([1.0] * 20)})
        incumbent = Incumbent([1.0] * 40, 0.0)
        assert not cannot_win(scores, [incumbent], Objective("score"), 0.1)
        scores[StopRule(2)] = ExampleScores([0.0] * 20)
        assert cannot_win(scores, [incumbent], Objective("score"), 0.1)

    def test_a_price_above_the_limit_by_chance_is_no_reason_to_give_up(self) -> None:
        objective = Objective("score_at_price", 10.0, "tokens")
        prices = [Price(tokens=tokens) for tokens in (9, 9, 8, 30, 9, 8)]
        scores = StopRuleScores({StopRule(1): ExampleScores([1.0] * 6, prices)})
        assert objective.excess(scores[StopRule(1)].mean_price) > 0
        assert not cannot_win(scores, [], objective, 0.1)
        scores[StopRule(1)] = ExampleScores([1.0] * 6, [Price(tokens=tokens) for tokens in (12, 13, 15, 30, 12, 14)])
        assert cannot_win(scores, [], objective, 0.1)

    def test_a_trial_that_was_given_up_is_on_no_front(self) -> None:
        lms = [simulated("good", knows=0.95, seed=1), simulated("bad", knows=0.2, seed=2), simulated("so", knows=0.5)]
        space = SearchSpace(samples=1, temperatures=(0.7,), layers=(1,), attention=("none",))
        given: dict[str, Any] = {
            "objective": ("score", "cost"),
            "trainset": examples(50),
            "pruning": Pruning(level=0.3),
        }
        result = found(lms, space=space, n_trials=8, **given)
        states = {trial.number: trial.state for trial in result.study.trials if "pruned_after" in trial.user_attrs}
        assert states
        assert set(states.values()) == {optuna.trial.TrialState.PRUNED}
        assert not states.keys() & {trial.number for trial in result.study.best_trials}
        assert {point.trial for point in result.pareto}.isdisjoint(states)


class TestFailures:
    """A provider that is down is no bad architecture."""

    down = True

    def models(self) -> list[ScriptedLM]:
        def reply(request: Any) -> str:
            if self.down:
                raise RuntimeError("down")
            return next(answer for task, answer in ANSWERS.items() if task in prompt_of(request))

        return [ScriptedLM(reply, f"scripted/{name}") for name in "ab"]

    def test_nothing_is_scored_and_the_same_call_tries_again(self, tmp_path: Path) -> None:
        lms: Any = self.models()
        given: dict[str, Any] = {"storage": f"{tmp_path}/study.db", "n_trials": 3, "space": QUICK}
        with pytest.raises(RunError, match=r"scored nothing.*down.*the same call tries again"):
            found(lms, **given)
        assert reached(lms) <= 2 * 30, "it does not go on for ever"
        self.down = False
        result = found(lms, **given)
        assert result.score.value == 1.0
        assert len(trials_in(result, "complete", "pruned")) == 3
        assert {trial["reason"].partition(":")[0] for trial in trials_in(result, "fail")} == {
            "the program fails on every example; the first one"
        }

    def test_an_outage_on_the_way_ends_the_search_with_the_best_so_far(self) -> None:
        lms: Any = self.models()
        self.down = False

        def told(at: SearchProgress) -> None:
            self.down = at.trials >= 1

        result = found(lms, n_trials=6, space=replace(QUICK, samples=2), progress=told)
        assert result.report["ended_by"] == "failures"
        assert "down" in result.report["failure"]
        assert result.score.value == 1.0

    def test_a_model_that_never_answers_leaves_the_others_to_be_found(self) -> None:
        lms: Any = self.models()
        good = simulated("good", knows=0.9)
        result = found([good, lms[0]], n_trials=3, space=QUICK)
        assert [spec.model for spec in result.program.architecture.agents] == ["simulated/good"]
        assert result.score.value > 0.5


def trials_in(result: Any, *states: str) -> list[dict[str, Any]]:
    return [trial for trial in result.report["trials"] if trial["state"] in states]


class TestMetrics:
    def test_a_study_is_of_one_metric(self, tmp_path: Path) -> None:
        def lenient(example: Any, prediction: Any, trace: Any = None) -> bool:
            return True

        given: dict[str, Any] = {"storage": f"{tmp_path}/study.db", "n_trials": 2}
        found(agents(), **given)
        with pytest.raises(ConfigurationError, match="begun with another metric"):
            found(agents(), metric=lenient, **given)
        study = optuna.load_study(study_name="moa-dspy-search", storage=f"sqlite:///{tmp_path}/study.db")
        about = study.user_attrs["about"]
        study.set_user_attr("about", {key: value for key, value in about.items() if key != "metric"})
        with pytest.raises(ConfigurationError, match="begun with another metric"):
            found(agents(), **given)

    def test_a_metric_that_raises_on_one_depth_says_what_it_says_of_the_others(self) -> None:
        def replies(request: Any) -> str:
            prompt = prompt_of(request)
            if "improved" in prompt.casefold() and "Candidate" not in prompt:
                return "yes"
            return "no number" if "Candidate Answers:" in prompt else "7"

        def number(example: Any, prediction: Any, trace: Any = None) -> bool:
            return int(prediction.answer) == 7

        program = AttentionMoA(TASK, [ScriptedLM(replies)], layers=1, attention="none")
        run = measure(program, examples(2), exact, keep_traces=True).runs[0]
        assert run.trace is not None
        outputs = [{"answer": "7"}, {"answer": "no number"}]
        deep = run.trace.model_copy(update={"outputs": tuple(outputs), "improved": (True,), "layers": 2})
        rescored = score_rules(program, [replace(run, trace=deep)], [StopRule(1), StopRule(2)], number)
        assert {rule: one.scores for rule, one in rescored.scores.items()} == {StopRule(1): [1.0], StopRule(2): [0.0]}
        assert len(rescored.errors) == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"metric": None}, "metric=None is invalid"),
            ({"trainset": [dspy.Example(question="a", answer="b")]}, "use example.with_inputs"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_is_paid(self, options: dict[str, Any], message: str) -> None:
        lms = agents()
        with pytest.raises(ConfigurationError, match=message):
            found(lms, **options)
        assert not reached(lms)


class TestBudget:
    def test_calls_are_never_exceeded_and_the_best_so_far_comes_back(self) -> None:
        lms = agents()
        result = found(lms, budget=Budget(calls=150), n_trials=50)
        assert result.report["ended_by"] == "budget"
        assert reached(lms) == result.cost.paid_calls <= 150
        assert result.score.examples == 16

    @pytest.mark.slow
    def test_what_was_under_way_goes_on_in_the_next_call_and_is_not_paid_twice(self) -> None:
        storage = optuna.storages.InMemoryStorage()
        lms, whole = agents(), agents()
        begun = found(lms, budget=Budget(calls=150), storage=storage, pruning=Pruning(level=0.0))
        assert begun.report["ended_by"] == "budget"
        result = found(lms, storage=storage, n_trials=50, pruning=Pruning(level=0.0))
        dspy.cache.reset_memory_cache()
        reference = found(whole, n_trials=50, pruning=Pruning(level=0.0))
        assert reached(lms) == reached(whole)
        assert result.score == reference.score

    @pytest.mark.slow
    @pytest.mark.parametrize("sampler", [GaussianProcessDesigns(), RandomDesigns()], ids=lambda one: type(one).__name__)
    def test_a_search_in_many_calls_tries_the_designs_of_a_search_in_one(self, sampler: DesignSampler) -> None:
        def designs(result: Any) -> list[dict[str, Any]]:
            trials = [trial for trial in in_order(result.study) if trial.state.name in ("COMPLETE", "PRUNED")]
            return [{"state": trial.state.name, **trial.params, **trial.user_attrs["rules"]} for trial in trials]

        options: dict[str, Any] = {"n_trials": 14, "space": SearchSpace(samples=2, layers=(1,)), "sampler": sampler}
        whole = found(agents(), **options)
        dspy.cache.reset_memory_cache()
        storage, calls = optuna.storages.InMemoryStorage(), 0
        while True:
            calls += 1
            result = found(agents(), storage=storage, budget=Budget(calls=90), **options)
            if result.report["ended_by"] == "trials":
                break
        assert calls > 5
        assert any("retries_of" in trial for trial in result.report["trials"])
        assert designs(result) == designs(whole)
        assert (result.score, result.report["best"]["params"]) == (whole.score, whole.report["best"]["params"])
        assert result.program.architecture == whole.program.architecture

    @pytest.mark.slow
    def test_seconds_end_it(self) -> None:
        lms = [simulated("a", latency=0.05), simulated("b", latency=0.05)]
        began = time.monotonic()
        result = found(
            lms, budget=Budget(seconds=2), n_trials=500, space=SearchSpace(samples=2), pruning=Pruning(first_batch=2)
        )
        assert result.report["ended_by"] == "budget"
        assert time.monotonic() - began < 8


class TestStorage:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["{}/study.db", "sqlite:///{}/study.db", "journal:///{}/study.log"])
    def test_a_study_goes_on_where_it_ended(self, tmp_path: Path, kind: str) -> None:
        storage = kind.format(tmp_path)
        lms = agents()
        first = found(lms, storage=storage, n_trials=3)
        calls = reached(lms)
        same = found(lms, storage=storage, n_trials=3)
        assert (same.score, reached(lms)) == (first.score, calls)
        more = found(lms, storage=storage, n_trials=5)
        assert len(more.report["trials"]) == 5
        assert more.report["trials"][:3] == first.report["trials"]

    @pytest.mark.slow
    def test_a_trial_that_another_process_gave_up_meanwhile_does_not_end_the_search(self, tmp_path: Path) -> None:
        storage, given_up = open_storage(tmp_path / "study.db"), list[int]()

        def give_up_the_first(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
            if not given_up:
                study = optuna.load_study(study_name="moa-dspy-search", storage=open_storage(tmp_path / "study.db"))
                given_up.append(study.get_trials(states=(TrialState.RUNNING,))[0].number)
                study.tell(given_up[0], state=TrialState.FAIL)
            return float(exact(example, prediction, trace))

        result = found(agents(), metric=give_up_the_first, storage=storage)
        assert given_up
        assert result.score.value > 0

    @pytest.mark.slow
    def test_trials_are_plain_for_other_readers(self, tmp_path: Path) -> None:
        found(agents(), storage=tmp_path / "study.db")
        study = optuna.load_study(study_name="moa-dspy-search", storage=f"sqlite:///{tmp_path / 'study.db'}")
        trial = study.best_trial
        assert trial.params["attention"] in ("full", "none")
        assert {"rules", "score", "price", "architecture", "rule"} <= trial.user_attrs.keys()
        assert set(trial.user_attrs["rules"]["depths"]) >= {"1", "2", "2+stop"}

    def test_a_study_about_something_else_is_refused(self, tmp_path: Path) -> None:
        found(agents(), storage=tmp_path / "study.db", n_trials=1)
        with pytest.raises(ConfigurationError, match="data"):
            found(agents(), storage=tmp_path / "study.db", trainset=examples(15))
        with pytest.raises(ConfigurationError, match="space"):
            found(agents(), storage=tmp_path / "study.db", space=SearchSpace())

    @pytest.mark.slow
    def test_a_half_written_journal_line_is_cleared_away(self, tmp_path: Path) -> None:
        storage = f"journal:///{tmp_path}/study.log"
        found(agents(), storage=storage, n_trials=2)
        with (tmp_path / "study.log").open("ab") as journal:
            journal.write(b'{"op_code":8,"worker')
        assert len(found(agents(), storage=storage, n_trials=4).report["trials"]) == 4

    @pytest.mark.parametrize(
        ("storage", "what"),
        [("nowhere/study.db", "folder"), ("journal:///nowhere/at/all", "folder"), ("nosuch://x/y", "cannot be opened")],
    )
    def test_a_storage_that_cannot_be_opened(self, storage: str, what: str) -> None:
        with pytest.raises(ConfigurationError, match=what):
            found(agents(), storage=storage)


class TestSpace:
    @pytest.mark.slow
    def test_baselines_come_first(self) -> None:
        result = found(agents(), n_trials=6)
        tried = [t["params"] for t in result.report["trials"]]
        shapes = [(params["samples.a"], params["samples.b"], params["attention"]) for params in tried]
        alone, critical = [(1, 0, "none"), (0, 1, "none")], [(1, 0, "full"), (0, 1, "full")]
        assert shapes == [*alone, (1, 1, "none"), *critical, (1, 1, "full")], "the dearest comes last"

    def test_every_agent_is_tried_alone(self) -> None:
        bound = BoundSpace(SearchSpace(samples=2), TASK, [simulated(name) for name in "abcdef"], {})
        designs = [bound.design(params) for params in UsualDesigns(bound).params]
        alone = [design.samples for design in designs if design is not None and sum(design.samples) == 1]
        assert len(set(alone)) == 6

    def test_samples_have_names_that_no_other_agent_has(self) -> None:
        space = SearchSpace(samples=2, temperatures=(0.5,), attention=("none",), residual=("none",), layers=(1,))
        twice = [Agent(simulated("a"), "a"), Agent(simulated("a"), "a-2")]
        bound = BoundSpace(space, TASK, twice, {})
        (design,) = [
            design for design in bound.designs() if design.samples == (2, 2) and design.aggregator in (None, "a")
        ]
        names = [spec.name for spec in bound.program(design).architecture.agents]
        assert names == ["a", "a-sample-2", "a-2", "a-2-2"]

    def test_samples_of_one_model_draw_as_often_as_asked(self) -> None:
        space = SearchSpace(samples=3, temperatures=(0.5, 1.0), attention=("none",), residual=("none",), layers=(1,))
        bound = BoundSpace(space, TASK, [simulated("a")], {})
        designs = list(bound.designs())
        assert {design.samples for design in designs} == {(1,), (2,), (3,)}
        program = bound.program(next(d for d in designs if d.samples == (3,)))
        assert [agent.name for agent in program.agents] == ["a", "a-2", "a-3"]

    def test_several_samples_at_temperature_0_are_no_choice(self) -> None:
        space = SearchSpace(samples=2, temperatures=(0.0, 1.0), attention=("none",), residual=("none",), layers=(1,))
        designs = list(BoundSpace(space, TASK, [Agent(simulated("a"), "a")], {}).designs())
        assert {(d.samples, d.temperatures) for d in designs} == {((1,), (0.0,)), ((1,), (1.0,)), ((2,), (1.0,))}

    def test_typed_outputs_may_vote(self) -> None:
        assert BoundSpace(SearchSpace(), "question -> n: int", agents(), {}).choices["aggregation"] == (
            "synthesis",
            "vote",
        )
        assert BoundSpace(SearchSpace(), TASK, agents(), {}).choices["aggregation"] == ("synthesis",)

    def test_a_space_is_json(self) -> None:
        space = SearchSpace(temperatures={"a": (0.1, None)}, attention=("full", 2), layers=(1, 3))
        assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space

    @pytest.mark.parametrize(
        ("fields", "what"),
        [
            ({"samples": 0}, "samples=0"),
            ({"layers": ()}, "layers"),
            ({"layers": (0,)}, "layers=0"),
            ({"attention": ("some",)}, "some"),
            ({"attention": (9,)}, "9"),
            ({"attention": "full"}, "list"),
            ({"temperatures": (3.0,)}, "3.0"),
            ({"residual": ("both",)}, "both"),
            ({"layers": (1, 1)}, "twice"),
        ],
    )
    def test_what_cannot_be_searched_is_said_at_once(self, fields: dict[str, Any], what: str) -> None:
        with pytest.raises(ConfigurationError, match=what):
            SearchSpace(**fields)

    @pytest.mark.parametrize(
        ("arguments", "what"),
        [
            ({"space": SearchSpace(aggregators=("c",))}, "'c'"),
            ({"space": SearchSpace(temperatures={"c": (0.5,)})}, "'c'"),
            ({"layers": 3}, "SearchSpace"),
            ({"trainset": []}, "trainset"),
            ({"n_trials": 0}, "n_trials"),
            ({"seed": -1}, "seed=-1 is invalid"),
            ({"seed": 1.5}, "seed=1.5 is invalid"),
            ({"objective": "fame"}, "fame"),
            ({"price": 3.0}, "score_at_price"),
            ({"objective": "score_at_price"}, "price"),
            ({"unit": "euro"}, "euro"),
        ],
    )
    def test_arguments_that_cannot_be(self, arguments: dict[str, Any], what: str) -> None:
        with pytest.raises(ConfigurationError, match=what):
            found(agents(), **arguments)


def test_a_metric_that_fails_ends_the_search_and_leaves_no_running_trial() -> None:
    storage = optuna.storages.InMemoryStorage()

    def broken(example: dspy.Example, prediction: Any, trace: Any = None) -> Any:
        raise ZeroDivisionError

    with pytest.raises(RunError, match="the metric raised ZeroDivisionError"):
        found(agents(), metric=broken, storage=storage)
    study = optuna.load_study(study_name="moa-dspy-search", storage=storage)
    assert study.get_trials()[0].state.name == "FAIL"
    assert "RUNNING" not in [t.state.name for t in study.get_trials()]


@pytest.mark.slow
def test_it_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    found(agents(), n_trials=3)
    assert capfd.readouterr() == ("", "")


def test_models_that_fail_score_nothing_and_the_search_goes_on() -> None:
    def down(request: Any) -> str:
        raise ConnectionError("gone")

    lms: list[Any] = [ScriptedLM(down, model="scripted/down", num_retries=0), *agents()[1:]]
    space = SearchSpace(samples=1, temperatures=(None,), attention=("none",), residual=("none",), aggregators=("b",))
    result = search(TASK, lms, space=space, trainset=examples(8), metric=exact, n_trials=3, unit="calls", seed=1)
    assert [spec.name for spec in result.program.architecture.agents] != ["down"]


def test_a_study_continues_whatever_the_order_of_sets_and_the_types_of_keys(tmp_path: Path) -> None:
    def trials(tags: set[int]) -> int:
        example = dspy.Example(question="task 001", tags=tags, notes={1: "a", "b": 2}).with_inputs("question")
        lm = ScriptedLM("answer")
        result = search(
            TASK, [lm], trainset=[example], metric=lambda *_: 1.0, space=QUICK, n_trials=1, storage=tmp_path / "s.db"
        )
        return len(result.study.trials)

    assert list({0, 8}) != list({8, 0})
    assert trials({0, 8}) == trials({8, 0}) == 1


def test_a_result_counts_the_trials_that_ran() -> None:
    result = search(TASK, agents(), trainset=examples(2), metric=exact, space=QUICK, n_trials=1)
    assert "trials=1" in repr(result), "the usual ensembles wait in the queue"
