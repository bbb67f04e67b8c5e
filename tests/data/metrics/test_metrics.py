"""Metrics as DSPy calls them: Evaluate, GEPA, plain."""

import dspy
import pytest

from moa_dspy.data import (
    F1,
    Checked,
    ChoiceLetter,
    Contains,
    ExactMatch,
    Instructions,
    MathEquivalence,
    NormalizedMatch,
    Numeric,
    VoteMatch,
    get_benchmark,
    gsm8k,
    load,
    starter,
)
from moa_dspy.data.metrics.instructions import CHECKS, failed_checks
from moa_dspy.errors import ConfigurationError


@pytest.fixture(autouse=True)
def dspy_sandbox():
    """No language model is called in this file: the shared fixture's response cache on disk is not needed."""


def scored(metric, given, answer):
    return metric(dspy.Example(answer=answer), dspy.Prediction(answer=given))


@pytest.mark.parametrize(
    ("metric", "right", "wrong", "answer"),
    [
        (ExactMatch(), " Paris ", "paris", "Paris"),
        (NormalizedMatch(), "the PARIS!", "Paris, France", "Paris"),
        (NormalizedMatch(), "A", "B", "A"),
        (NormalizedMatch(), "+", "-", "+"),
        (Contains(), "It is Paris.", "It is Parisian.", "Paris"),
        (Contains(), "it is rome", "it is oslo", ["Rome", "Lima"]),
        (Numeric(), "so $1,234.50 in all", "-1234.5", "1234.5"),
        (ChoiceLetter(), "Answer: b", "Answer: c", "B"),
        (MathEquivalence(), r"so \boxed{\frac12}", r"\boxed{2}", r"\frac{1}{2}"),
        (Checked(check=gsm8k.is_correct), "#### 18", "#### 19", "18"),
    ],
)
def test_right_and_wrong(metric, right, wrong, answer):
    assert scored(metric, right, answer) is True
    assert scored(metric, wrong, answer) is False
    assert scored(metric, "", answer) is False
    assert scored(metric, None, answer) is False
    assert metric(dspy.Example(answer=answer), right) is True


def test_the_score_is_the_same_for_everyone_and_gepa_gets_words():
    example = dspy.Example(answer="Rome", solution="It has been since 1871.")
    prediction = dspy.Prediction(answer="Paris")
    metric = NormalizedMatch()
    assert metric(example, prediction) is False
    assert metric(example, prediction, []) is False
    explained = metric(example, prediction, [], "propose", [])
    assert explained.score == 0.0
    assert explained.feedback == (
        "Wrong: the answer was read as 'Paris'; expected was 'Rome'. Worked solution: It has been since 1871."
    )
    assert metric(example, dspy.Prediction(answer="rome"), None, "propose", None).feedback == "Right: 'Rome'."


def test_feedback_says_what_was_read():
    example = dspy.Example(answer="7")
    assert "read as '8'" in Numeric()(example, dspy.Prediction(answer="5 + 3 = 8"), None, "p", None).feedback
    assert "no answer could be read" in Numeric()(example, dspy.Prediction(answer="many"), None, "p", None).feedback
    assert "Partly right (0.67)" in F1()(dspy.Example(answer="blue sky"), "sky", None, "p", None).feedback


def test_in_dspy_evaluate():
    class Echo(dspy.Module):
        def forward(self, question):
            return dspy.Prediction(answer=question)

    devset = [dspy.Example(question=q, answer="1").with_inputs("question") for q in ("1", "1.0", "2", "one")]
    result = dspy.Evaluate(devset=devset, metric=Numeric(), num_threads=2)(Echo())
    assert result.score == 75.0  # "one" is a number, too


def test_gepa_takes_it():
    lm = dspy.LM("openai/none", api_key="none")
    dspy.GEPA(metric=Numeric(), max_metric_calls=1, reflection_lm=lm)


def test_a_missing_field_is_named():
    with pytest.raises(ConfigurationError, match="there is no output 'text' to compare; the outputs are a, b"):
        Numeric(field="text").for_task(["a", "b"], [])
    with pytest.raises(ConfigurationError, match="prediction has no field 'text'; it has: a"):
        Numeric(field="text")(dspy.Example(answer="1"), dspy.Prediction(a="1"))
    with pytest.raises(ConfigurationError, match="example has no field 'answer'; it has: label"):
        Numeric()(dspy.Example(label="1"), dspy.Prediction(answer="1"))
    assert Numeric(field="text", target="label")(dspy.Example(label="1"), dspy.Prediction(text="1")) is True


def test_the_only_output_is_compared_with_the_field_of_its_name_or_else_the_answer():
    prediction = dspy.Prediction(reasoning="because", category="billing")
    assert ExactMatch()(dspy.Example(category="billing", answer="no"), prediction) is True
    assert ExactMatch()(dspy.Example(answer="billing"), prediction) is True
    assert ExactMatch(target="answer")(dspy.Example(category="billing", answer="no"), prediction) is False
    assert ExactMatch()(dspy.Example(answer="b"), dspy.Prediction(answer="b", category="c")) is True
    votes = dspy.Prediction(category=["billing", "account", "billing"])
    assert VoteMatch(ExactMatch())(dspy.Example(category="billing"), votes) is True


def test_of_several_outputs_the_compared_one_must_be_named():
    several = dspy.Prediction(category="billing", urgent="yes")
    with pytest.raises(ConfigurationError, match=r"outputs are category, urgent, .*ExactMatch\(field='category'\)"):
        ExactMatch()(dspy.Example(category="billing"), several)
    with pytest.raises(ConfigurationError, match="say which one"):
        ExactMatch().for_task(["category", "urgent"], [])
    assert ExactMatch(field="urgent")(dspy.Example(category="x", urgent="yes"), several) is True


def test_a_metric_for_a_task_names_its_fields():
    examples = [dspy.Example(category="billing")]
    assert ExactMatch().for_task(["category"], examples) == ExactMatch("category", "category")
    assert ExactMatch().for_task(["category"], [dspy.Example(answer="x")]) == ExactMatch("category", "answer")
    assert ExactMatch().for_task(["answer"], [dspy.Example(answer="x")]) == ExactMatch("answer", "answer")
    with pytest.raises(ConfigurationError, match="have no 'category' to compare with"):
        ExactMatch().for_task(["category"], [dspy.Example(ticket="x")]).check_examples([dspy.Example(ticket="x")])
    assert VoteMatch(ExactMatch()).for_task(["category"], examples).metric == ExactMatch("category", "category")


def test_examples_without_an_answer_are_refused_before_anything_is_asked():
    examples = [dspy.Example(question="q", answer="1"), dspy.Example(question="q")]
    with pytest.raises(
        ConfigurationError, match="1 of 2 examples have no 'answer' to compare with; the first is number 2"
    ):
        Numeric().check_examples(examples)
    assert Numeric().check_examples(examples[:1]) == []


def test_vote_match():
    metric = VoteMatch(Numeric())
    example = dspy.Example(answer="4")
    assert metric(example, dspy.Prediction(answer=["4", "5", "4"])) is True
    assert "(2 of 3 votes.)" in metric(example, dspy.Prediction(answer=["4", "5", "4"]), None, "p", None).feedback
    sampled = dspy.Prediction.from_completions([{"answer": "5"}, {"answer": "4"}, {"answer": "4"}])
    assert metric(example, sampled) is True
    assert metric(example, dspy.Prediction(answer=[])) is False


@pytest.mark.parametrize(
    ("metric", "answers", "votes"),
    [
        (Numeric(), ["8", "8.0", "so it is 8", "9"], 3),
        (ChoiceLetter(), ["B", "Answer: (b)", "C", "C"], 2),
        (MathEquivalence(), [r"so \boxed{x}", r"thus \boxed{x}", "y"], 2),
        (gsm8k.Gsm8k().metric(), ["2 * 4\n#### 8", "#### 8.0", "#### 9"], 2),
        (ExactMatch(), ["a", "A", " A "], 2),
        (NormalizedMatch(), ["a cat", "Cat", "dog"], 2),
    ],
)
def test_a_vote_counts_answers_as_its_metric_reads_them(metric, answers, votes):
    outcome = VoteMatch(metric).assess(dspy.Example(answer="8"), dspy.Prediction(answer=answers))
    assert outcome.details == {"votes": votes, "total": len(answers)}


PASSING = {
    "lower_case": ({}, "rome", "Rome"),
    "upper_case": ({}, "ROME", "ROMe"),
    "max_words": ({"count": 2}, "two words", "now three words"),
    "min_words": ({"count": 2}, "two words", "one -"),
    "words": ({"count": 2}, "two words!", "one"),
    "lines": ({"count": 2}, "a\n\nb\n", "a"),
    "contains": ({"text": "Rome"}, "in rome", "in Romeo"),
    "excludes": ({"text": "water"}, "rainwater", "Water"),
    "starts_with": ({"text": "Today"}, " Today, tea", "Todayish"),
    "ends_with": ({"text": "?"}, "Is it? ", "It is."),
    "is": ({"text": "done"}, "`done`", "Done"),
    "one_of": ({"options": ["yes"]}, "Yes.", "yes it is"),
    "no_commas": ({}, "a b", "a, b"),
    "no_digits": ({}, "twelve", "12"),
    "json": ({"keys": ["a"]}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "json_values": ({"values": {"a": True}}, '{"a": true, "b": 2}', '{"a": 1}'),
    "json_numbers": ({"count": 2}, "[1, 2.5]", '[1, "2"]'),
    "names": ({"options": ["cherry", "apple"], "what": "a fruit"}, "two Cherries", "pineapple"),
    "names_in_each_line": ({"options": ["fig", "plum"], "what": "a fruit"}, "a fig\nplums", "fig\nstone"),
    "line": ({"number": 2, "text": "goodbye"}, "hello\nGoodbye!", "goodbye\nhello"),
    "words_in_each_line": ({"count": 1}, "one\ntwo", "one\ntwo three"),
    "bullets": ({"count": 2}, "- a\n- b", "- a\nb"),
    "repeats": ({"word": "echo", "count": 2}, "Echo echo", "echoes echo"),
    "in_quotes": ({}, '"I like tea"', "I like tea"),
}


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_every_check(name):
    parameters, passes, fails = PASSING[name]
    check = {"check": name, **parameters}
    assert failed_checks(passes, [check]) == []
    assert len(failed_checks(fails, [check])) == 1
    if parameters != {"word": "echo", "count": 2}:
        assert failed_checks("", [check]), "an empty answer passes nothing"


def test_checks_that_cannot_be():
    with pytest.raises(ConfigurationError, match="no check named 'rhymes'"):
        failed_checks("x", [{"check": "rhymes"}])
    with pytest.raises(ConfigurationError, match="wrong parameters for the check 'words'"):
        failed_checks("x", [{"check": "words", "number": 3}])


def test_instruction_feedback_names_what_fails():
    example = dspy.Example(checks=[{"check": "lower_case"}, {"check": "words", "count": 1}])
    verdict = Instructions().assess(example, dspy.Prediction(answer="In Rome"))
    assert verdict.feedback == "Wrong: the answer should be in lower case; and it should have exactly 1 words."
    assert Instructions()(example, "rome") is True


# The packaged set.


def test_starter_has_four_kinds_and_no_item_twice():
    items = load("starter")
    kinds = [item.kind for item in items]
    assert len(items) == 160
    assert {kind: kinds.count(kind) for kind in set(kinds)} == dict.fromkeys(
        ("fact", "choice", "arithmetic", "instruction"), 40
    )
    assert len({item.question for item in items}) == len({item.id for item in items}) == 160
    assert all(item.inputs().keys() == ["question"] for item in items)


def test_starter_answers_are_right_by_their_own_metric():
    metric = starter.Starter().metric()
    for item in load("starter"):
        if item.kind == "instruction":
            assert metric(item, "") is False
            assert item.checks
            continue
        answers = item.answer if isinstance(item.answer, list) else [item.answer]
        for answer in answers:
            assert metric(item, dspy.Prediction(answer=f"{answer}")) is True, item.id
        assert metric(item, dspy.Prediction(answer="something else entirely")) is False, item.id


def test_starter_arithmetic_is_computed_right():
    import operator
    import re

    signs = {"+": operator.add, "-": operator.sub, "times": operator.mul, "divided by": operator.truediv}
    checked = 0
    for item in load("starter"):
        plain = re.fullmatch(r"What is (-?[\d.]+) (\+|-|times|divided by) ([\d.]+)\?", item.question)
        if plain:
            answer = item.answer[0] if isinstance(item.answer, list) else item.answer
            assert signs[plain[2]](float(plain[1]), float(plain[3])) == float(answer), item.question
            checked += 1
    assert checked >= 18


def test_starter_choices_are_four_and_the_letter_is_one_of_them():
    for item in load("starter"):
        if item.kind == "choice":
            assert len(set(item.choices)) == 4
            assert item.answer in "ABCD"
            assert item.question.count("\n") == 4


STARTER_VERDICTS = {
    "fact-01": (
        ["Paris.", "It is **Paris**, France."],
        ["Not Paris", "It isn't Paris.", "London, Paris or Rome", "Parisian"],
    ),
    "fact-14": (["CO\u2082", "Carbon-dioxide"], ["oxygen"]),
    "fact-16": (["Na", "Na (sodium)"], ["N/A"]),
    "fact-20": (["8-legged", "eight"], ["18", "8.5", "-8"]),
    "fact-23": (["206 bones"], ["207 or 206", "1,206"]),
    "fact-25": (["twenty nine", "29 days"], ["128"]),
    "fact-36": (["0.0 \u00b0C", "0\u2103", "Zero degrees"], ["It is not 0, it is 32", "32"]),
    "fact-38": (["GBP", "the pound sterling"], ["compound"]),
    "arithmetic-01": (["7", "Seven", "3 + 4 = 7"], ["34", "seven times", "-7"]),
    "arithmetic-18": (["-7", "minus 7", "Negative seven", "- 7"], ["7"]),
    "arithmetic-31": (["40 dollars for 5 tickets", "8 * 5 = 40"], ["5", "45"]),
    "arithmetic-35": (["15 m^2", "15 (5 x 3)"], ["2"]),
    "instruction-04": (["apple\npears\nFig"], ["a\nb\nc"]),
    "instruction-13": (['{"city": "Paris"}'], ['{"city": "London", "not": "Paris"}']),
    "instruction-14": (["[1, 2.5, -3]"], ['["a", "b", "c"]']),
    "instruction-17": (["Hello, my friend!"], ["unfriendly", "Write a greeting that contains the word friend."]),
    "instruction-18": (["Rainwater falls from the sky."], ["It is water from above."]),
    "instruction-26": (["hello\ngoodbye"], ["goodbye\nhello"]),
    "instruction-31": (["Of course, carrots."], ["Of course not"]),
    "instruction-35": (["the netherlands"], ["china"]),
    "instruction-36": (['{"ok": true}'], ['{"ok": "untrue"}', '{"ok": 1}']),
    "instruction-37": (["one\ntwo\nthree\nfour"], ["one two\nthree\nfour\n!"]),
    "instruction-39": (["An apple fell into the river."], ["The driver ate a pineapple."]),
}


@pytest.mark.parametrize("name", STARTER_VERDICTS)
def test_starter_verdicts(name):
    metric = get_benchmark("starter").metric()
    item = next(item for item in load("starter") if item.id == name)
    right, wrong = STARTER_VERDICTS[name]
    assert {said: metric(item, said) for said in right} == dict.fromkeys(right, True)
    assert {said: metric(item, said) for said in wrong} == dict.fromkeys(wrong, False)


def test_no_starter_question_holds_its_answer():
    metric = starter.ByKind()
    for item in load("starter"):
        assert metric(item, item.question) is False, item.id
        if item.kind in ("fact", "arithmetic"):
            assert metric.metrics[item.kind](item, item.question) is False, item.id


INSTRUCTION_ANSWERS = {
    "instruction-01": "rome",
    "instruction-02": "WHITE",
    "instruction-05": "Yes.",
    "instruction-11": "echo echo echo",
    "instruction-12": '{"name": "Ida", "age": 4}',
    "instruction-14": "[1, 2, 3]",
    "instruction-15": "- cat\n- dog",
    "instruction-23": '"I like tea"',
    "instruction-26": "hello\ngoodbye",
    "instruction-28": "bright warm light",
    "instruction-32": "The Rhine. That is all.",
    "instruction-34": "A blue bird on a blue door.",
    "instruction-37": "one\ntwo\nthree\nfour",
    "instruction-38": "A dog barks loudly.",
    "instruction-40": "abc",
}


def test_starter_instructions_can_be_followed():
    metric = Instructions()
    items = {item.id: item for item in load("starter")}
    for name, answer in INSTRUCTION_ANSWERS.items():
        assert metric(items[name], answer) is True, name
