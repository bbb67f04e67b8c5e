"""Judge replies of every shape: read where they can be, counted where they cannot, never run."""

import math

import pytest
from hypothesis import given, strategies as st

from moa_dspy.data import flask


@pytest.fixture(autouse=True)
def dspy_sandbox():
    """No language model is called in this file: the shared fixture's response cache on disk is not needed."""


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Good.\n{'Logical_Correctness': 4, 'Readability': 5}", {"logical correctness": 4, "readability": 5}),
        ("{'Factuality': 'N/A', 'Conciseness': 2}", {"factuality": None, "conciseness": 2}),
        ("{'Factuality': N/A, 'Conciseness': 2}", {"factuality": None, "conciseness": 2}),
        ("{'Factuality': 'Not Applicable', 'Conciseness': 'na'}", {"factuality": None, "conciseness": None}),
        ("{'Factuality': None, 'Conciseness': 2}", {"factuality": None, "conciseness": 2}),
        ('{"Factuality": null, "Conciseness": 2}', {"factuality": None, "conciseness": 2}),
        ("{'Completeness': 1} no, rather {'Completeness': 3}", {"completeness": 3}),
        ("{\n  'Comprehension': 4,\n  'Insightfulness': 3\n}", {"comprehension": 4, "insightfulness": 3}),
        ("{'Comprehension': '4'}", {"comprehension": 4}),
        ("{'Comprehension': '4 out of 5'}", {"comprehension": 4}),
        ("{'Comprehension': 4/5}", {"comprehension": 4}),
        ("{'Comprehension': '**4**'}", {"comprehension": 4}),
        (
            "{'Comprehension': 'Not applicable.', 'Factuality': 'N/A (no facts)'}",
            {"comprehension": None, "factuality": None},
        ),
        ("{'Comprehension': 4.5}", {"comprehension": 4.5}),
        ('```python\n{"Readability": 5}\n```', {"readability": 5}),
        ("no dict at all", {}),
        ("", {}),
        ("{", {}),
        ("{}", {}),
        ("{'Readability': __import__('os').getcwd()}", {}),
        ("{'a' for a in range(9)}", {}),
        ("{1, 2}", {}),
    ],
)
def test_replies(reply, expected):
    assert flask.parse_scores(reply) == expected


@pytest.mark.parametrize("value", ["9", "0", "-1", "True", "[3]", "'high'", "1e400", "{}"])
def test_what_is_no_score_is_invalid(value):
    scores = flask.parse_scores("{'Readability': " + value + "}")
    assert all(score is not None and math.isnan(score) for score in scores.values())
    assert not flask.aggregate(["{'Readability': " + value + "}"]).means


def test_nothing_is_ever_evaluated(tmp_path):
    marker = tmp_path / "ran"
    for code in (f"open({str(marker)!r}, 'w')", f"__import__('pathlib').Path({str(marker)!r}).touch()"):
        flask.parse_scores(f"{{'Readability': {code}}}")
        flask.parse_scores(code)
    assert not marker.exists()


@pytest.mark.slow
@given(st.text(max_size=400))
def test_any_reply_is_read_without_an_error(reply):
    flask.aggregate([reply, "{" + reply + "}"])


def test_aggregate_counts_everything():
    reviews = [
        "{'Logical Correctness': 4, 'Readability': 5}",
        "{'logical_correctness': 2, 'Readability': 'N/A'}",
        "nothing",
        None,
        {"correctness": 3, "elegance": 5},
        "{'Readability': 7, 'Commonsense': 1}",
    ]
    wanted = [("Logical Correctness", "Readability", "Factuality")] + [("Readability",)] * 5
    table = flask.aggregate(reviews, wanted)
    assert dict(table) == {"logical correctness": 3.0, "commonsense understanding": 1.0, "readability": 5.0}
    assert table["Logical_Correctness"] == 3.0
    assert table.scored == {"logical correctness": 3, "commonsense understanding": 1, "readability": 1}
    assert table.not_applicable == {"readability": 1}
    assert table.invalid == {"readability": 1}
    assert table.missing == {"factuality": 1, "readability": 1}
    assert table.unknown == {"elegance": 1}
    assert (table.unparsed, table.reviews) == (2, 6)


def test_aggregate_of_nothing():
    table = flask.aggregate([])
    assert dict(table) == {}
    assert table.reviews == 0


def test_every_skill_has_a_name_and_a_meaning():
    assert [flask.skill_name(skill.title()) for skill in flask.SKILLS] == list(flask.SKILLS)
    assert set(flask.RUBRIC) == set(flask.SKILLS)
    assert flask.skill_name("understanding") is None
    assert flask.skill_name("") is None


def test_a_score_out_of_the_highest_is_that_score() -> None:
    assert flask.parse_scores("{'Factuality': '4/5', 'Readability': '4/10'}")["factuality"] == 4
    assert math.isnan(flask.parse_scores("{'Readability': '4/10'}")["readability"] or 0.0)
