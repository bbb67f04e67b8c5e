"""The page of a run without a browser: what it shows, and that texts of models stay texts."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from moa_dspy import Agent, AttentionMoA, ConfigurationError, Trace, record_prompts
from moa_dspy.run_view import event_data, run_page, word_diff
from moa_dspy.testing import ScriptedLM
from moa_dspy.trace import Step, StepStarted

HOSTILE = '</style></script><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\x00 & "quoted" {{ 7*7 }}'


class Outline(HTMLParser):
    """The tags, headings and visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.text = ""
        self._open: str = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open = tag
        assert not any(name.startswith("on") for name, _ in attrs), attrs

    def handle_data(self, data: str) -> None:
        self.text += data
        if re.fullmatch(r"h\d", self._open):
            self.headings.append((int(self._open[1]), data))
        self._open = ""


def reply(request: Any) -> str:
    prompt = str(request.system)
    if "reviewers have made suggestions" in prompt:
        return "Paris it is"
    if "Suggest how" in prompt:
        return "It should be Paris"
    return "Paris it is" if request.model.endswith("one") else "Lyon it is"


@pytest.fixture(scope="module")
def trace() -> Trace:
    agents = [Agent(ScriptedLM(reply, f"scripted/{name}"), name=name) for name in ("one", "two")]
    with record_prompts():
        return AttentionMoA("question -> answer", agents, layers=1)(question="Which city?").trace


def test_the_page_has_answers_critiques_changes_dissent_and_a_waterfall(trace: Trace) -> None:
    page = run_page(trace)
    outline = Outline(page)
    assert outline.headings[0] == (1, "Which city?")
    levels = [level for level, _ in outline.headings]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), "no level is skipped"
    assert {"main", "header", "footer", "table", "section"} <= set(outline.tags)
    assert "script" not in outline.tags, "nothing runs on the page of a finished run"
    assert "<del>Lyon </del><ins>Paris </ins>it is" in page
    assert [text for level, text in outline.headings if level == 3][:1] == ["Dissent: two"]
    assert "Changed their answer after the critiques: two." in outline.text
    assert "1 of 2 agents" in outline.text
    assert page.count('<th scope="row"') == len(trace.steps)
    assert outline.text.count("prompt") >= sum(len(step.prompts) for step in trace.steps)
    assert outline.text.count("It should be Paris") >= 4


def test_hostile_texts_stay_texts() -> None:
    step = Step(layer=1, stage="propose", agent=HOSTILE, model=HOSTILE, text=HOSTILE, prompts=(HOSTILE,))
    record = Trace(steps=(step,), outputs=({HOSTILE: HOSTILE},), inputs={HOSTILE: HOSTILE})
    outline = Outline(run_page(record, title=HOSTILE))
    assert not {"img", "script"} & set(outline.tags)
    assert outline.text.count("<script>alert(1)</script>") >= 6
    assert "\u202e" not in outline.text
    assert "\x00" not in outline.text
    live = run_page(record, events='/events"onload="x', stop="/stop")
    assert Outline(live).tags.count("script") == 1


def test_a_live_page_allows_its_own_script_and_its_own_addresses_alone() -> None:
    page = run_page(events="http://127.0.0.1:8000/v1/events?run=1", stop="/stop")
    (policy,) = re.findall(r'Security-Policy" content="([^"]*)"', page)
    assert "script-src &#39;sha256-" in policy
    assert "connect-src http://127.0.0.1:8000 &#39;self&#39;" in policy
    for address in ("javascript:alert(1)", "ftp://a/b", "http://a;b/"):
        with pytest.raises(ConfigurationError, match=r"not an http\(s\) address"):
            run_page(events=address)
    with pytest.raises(ConfigurationError, match="give one of them"):
        run_page()


def test_events_are_one_line_of_json(trace: Trace) -> None:
    for event in (StepStarted(1, "critique", "one", "two"), trace.steps[0], trace):
        data = event_data(event)
        assert "\n" not in data
        assert json.loads(data).keys() & {"stage", "steps"}


def test_every_slot_that_the_script_fills_is_on_the_page() -> None:
    page = run_page(events="/events")
    script = (Path(__file__).parents[2] / "moa_dspy" / "run_view" / "run.js").read_text(encoding="utf-8")
    slots = set(re.findall(r'(?:slot|write)\(\w+(?:\([^)]*\))?, "(\w+)"', script))
    assert slots >= {"text", "figures", "badges", "bar"}
    assert slots <= set(re.findall(r'data-slot="(\w+)"', page))
    assert "innerHTML" not in script


def test_the_python_of_the_page_on_runs_is_right(trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "show.md").read_text(encoding="utf-8")
    runs = [SimpleNamespace(trace=trace, score=1.0)]
    names = {"prediction": SimpleNamespace(trace=trace), "runs": runs}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        if "mlflow" not in code:
            exec(compile(code, "show.md", "exec"), names)
    assert Path("run.html").read_text(encoding="utf-8") == run_page(trace)


@given(st.text(alphabet="ab \n", max_size=30), st.text(alphabet="ab \n", max_size=30))
def test_a_difference_has_both_texts(before: str, after: str) -> None:
    pieces = word_diff(before, after)
    assert "".join(text for kind, text in pieces if kind != "added") == before
    assert "".join(text for kind, text in pieces if kind != "removed") == after
