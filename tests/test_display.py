"""Values as one short line, and as HTML for notebooks: short, and safe against what models write."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import dspy
import pytest

from moa_dspy import AttentionMoA, Prediction, evaluate
from moa_dspy.display import Displayed, Table, one_line
from moa_dspy.optimizers import SearchSpace, optimize
from moa_dspy.testing import ScriptedLM

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\u202e&amp;\n" * 3
LONG = HOSTILE + "word " * 50_000  # longer than any page may be


class Reader(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """One value of each kind, with hostile and long texts of models in it."""
    lms = [ScriptedLM(LONG, f"scripted/{name}") for name in "ab"]
    program = AttentionMoA("question -> answer", lms, layers=1, attention="none")
    predictor: Any = program.propose
    predictor.signature = predictor.signature.with_instructions(LONG)
    prediction = program(question=LONG)
    examples = [dspy.Example(question=f"{n} {HOSTILE}", answer="x").with_inputs("question") for n in range(8)]

    def metric(example: Any, prediction: Any, trace: Any = None) -> float:
        return 1.0

    space = SearchSpace(samples=1, temperatures=(None,), layers=(1,), attention=("none",), residual=("none",))
    options: dict[str, Any] = {
        "metric": metric,
        "space": space,
        "n_trials": 2,
        "parts": ["architecture"],
        "explain": False,
    }
    optimized = optimize(program, trainset=examples, **options)
    return {
        "prediction": prediction,
        "trace": prediction.trace,
        "step": prediction.trace.steps[0],
        "program": program,
        "plan": program.plan(question=HOSTILE),
        "evaluation": evaluate(program, examples[:2], metric),
        "optimization": optimized,
        "search": optimized.searched[0],
    }


@pytest.mark.slow
def test_a_repr_is_one_short_line(values: dict[str, Any]) -> None:
    for name, value in values.items():
        assert repr(value).startswith(f"{type(value).__name__}(")
        assert len(repr(value)) <= 300
        assert repr(value).isprintable()
        assert len(str(value)) <= 300 or name in ("prediction", "optimization")
    assert repr(values["program"]).startswith("AttentionMoA(task='question -> answer', agents='a, b', layers=1")
    assert "stopped_by='layers', layers=1, steps=3, calls=3" in repr(values["trace"])


def test_html_shows_texts_of_models_as_texts(values: dict[str, Any]) -> None:
    allowed = {"div", "strong", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}
    for name, value in values.items():
        page = value._repr_html_()
        read = Reader(page)
        assert read.tags <= allowed, name
        assert not {one for one in read.attributes if one.startswith("on") or one in ("src", "href")}
        assert "\u202e" not in page
        assert len(page) < 200_000, name
        assert type(value).__name__ in read.text
    assert "<script>alert(1)</script>" in Reader(values["prediction"]._repr_html_()).text
    assert {"inputs", "outputs", "steps"} <= {
        word.rstrip(":") for word in Reader(values["trace"]._repr_html_()).text.split()
    }


@pytest.mark.slow
def test_the_text_of_a_prediction_stays_complete(values: dict[str, Any]) -> None:
    prediction = values["prediction"]
    assert prediction.answer.strip()[-200:] in str(prediction)
    assert repr(Prediction(answer="Paris", reasoning=None)) == "Prediction(answer='Paris')"
    assert "Paris" in Prediction(answer="Paris")._repr_html_()


def test_long_tables_are_cut_and_say_so() -> None:
    class Many(Displayed):
        def _facts(self) -> dict[str, Any]:
            return {"count": 1000, "share": 1 / 3, "none": None}

        def _tables(self) -> Any:
            return [Table("rows", ("n",), [(n,) for n in range(1000)])]

    assert repr(Many()) == "Many(count=1000, share=0.333333)"
    text = " ".join(Reader(Many()._repr_html_()).text.split())
    assert "rows: 1000, the first 200 of them" in text
    assert text.endswith(" 199")
    assert one_line("X", {f"fact{n}": "y" * 100 for n in range(50)}).endswith("…)")
