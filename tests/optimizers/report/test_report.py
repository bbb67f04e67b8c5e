"""The report: what a page shows of real records, that no text becomes markup, that charts stay inside their frame."""

from __future__ import annotations

import copy
import hashlib
import html
import itertools
import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import dspy
import optuna
import pytest
from dspy.clients.cache import Cache
from hypothesis import example, given, settings, strategies as st
from support import planted
from support.simulated_tasks import exact, examples, simulated

from moa_dspy import AttentionMoA, ConfigurationError, evaluate
from moa_dspy.cost.usage import Price
from moa_dspy.optimizers import SearchSpace, accept, ceiling, compare, compile, contributions, profile, search  # noqa: A004
from moa_dspy.optimizers.prompts.student import instructions_of
from moa_dspy.optimizers.report.charts import Bar, Line, PlotMark, bars, plot
from moa_dspy.optimizers.report.page import render
from moa_dspy.optimizers.report.records import KINDS, MODELS, parse, records_in
from moa_dspy.optimizers.report.sources import is_storage, records_of_file
from moa_dspy.optimizers.report.studies import study_in, study_record
from moa_dspy.optimizers.report.text import differences
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.optimizers.stop_fitting.rescoring import ExampleScores, StopRuleScores
from moa_dspy.run_view import visible_signs as printable

VOID = {"meta", "br", "hr", "img", "input", "link"}
SPACE = SearchSpace(samples=1, temperatures=(None,), attention=("full", "none"), aggregators=("a",), layers=(1, 2))


class Page(HTMLParser):
    """A page, read strictly: every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        assert text.startswith("<!doctype html>\n")
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)
        if "h2" in self._open:
            self.headings[-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def checked(text: str) -> Page:
    """The page, which runs nothing and fetches nothing."""
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "link", "img"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        assert name not in ("src", "srcset", "action", "data")
        assert name not in ("href", "xlink:href") or value.startswith("#")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in page.attributes if name == "href"} <= set(ids)
    text.encode()
    names = [name for name, _ in page.attributes]
    assert page.tags.count("th") == names.count("scope"), "every header says what it is of"
    assert page.tags.count("svg") == page.tags.count("desc") == page.tags.count("figcaption")
    return page


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, Any]]:
    """One real, small result of each kind."""
    cache = Cache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None, memory_max_entries=10_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dspy, "cache", cache)
        agents = [simulated("a", knows=0.3, finds=0.8), simulated("b", knows=0.6, finds=0.1)]
        train, test = planted.examples(0, 20), planted.examples(20, 30)
        program = planted.program_of(planted.agents(planted.told, 2, cache=True), attention="full")
        given: dict[str, Any] = {"trainset": examples(12), "metric": exact, "n_trials": 5, "unit": "calls"}
        found = search("question -> answer", agents, space=SPACE, **given)
        tuned = compile(
            program,
            trainset=train[:6],
            valset=train[6:10],
            metric=planted.right,
            method="bootstrap",
            bootstrapped_demos=1,
        )
        told = compile(
            program,
            trainset=train[:12],
            valset=train[12:],
            metric=planted.right,
            method="copro",
            prompt_lm=planted.writer(),
            breadth=3,
            depth=1,
        )
        yield {
            "program": program,
            "search": found,
            "compile": told,
            "demos": tuned,
            "acceptance": accept(program, told.program, valset=test, metric=planted.right),
            "profile": profile(program, test, planted.right),
            "contributions": contributions(program, test, planted.right),
            "ceiling": ceiling(program, test, planted.right, whole=True),
            "compare": compare(program, baselines=["single", "moa"], devset=test, metric=planted.right),
        }


@pytest.fixture(scope="module")
def optimization(results: dict[str, Any]) -> dict[str, Any]:
    """The record of a whole optimization, put together from real parts, as JSON would give it back."""
    found, told, program = results["search"], results["compile"], results["program"]
    curve = found.report["depth_curve"]
    reports = {name: results[name].report for name in ("acceptance", "profile", "contributions")}
    sides = {
        name: {"architecture": one.architecture.model_dump(mode="json"), "prompts": instructions_of(one)}
        for name, one in (("baseline", program), ("candidate", told.program))
    }
    record = {
        "kind": "optimize",
        "task": "question -> answer",
        "metric": "right",
        "method": "copro",
        "seed": 3,
        "data": {"train": {"examples": 12, "digest": "abc123"}},
        "rounds": [
            {
                "search": found.report,
                "prompts": told.report,
                "stop": {"kind": "stop", "curve": curve, "chosen": curve[0], "before": "2+stop"},
            },
            {"search": None, "prompts": results["demos"].report, "stop": None},
        ],
        **reports,
        **sides,
        "cost": (found.cost + told.cost).model_dump(),
        "spent": [{"stage": name, "cost": one.cost.model_dump()} for name, one in (("search", found), ("copro", told))],
        "ended_by": "done",
        "notes": ["The second round found nothing."],
    }
    return json.loads(json.dumps(record))


# What a page shows


@pytest.mark.slow
def test_an_optimization_has_a_section_for_everything(optimization: dict[str, Any], results: dict[str, Any]) -> None:
    page = checked(render([optimization]))
    assert page.headings == [
        "Verdict",
        "Cost by stage",
        "Round 1: optimization history and Pareto front",
        "Round 1: prompts, by copro",
        "Round 1: depth curve and stop rule",
        "Round 2: prompts, by bootstrap",
        "Round 2: what is absent",
        "Stage profile",
        "What each agent adds",
        "What changed, before and after",
        "About this optimization",
    ]
    assert page.tags.count("svg") == 9
    assert all(words in page.text for words in ("History", "Pareto front", "Depth", "The second round found nothing."))
    outcome = results["acceptance"]
    for figures in (outcome.reason, outcome.before, outcome.after, results["search"].score, results["compile"].gain):
        assert str(figures) in page.text
    assert f"{outcome.gain} (90%)" in page.text
    cost = results["search"].cost + results["compile"].cost
    assert f"{cost.paid_calls:,} calls, {cost.tokens.total:,} tokens, dollars unknown" in page.text


@pytest.mark.slow
def test_every_record_alone_shows_its_own_figures(results: dict[str, Any]) -> None:
    stages, agents, contest = (results[name] for name in ("profile", "contributions", "compare"))
    expected: dict[str, list[Any]] = {
        "search": [results["search"].score, *(point.score for point in results["search"].pareto)],
        "compile": [results["compile"].before, results["compile"].score, results["compile"].gain],
        "acceptance": [results["acceptance"].reason],
        "profile": [*(row.score for row in stages.rows if row.score), *(row.gain for row in stages.rows if row.gain)],
        "contributions": [*(row.adds for row in agents.rows), *(row.score for row in agents.rows), agents.score],
        "ceiling": [way.right for way in results["ceiling"].ways],
        "compare": [contest.verdict, *(one.score for one in contest.contenders), *contest.notes],
    }
    for kind, figures in expected.items():
        page = checked(render([json.loads(json.dumps(results[kind].report))]))
        assert len(page.headings) == 1
        assert "nav" not in page.tags, "one section needs no table of contents"
        for figure in figures:
            assert str(figure) in page.text, (kind, figure)


def test_history_and_front_are_drawn_as_they_are(results: dict[str, Any]) -> None:
    report = results["search"].report
    text = render([report])
    for trial in report["trials"]:
        score = f"{trial['score']:.3f}" if trial["score"] is not None else ""
        assert f"<title>trial {trial['number']}, {trial['state']}: {score}" in text
    assert len(re.findall(r"<title>\d+: [\d.]+ \[", text)) == len(report["pareto"])
    assert f"{len(report['trials'])} trials, with their parameters" in text
    assert "(chosen)" in text


def test_prompt_changes_are_marked_by_the_word_and_the_unchanged_folded(results: dict[str, Any]) -> None:
    report = copy.deepcopy(results["compile"].report)
    predictors = report["predictors"]
    as_it_was = next(iter(predictors.values()))["instructions"]
    as_it_was["after"] = as_it_was["before"]
    text = render([report])
    changed = {name for name, entry in predictors.items() if len(set(entry["instructions"].values())) > 1}
    assert changed
    assert {name for name in predictors if f"<h4>{name}</h4>" in text} == changed
    assert f"{len(predictors) - len(changed)} unchanged: " in text
    assert "<ins>" in text
    assert "Demos: 1 bootstrapped, " in checked(render([results["demos"].report])).text


def test_the_same_records_give_the_same_page_and_a_title_is_taken(optimization: dict[str, Any]) -> None:
    assert render([optimization]) == render([optimization])
    page = checked(render([optimization, optimization["profile"]], title="Mine & yours"))
    assert "<h1>Mine &amp; yours</h1>" in render([optimization], title="Mine & yours")
    assert page.headings[-1] == "Stage profile"
    assert "nav" in page.tags


def test_records_are_found_wherever_they_are(optimization: dict[str, Any]) -> None:
    stages = {"stages": optimization["profile"], "agents": None}
    assert [record["kind"] for record in records_in([stages, {"kind": "else", "in": [optimization]}, "x", 3])] == [
        "profile",
        "optimize",
    ]
    assert records_in({"kind": "timeout"}) == records_in("search") == records_in(None) == []
    with pytest.raises(ConfigurationError, match="cannot show a record of kind 'other'"):
        render([{"kind": "other"}])


# What is missing or damaged


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_without_anything_says_so(kind: str) -> None:
    page = checked(render([{"kind": kind}]))
    assert "not on record" in page.text or "There is no" in page.text or "missing" in page.text


@pytest.mark.parametrize("kind", ["search", "compile", "acceptance", "profile", "contributions", "ceiling", "compare"])
def test_a_result_writes_no_field_that_its_record_has_not(kind: str, results: dict[str, Any]) -> None:
    report = json.loads(json.dumps(results[kind].report))
    written = MODELS[kind].model_validate(report, extra="forbid").model_dump(mode="json", exclude_unset=True)
    assert written == report


def test_an_optimization_without_a_held_out_test_says_so(optimization: dict[str, Any]) -> None:
    said = {
        "acceptance": None,
        "verdict": "Nothing was held out.",
        "score": optimization["rounds"][0]["search"]["score"],
    }
    page = checked(render([{**optimization, **said}]))
    assert page.headings[0] == "Verdict"
    assert "Nothing was held out." in page.text
    assert "No candidate was tested on held-out examples" in page.text
    assert "The program that is kept scores" in page.text


def test_a_trial_that_the_budget_cut_short_is_not_said_to_have_failed(optimization: dict[str, Any]) -> None:
    (done, *_) = optimization["rounds"]
    number = done["search"]["best"]["trial"]
    trials = [
        {**trial, "state": "fail", "examples": 7, "reason": "the budget of its search ended"}
        for trial in done["search"]["trials"]
        if trial["number"] == number
    ]
    search = {**done["search"], "trials": trials}
    page = checked(render([{**optimization, "rounds": [{**done, "search": search, "stop": None}]}]))
    assert "1: 1 cut short" in page.text
    assert f"{number}, cut short after 7 examples" in page.text
    assert "1 fail" not in page.text
    assert "Not done, or not reached: a fit of depth and stop rule of its own." in page.text


def test_nothing_at_all_is_a_page() -> None:
    assert "There is no record to show." in checked(render([])).text


JUNK = (None, "junk", -1, 10**400, float("nan"), [], {}, [[]], {"value": "x"}, True)


def test_a_damaged_field_is_named_and_the_rest_of_the_page_is_made(optimization: dict[str, Any]) -> None:
    junk = itertools.cycle(JUNK)
    damaged = 0
    for part in (optimization, *records_in(list(optimization.values()))):
        for path in _paths(part, depth=2 if part is optimization else 3):
            page = render([_replaced(part, path, next(junk)), {"kind": "stop", "before": "2+stop"}])
            assert "<dt>before</dt><dd>2+stop</dd>" in page
            if "Unreadable: " in page:
                damaged += 1
                (message,) = re.findall('<p class="damaged">(.*)</p>', page)
                assert f"{part['kind']} record: {path[0]}" in message
    assert damaged > 50


def test_a_damaged_record_says_where_it_comes_from() -> None:
    wrong = {"kind": "search", "trials": [{"number": "first"}]}
    message = "studies/one.json: search record: trials.0.number: Input should be a valid integer"
    assert str(parse(wrong, "studies/one.json")).startswith(message)
    assert "search record: trials.0.number: " in checked(render([wrong])).text


def test_records_of_an_earlier_version_are_read_as_they_are_written_now() -> None:
    record = json.loads(Path(__file__).with_name("optimize_195e685.json").read_text(encoding="utf-8"))
    written = json.loads(MODELS["optimize"].model_validate(record).model_dump_json())
    gone = ("acceptance", "seed")  # nothing is drawn there now; and a cost is written as a Usage
    paths = [path for path in _paths(record, depth=9) if "cost" not in path and path != gone]
    assert [path for path in paths if _at(written, path) != _at(record, path)] == []
    page = checked(render([record]))
    assert "Unreadable" not in page.text
    assert page.tags.count("svg") == 7


def _paths(record: Any, depth: int) -> Iterator[tuple[Any, ...]]:
    """The places in a record, of lists the first one alone."""
    keys: Any = record if isinstance(record, dict) else range(len(record[:1])) if isinstance(record, list) else ()
    for key in keys:
        if key != "kind":
            yield (key,)
            if depth > 1:
                yield from ((key, *rest) for rest in _paths(record[key], depth - 1))


def _at(record: Any, path: tuple[Any, ...]) -> Any:
    """The value at a place; of lists and mappings, only that there is one."""
    for key in path:
        record = record[key]
    return type(record) if isinstance(record, (dict, list)) else record


def _replaced(record: Any, path: tuple[Any, ...], value: Any) -> Any:
    first, *rest = path
    copy = dict(record) if isinstance(record, dict) else list(record)
    copy[first] = _replaced(record[first], tuple(rest), value) if rest else value
    return copy


# What texts may not do

EVIL = "</script><b onload=x>'\"&lt;\x00\x07\x1b[31m\ud800\uffff\r\n]]><!-- https://x.example -->"


def test_no_text_becomes_markup(optimization: dict[str, Any]) -> None:
    kept = ("kind", "wanted", "unit", "stage", "state", "attention", "residual", "aggregation")
    named = ("prompts", "predictors", "params", "data")

    def poisoned(value: Any, names: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                f"{key}{EVIL}" if names else key: item if key in kept else poisoned(item, key in named)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [poisoned(item) for item in value]
        return value + EVIL if isinstance(value, str) else value

    text = render([poisoned(optimization)], title=EVIL)
    page = checked(text)
    assert "b" not in page.tags
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", text)
    assert "␀␇␛[31m\ufffd\ufffd" in page.text
    assert set(page.tags) <= set(Page(render([optimization])).tags)


def test_a_long_prompt_is_shown_whole_and_soon() -> None:
    words = [f"word{number % 997}" for number in range(30_000)]
    before, after = " ".join(words), " ".join(reversed(words))
    record = {"kind": "compile", "predictors": {"propose": {"instructions": {"before": before, "after": after}}}}
    began = time.perf_counter()
    page = checked(render([record]))
    assert time.perf_counter() - began < 3
    assert before in page.text
    assert after in page.text


@given(st.text(alphabet=st.characters()), st.text())
def test_texts_and_attributes_come_back_as_they_were(text: str, value: str) -> None:
    record = {"kind": "program", "sections": [{"title": "t", "text": "", "rows": [["name", text]]}]}
    page = render([record], title=value)
    Page(page)
    for pattern, expected in ((r"<dd>([^<]*)</dd>", text), (r"<title>([^<]*)</title>", value or "Report of moa-dspy")):
        (written,) = re.findall(pattern, page)
        assert html.unescape(written) == printable(expected)
    chart = printable(bars(value, [Bar("one", 0.5, 0.4, 0.6, "")]))
    (label,) = re.findall(r'aria-label="([^"<>]*)"', chart)
    assert html.unescape(label) == printable(value)


@given(st.lists(st.sampled_from(["a ", "b", "c\n", "  "])), st.lists(st.sampled_from(["a ", "b", "c\n", "  "])))
def test_differences_leave_nothing_out(before: list[str], after: list[str]) -> None:
    old, new = differences("".join(before), "".join(after))
    assert "".join(text for _, text in old) == "".join(before)
    assert "".join(text for _, text in new) == "".join(after)
    common, same = ("".join(text for differs, text in pieces if not differs) for pieces in (old, new))
    assert common == same


# Charts

NUMBERS = st.one_of(
    st.floats(),
    st.floats(-1, 1),
    st.integers(-(10**400), 10**400),
    st.sampled_from([0.0, 1.0, 0.5, 1e-9, 1e14, 1e-300]),
)
LOOKS = st.sampled_from(["plain", "best", "failed", "pruned"])
MARKS = st.builds(PlotMark, NUMBERS, st.none() | NUMBERS, st.just("t"), LOOKS, NUMBERS, NUMBERS, st.text(max_size=200))
ROWS = st.builds(Bar, st.text(max_size=300), NUMBERS, NUMBERS, NUMBERS, st.text(max_size=100))


@settings(max_examples=150)
@given(st.lists(MARKS, max_size=6), st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5), st.booleans())
@example([], [], False)
@example([PlotMark(3.0, 0.5, "one")], [(3.0, 0.5)], True)
@example([PlotMark(0.1 + 1e-17, 1e14, "far"), PlotMark(0.1, -1e14, "away")], [], False)
@example([PlotMark(float("nan"), 0.5, "no")], [], False)
def test_points_and_lines_stay_inside(marks: list[PlotMark], line: list[tuple[float, float]], whole: bool) -> None:
    inside(plot("label", "x", "y", marks, [Line(line), Line(line, steps=True)], whole=whole))


@settings(max_examples=150)
@given(st.lists(ROWS, max_size=5))
@example([])
@example([Bar("same", 0.0, 0.0, 0.0, "0"), Bar("same", 0.0, 0.0, 0.0, "0")])
@example([Bar("below", -0.2, -0.5, 0.1, "-0.2 [-0.5, +0.1]")])
def test_bars_stay_inside(rows: list[Bar]) -> None:
    inside(bars("label", rows))


def inside(markup: str) -> None:
    """Every coordinate of a chart is a number inside its frame; without a point there is a sentence instead."""
    chart = ET.fromstring(printable(markup))
    svg = chart.find(".//svg")
    if svg is None:
        assert chart.tag == "p"
        assert chart.text
        return
    assert (svg.get("role"), svg.get("aria-label")) == ("img", "label")
    assert svg.findtext("title") == "label"
    assert svg.find("desc") is not None
    _, _, width, height = map(float, (svg.get("viewBox") or "").split())
    for node in svg.iter():
        xs = [float(value) for name in ("x", "x1", "x2", "cx") if (value := node.get(name))]
        ys = [float(value) for name in ("y", "y1", "y2", "cy") if (value := node.get(name))]
        for pair in (node.get("points") or "").split():
            x, y = pair.split(",")
            xs.append(float(x))
            ys.append(float(y))
        if node.tag == "rect":
            xs.append(xs[0] + float(node.get("width", "-1")))
            assert float(node.get("width", "-1")) >= 0
        assert all(0 <= x <= width for x in xs)
        assert all(0 <= y <= height for y in ys)


def test_ticks_tell_values_apart() -> None:
    for scores in ((0.5, 0.5), (0.0, 1.0), (0.301, 0.302), (1e-5, 3e-5), (10.0, 123_456.0)):
        chart = plot(
            "label", "x", "y", [PlotMark(number, score, "") for number, score in enumerate(scores)], whole=True
        )
        labels = [node.text for node in ET.fromstring(chart).iter("text")][:-2]
        assert labels[-2:] == ["0", "1"]
        assert len(set(labels[:-2])) == len(labels[:-2]) > 2


# Evaluations and traces


def test_the_records_of_an_evaluation_are_shown(tmp_path: Path) -> None:
    run = {
        "program": {"name": "AttentionMoA(a; 1 layer)", "digest": "x"},
        "benchmark": "mine",
        "split": "all",
        "seed": 0,
    }
    lines: list[dict[str, Any]] = [{"format": "moa-dspy-evaluation", "format_version": 1, "run": run}]
    cost = {"calls": 3, "cached_calls": 1, "tokens": {"prompt": 10, "cached": 0, "completion": 5}, "cost_usd": 0.5}
    for number in range(6):
        item = {
            "id": f"item {number}",
            "content": "x",
            "category": "even" if number % 2 else "odd <i>",
            "program": cost,
        }
        failed = {"status": "error", "error": {"kind": "ValueError", "message": "no <verdict>"}}
        scored = {"status": "scored", "score": float(number > 2), "outputs": {"answer": f"<i>{number}"}}
        lines.append({**item, **(failed if number == 3 else scored)})
    path = tmp_path / "run.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    page = checked(render(records_of_file(str(path))))
    assert page.headings == ["Evaluation: run.jsonl"]
    assert "i" not in page.tags
    assert page.tags.count("svg") == 1
    for words in (
        "0.400 [",
        "odd <i>",
        "item 5",
        "answer: <i>4",
        "no <verdict>",
        "6 examples",
        "AttentionMoA(a; 1 layer)",
        "12 calls, 90 tokens, $3.000000",
    ):
        assert words in page.text, words


def test_an_evaluation_with_traces_shows_the_runs_of_wrong_answers_first(tmp_path: Path) -> None:
    program = planted.program_of(planted.agents(planted.told, 2), attention="full", layers=1)
    data, out = planted.examples(0, 3), tmp_path / "records.jsonl"

    def metric(asked: dspy.Example, prediction: Any, trace: Any = None) -> float:
        return float(asked.question != data[1].question)

    result = evaluate(program, data, metric, out=out, trace=True)
    assert [record.trace.calls for record in result.records if record.trace] == [9, 9, 9]
    again = evaluate(program, data, metric, out=out, trace=True)
    assert [record.trace for record in again.records] == [record.trace for record in result.records]
    page = checked(render(records_of_file(str(out))))
    runs = re.findall(r"Run of .*?, score \d", page.text)
    assert [run[-1] for run in runs] == ["0", "1", "1"]
    assert page.text.count("Layer 1") == 3


def test_a_trace_is_shown_with_every_step(tmp_path: Path) -> None:
    program = planted.program_of(planted.agents(planted.told, 2), attention="full", layers=2, early_stop=False)
    prediction = program(**planted.examples(0, 1)[0].inputs())
    (tmp_path / "trace.json").write_text(prediction.trace.to_json(), encoding="utf-8")
    page = checked(render(records_of_file(str(tmp_path / "trace.json"))))
    assert page.headings == ["Trace: trace.json"]
    assert page.tags.count("tr") == len(prediction.trace.steps) + 1, "the waterfall"
    assert prediction.answer in page.text
    damaged = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    damaged["steps"][1]["layer"] = "first"
    (tmp_path / "trace.json").write_text(json.dumps(damaged), encoding="utf-8")
    assert "trace record: trace.steps.1.layer: " in render(records_of_file(str(tmp_path / "trace.json")))


# Studies


@pytest.mark.slow
def test_a_study_in_its_storage_is_read_and_not_written(tmp_path: Path) -> None:
    agents = [simulated("a", knows=0.3, finds=0.8), simulated("b", knows=0.6, finds=0.1)]
    given: dict[str, Any] = {"trainset": examples(12), "metric": exact, "unit": "calls", "storage": tmp_path / "s.db"}
    found = search("question -> answer", agents, space=SPACE, n_trials=3, **given)
    waiting = optuna.load_study(study_name=found.study.study_name, storage=f"sqlite:///{tmp_path / 's.db'}")
    running = waiting.ask()
    calls = sum(len(lm.requests) for lm in agents)
    before = hashlib.sha256((tmp_path / "s.db").read_bytes()).digest()

    record = study_record(study_in(str(tmp_path / "s.db")))
    page = checked(render([record]))
    left = sum(trial.state == optuna.trial.TrialState.WAITING for trial in waiting.get_trials())
    assert f"1 running, {left} waiting" in page.text
    assert hashlib.sha256((tmp_path / "s.db").read_bytes()).digest() == before
    assert sum(len(lm.requests) for lm in agents) == calls
    for key in ("score", "pareto", "depth_curve", "best", "history"):
        assert (record[key][:3] if key == "history" else record[key]) == found.report[key]
    assert record["trials"][-1]["number"] == running.number
    scored = [trial for trial in record["trials"] if trial["score"] is not None]
    assert len(scored) == 3
    assert all(trial["interval"]["value"] == pytest.approx(trial["score"]) for trial in scored)
    assert str(found.score) in page.text


def test_a_point_on_the_front_of_a_study_has_the_gate_of_its_own_rule() -> None:
    study = optuna.create_study(study_name="gates")
    study.set_user_attr("about", {"objective": {"wanted": "score", "price": None, "unit": "calls"}})
    open_, gated = StopRule(2), StopRule(1, gate="unanimous")
    scores = StopRuleScores(
        {open_: ExampleScores([1.0], [Price(calls=9)]), gated: ExampleScores([0.5], [Price(calls=2)])}
    )
    lms = [simulated("a"), simulated("b")]
    shape = AttentionMoA("question -> answer", lms, layers=1, gate="unanimous").architecture.model_dump(mode="json")
    attrs = {"rules": scores.to_attrs(), "rule": str(gated), "score": 0.5, "architecture": shape}
    study.add_trial(optuna.create_trial(value=0.5, user_attrs=attrs))
    gates = [point["architecture"].get("gate", "off") for point in study_record(study)["pareto"]]
    assert gates == ["unanimous", "off"]


@pytest.mark.parametrize("kind", ["{}/s.db", "sqlite:///{}/s.db", "journal:///{}/s.log"])
def test_an_empty_study_says_what_is_missing(kind: str, tmp_path: Path) -> None:
    from moa_dspy.optimizers.search.storage import open_storage

    source = kind.format(tmp_path)
    optuna.create_study(study_name="new", storage=open_storage(source))
    assert is_storage(source)
    page = checked(render([study_record(study_in(source))]))
    for words in ("no trial was scored", "There is no history", "There is no front", "no depth curve", "no trial yet"):
        assert words in page.text
    optuna.create_study(study_name="other", storage=open_storage(source))
    with pytest.raises(ConfigurationError, match="several studies, none named; name one of: new, other"):
        study_in(source)
    assert study_in(source, "other").study_name == "other"
    with pytest.raises(ConfigurationError, match="no study 'third'; name one of: new, other"):
        study_in(source, "third")


def test_a_study_of_something_else_is_refused(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="else", storage=f"sqlite:///{tmp_path / 's.sqlite3'}")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(ConfigurationError, match="'else' was not written by moa-dspy"):
        study_record(study_in(str(tmp_path / "s.sqlite3")))


def test_a_password_is_on_no_line() -> None:
    with pytest.raises(ConfigurationError) as refused:
        study_in("nosuch://someone:SECRET@host/base")
    assert "SECRET" not in str(refused.value)
