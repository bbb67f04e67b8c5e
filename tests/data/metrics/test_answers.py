r"""Answers inside text: boxed, lettered, normalised, voted."""

import time

import pytest
from hypothesis import given, strategies as st

from moa_dspy.data import bbh, vote
from moa_dspy.data.judges import fill, fill_known
from moa_dspy.data.metrics.choices import choice_letter
from moa_dspy.data.metrics.expressions import final_expression
from moa_dspy.data.metrics.ratings import parse_scores
from moa_dspy.data.metrics.text import f1, normalize
from moa_dspy.parsing.phrases import last_boxed


@pytest.fixture(autouse=True)
def dspy_sandbox():
    """No language model is called in this file: the shared fixture's response cache on disk is not needed."""


CITIES = ["Paris", "Rome", "Lima", "Oslo"]
balanced = st.recursive(
    st.text(alphabet="ab1+ ", max_size=4),
    lambda inner: st.lists(inner, max_size=3).map(lambda p: "{" + "".join(p) + "}"),
)


@given(st.lists(balanced, min_size=1, max_size=4))
def test_last_box_with_any_nesting(contents):
    text = " then ".join(rf"\boxed{{{content}}}" for content in contents)
    expected = next((content for content in reversed(contents) if content.strip()), contents[0])
    assert last_boxed(text) == expected
    assert last_boxed(text + r" and \boxed{not closed") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\boxed{3}}", r"\boxed{3}"),
        (r"\boxed{}", ""),
        (r"\boxed{7} \boxed{}", "7"),
        ("} stray \\boxed{5}", "5"),
        ("none", None),
        ("", None),
    ],
)
def test_boxes(text, expected):
    assert last_boxed(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: B", "B"),
        ("the answer is (c).", "C"),
        ("(b).", "B"),
        ("B) Rome", "B"),
        ("**Answer:** B", "B"),
        (r"so $\boxed{\text{D}}$", "D"),
        ("Answer: A\n\nWait. Answer: B", "B"),
        ("Rome", "B"),
        ("The answer is a city", None),
        ("A) or B)", None),
        ("(A) or (B)", None),
        ("A) and B) are both right", None),
        ("Answer: A, B or C", None),
        ("Answer: A, B", None),
        ("Answer: A is wrong, C is correct", "C"),
        ("Answer: C, I am sure", "C"),
        ("A lot of people live there", None),
        ("Answer: E", None),
        ("Answer: D\n\nExplanation: option A is wrong because it is not in Norway", "D"),
        ("Answer: B. Option A and option C are far away", "B"),
        ("Option B is correct. Option D is incorrect.", "B"),
        ("Option A is incorrect. Option B is correct. Option C is incorrect.", "B"),
        ("I would rule out option D; option C isn't right either. Option B fits.", "B"),
        ("A is wrong; B is right", "B"),
        (r"$\boxed{\textbf{(B)}\ Rome}$", "B"),
        ("Answer: <B>", "B"),
        ("<answer>B</answer>", "B"),
        ("Answer: 'B'", "B"),
        ("It is B", "B"),
        ("B - Rome", "B"),
        ("B Rome", "B"),
        ("B\nParis is in France.", "B"),
        ("B, because it lies in Italy", "B"),
        ("the answer should be B", "B"),
        ("My final choice: C", "C"),
        ("B. Option A is in France", "B"),
        ("Answer: A or B", None),
        ("Answer: A and C", None),
        ("A, B", None),
        ("option B is wrong", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_choices(text, expected):
    assert choice_letter(text, CITIES) == expected


@given(st.sampled_from("ABCD"), st.sampled_from(["{}", "({})", "{}.", "Answer: {}", "the answer is ({}).", "**{}**"]))
def test_every_letter_in_every_form(letter, form):
    assert choice_letter(form.format(letter), 4) == letter


@given(st.text(max_size=200))
def test_text_functions_take_anything(text):
    choice_letter(text, CITIES)
    last_boxed(text)
    final_expression(text)
    bbh.is_correct(text, "(A)")
    assert f1(text, text) in (0.0, 1.0)
    assert normalize(normalize(text)) == normalize(text) or not text.isascii()


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 20_000,
        "answer " * 20_000,
        "answer" + " " * 100_000,
        "(" * 100_000,
        "1," * 50_000,
        "{" * 100_000,
        r"\(" * 50_000,
        "$x$ or " * 9000,
    ],
)
def test_hostile_texts_take_no_time(text):
    started = time.monotonic()
    for function in (choice_letter, last_boxed, final_expression, lambda t: bbh.is_correct(t, "(A)"), parse_scores):
        function(text)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("prediction", "target", "verdict"),
    [
        ("So the answer is (B).", "(B)", True),
        ("B", "(B)", True),
        ("(B) 12/02/1990", "(B)", True),
        ("Because", "(B)", False),
        ("So the answer is **valid**.", "valid", True),
        ("the answer is no. Wait, the answer is yes.", "Yes", True),
        ("valid", "invalid", False),
        ("-8", "8", False),
        ("", "No", False),
        ("A good choice", "(A)", False),
        ("So the answer is (A) or (B).", "(A)", False),
        ("So the answer is A or B.", "(A)", False),
        (r"The answer is \boxed{(B)}.", "(B)", True),
        (r"so \boxed{\text{(B)}}", "(B)", True),
        ("So the answer is option (B).", "(B)", True),
        ("So the answer is (b).", "(B)", True),
        ("Answer: (B)", "(B)", True),
        ("So the answer is (B) because of that.", "(B)", True),
    ],
)
def test_bbh_answers(prediction, target, verdict):
    assert bbh.is_correct(prediction, target) is verdict


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("The Eiffel Tower", "eiffel tower!", 1.0),
        ("yes", "no", 0.0),
        ("yes it is", "yes", 0.0),
        ("x b c d", "b c", 2 / 3),
    ],
)
def test_f1(prediction, reference, expected):
    assert f1(prediction, reference) == pytest.approx(expected)


def test_f1_and_em_agree_with_dspy():
    from dspy.evaluate.metrics import HotPotF1, em_score

    pairs = [("The Cat", "cat"), ("blue sky", "sky"), ("no", "No."), ("Zo\u00eb", "Zoe"), ("noanswer", "x")]
    for one, other in pairs:
        assert f1(one, other) == pytest.approx(HotPotF1(one, [other]))
        assert (normalize(one) == normalize(other)) == em_score(one, other)


def test_vote():
    outcome = vote(["Paris", "rome", "the Rome!", None, "", "paris."])
    assert (outcome.answer, outcome.votes, outcome.total) == ("Paris", 2, 4)
    assert outcome.share == 0.5
    assert vote([]).answer is None
    assert vote([]).share == 0.0


@pytest.mark.parametrize(
    ("answers", "winner", "votes"),
    [
        (["5", "-5", "-5", "7", "7"], "-5", 2),
        (["C", "C++", "C++"], "C++", 2),
        (["35", "3.5", "3.5"], "3.5", 2),
        (["50", "50%", "50%."], "50%", 2),
        (["'Lima'", "lima.", "**LIMA**"], "'Lima'", 3),
    ],
)
def test_a_vote_tells_signs_decimals_and_symbols_apart(answers, winner, votes):
    outcome = vote(answers)
    assert (outcome.answer, outcome.votes) == (winner, votes)


@given(st.lists(st.sampled_from("abc"), min_size=1))
def test_a_majority_wins_also_where_the_answer_is_an_article(answers):
    outcome = vote(answers)
    assert outcome.votes == max(answers.count(letter) for letter in "abc")
    assert answers.count(outcome.answer) == outcome.votes


@given(st.fixed_dictionaries({"a": st.text(max_size=20), "b": st.text(max_size=20)}))
def test_templates_are_filled_once(values):
    template = "<{a}|{{x}}|{b}>"
    assert fill(template, values) == template.format(**values)
    assert fill_known("{a}{c}{{", values) == values["a"] + "{c}{{"


def test_a_template_cannot_reach_into_values():
    assert fill("{a.__class__}", {"a": "x"}) == "{a.__class__}"
    with pytest.raises(KeyError):
        fill("{missing}", {})


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "{'a': print(1)}",
        "[1]",
        "{" * 3000,
        "{'a': " + "(" * 100 + "}",
        "{1: '" + "x" * 9999 + "'}",
    ],
)
def test_only_small_dict_literals_are_read(text):
    assert parse_scores(text) == {}
