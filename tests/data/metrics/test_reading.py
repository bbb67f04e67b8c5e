r"""Forms in which models write answers and judges write ratings, with what is read from them."""

import math
import time
from fractions import Fraction

import dspy
import pytest
from hypothesis import given, strategies as st

from moa_dspy.data import ChoiceLetter, Numeric, bbh, choice_letter, gsm8k
from moa_dspy.data.metrics.hard_tasks import HardTaskAnswer
from moa_dspy.data.metrics.numbers import final_number
from moa_dspy.data.metrics.ratings import letter_probability, parse_grade, parse_score, parse_verdict
from moa_dspy.parsing.phrases import claims


@pytest.fixture(autouse=True)
def dspy_sandbox():
    """No language model is called in this file: the shared fixture's response cache on disk is not needed."""


NUMBERS = [
    ("#### 18\n\nQuestion: Tom has 5.\n#### 5", 18),
    ("#### 18\nQ: Tom has 5.\nA: 5", 18),
    ("The answer is 18.\n\n**Problem 2:** Tom has 5.\nThe answer is 5.", 18),
    ("Answer: 18\n\nHuman: And 5?\nAssistant: The answer is 5.", 18),
    ("Question: Tom has 5 and 13.\n#### 18", 18),
    (r"The answer is \boxed{18}. (This took 3 steps.)", 18),
    ("#### 18 = 3 * 6", 18),
    ("#### Step 2: multiply\n9 * 2 = 18.\nThe answer is 18.", 18),
    ("#### 18\n\n#### Check\n16 - 7 = 9", 18),
    ("#### 2. Multiply\n9 * 2 = 18\n\n**Answer:** 18 dollars", 18),
    ("#### Total cost\n5 * 4 = 20\n#### Final Answer: $20", 20),
    ("#### Step 1: 9 eggs\n16 - 7 = 9\n#### Step 2: money\n9 * 2 = 18\nShe makes $18.", 18),
    ("#### Let me compute.\n18 apples", 18),
    ("#### Final Answer\n72", 72),
    ("#### Final answer: 72 clips", 72),
    ("#### The answer is 72.", 72),
    ("#### Answer: 3 * 6 = 18", 18),
    ("#### She makes $18 every day.", 18),
    ("#### **18**", 18),
    ("#### $18.00 per day", 18),
    ("#### 18€", 18),
    ("#### - 18", -18),
    ("#### 1,234.50", Fraction("1234.5")),
    ("#### 1 234", 1234),
    ("#### 50%", 50),
    ("#### 1/2", Fraction(1, 2)),
    ("#### 1.5e3", 1500),
    ("#### 1.5 x 10^3", 1500),
    (r"#### 1.5 \times 10^{3}", 1500),
    (r"#### \boxed{18}", 18),
    ("#### ≈ 18", 18),
    ("#### ($18)", 18),
    ("#### 18. She is rich.", 18),
    ("#### 18\n\n(Check: 9 * 2 = 18, 3 steps)", 18),
    ("#### 3 * 6", None),
    ("#### 3 or 4", None),
    ("#### 10^3", None),
    ("#### 9:30", None),
    (r"\boxed{\$18}", 18),
    (r"\boxed{18 \text{ dollars}}", 18),
    (r"\[ \boxed{1{,}234} \]", 1234),
    (r"$\boxed{\frac{3}{4}}$", Fraction(3, 4)),
    ("The final answer is $18 per day for 3 days.", 18),
    ("The answer is 18 (6 * 3).", 18),
    ("The answer is 3 * 6 = 18.", 18),
    ("The answer is that in 3 days she makes $54.", 54),
    ("The answer is approximately 3.14.", Fraction("3.14")),
    ("The answer is 18.\nLet me know if the answer is unclear after these 3 steps.", 18),
    ("The answer is not 9 but 18.", 18),
    ("The answer is 9. Wait, that is wrong; the answer is 18.", 18),
    ("Wrong answer: 9. The answer is 18", 18),
    ('{"answer": "18"}', 18),
    ('{"answer": 18, "steps": 3}', 18),
    ("Answer:\n18\n", 18),
    ("Therefore, Janet makes **$18** per day.", 18),
    ("So she makes $18 a day. (3 steps)", 18),
    ("A: 18", 18),
    ("The answer is eighteen.", 18),
    ("The answer is not 9.", None),
    ("**The answer is not 9.**", None),
    (r"It is not \boxed{9}.", None),
    (r"\boxed{\text{not } 9}", None),
    ("#### not 9", None),
    ("It cannot be 9.", None),
    ("9 is wrong.", None),
    ("2+2=4 and 3+3=6", None),
    ("First 2 + 2 = 4.\n2+2=4 and 3+3=6", None),
    ("2+2=4, so 4+3=7", 7),
    ("16 - 7 = 9.\n9 * 2 = 18.\nShe makes $18 with 9 eggs.", 18),
    ("6 / 2 = 3\nThe answer is 3 or 4.", None),
    ("The answer to part 1 is 9. So the answer is 18.", 18),
    ("She makes $18 a day for 3 days.", 18),
    ("#### ", None),
    ("**Answer:**\n- 18", 18),
    ("Answer:\n• 18 eggs", 18),
    ("#### 18个", 18),
    ("所以一共有18个鸡蛋。", 18),
    ("The answer is 2 hours and 30 minutes.", None),
    ("10% of 180 is 18.", 18),
]


@pytest.mark.parametrize(("solution", "expected"), NUMBERS)
def test_final_numbers(solution, expected):
    assert final_number(solution) == expected


@given(
    st.integers(-10_000, 10_000).filter(lambda n: n not in (3, 9)),
    st.sampled_from(
        ["#### {}", "#### **{}**", "The answer is {}.", r"\boxed{{{}}}", "Final answer: {}", "Answer: **{}** eggs"]
    ),
    st.sampled_from(["", " (This took 3 steps.)", "\n\n(It took 3 steps.)"]),
    st.sampled_from(["", "#### Step 3: think\n", "### 9 birds\n", "Step 9\n"]),
)
def test_every_number_in_every_form(value, form, remark, heading):
    assert final_number(heading + form.format(value) + remark) == value


CITIES = ["London", "Paris", "Rome", "Oslo"]
LETTERS = [
    ("The answer is likely B.", "B"),
    ("The most appropriate answer here is C.", "C"),
    ('{"answer": "B"}', "B"),
    ("A and B are wrong, so C.", "C"),
    ("Answer: Paris", "B"),
    ("Answer: B\n\nNote that answer A would be right for England.", "B"),
    ("The answer is Paris, because it is in France.", "B"),
    ('{"reasoning": "A is far", "answer": "Paris"}', "B"),
    ('```json\n{"answer": "B"}\n```', "B"),
    ('{"choice": "B"}', "B"),
    ('{"final_answer": "B", "confidence": 0.9}', "B"),
    ("The answer is not A.", None),
    ("The answer is not A but B.", "B"),
    ("It's not A, but rather B.", "B"),
    ("The answer isn't A. It's B.", "B"),
    ("The answer is A. The answer is B.", None),
    ("Answer: A\n\nAnswer: B", None),
    ("The answer is A. Wait, the answer is B.", "B"),
    ("Initial answer: A\nFinal answer: B", "B"),
    ("(B)", "B"),
    ("**B**", "B"),
    ("B)", "B"),
    ("#### B", "B"),
    ("Option B", "B"),
    (r"\boxed{B}", "B"),
    (r"$\boxed{\text{(B) Paris}}$", "B"),
    (r"\boxed{\text{Paris}}", "B"),
    ("The correct option is B. Option A would be right for England.", "B"),
    ("After elimination, that leaves B.", "B"),
    ("Therefore, B.", "B"),
    ("Therefore, the answer is (B) Paris.", "B"),
    ("I'd say it's definitely B.", "B"),
    ("It is Paris.", "B"),
    ("The answer would be A if it were England. The answer is B.", "B"),
    ("Let me think.\n\n**B) Paris**", "B"),
    ("**Answer**: (B)", "B"),
    ("Answer:\nB", "B"),
    ("The answer is C? No, the answer is B.", "B"),
    ("A is incorrect, C is incorrect. Thus B remains.", "B"),
    ("<answer>\nB\n</answer>", "B"),
    ("answer = B", "B"),
    ("Answer: (B) Paris\nExplanation: (A) London is in England.", "B"),
    ("The answer is B. I hope this answer is clear.", "B"),
    ("The answer is A or B.", None),
    ("Answer: Paris or Rome", None),
    ("Answer: none of the above", None),
    ("A is wrong. C is wrong. D is wrong.", None),
    ("The answer is a capital city.", None),
    ("The last line has the form **Answer:** Paris.", "B"),
    ("The answer is X. The city is Paris.", "B"),
    ("So the answer is X.", None),
]


@pytest.mark.parametrize(("reply", "expected"), LETTERS)
def test_letters(reply, expected):
    assert choice_letter(reply, CITIES) == expected


def test_a_choice_by_its_text_is_not_a_letter_or_a_part_of_another_number():
    assert choice_letter("Answer: 3", ["1", "2", "3", "4"]) == "C"
    assert choice_letter("The answer is 3.5", ["1", "2", "3", "4"]) is None
    assert choice_letter("Answer: A dog", ["cat", "A dog"]) == "B"
    for reply in ("The correct answer is B).", "Answer: B", "Answer: (B)", "The answer is B."):
        assert choice_letter(reply, ["B", "U", "T"]) == "B"


@given(
    st.sampled_from("ABCD"),
    st.sampled_from(["The {} answer is {}.", "The answer, {}, is {}.", "The {} answer here is option ({})."]),
    st.sampled_from(["best", "correct", "most likely", "only sensible"]),
    st.sampled_from(["", "\nLet me know if the answer is unclear.", "\nAnswer A would be right for England."]),
)
def test_every_letter_in_every_sentence(letter, sentence, word, after):
    assert choice_letter(sentence.format(word, letter) + after, CITIES) == letter


HARD = [
    ("**Answer**: (B)", "(B)", True),
    ("So the answer is (B).\nLet me know if the answer is unclear.", "(B)", True),
    ("So the answer is valid.\n\nThis answer is based on logic.", "valid", True),
    ("So the answer is (B). I hope that the answer is helpful.", "(B)", True),
    ("So the answer is yes, because he plays.", "yes", True),
    ("So the answer is not yes.", "yes", False),
    ("The answer is yes or no.", "yes", False),
    ("No one knows whether it is.", "No", False),
    ("answer: invalid", "valid", False),
    ("**True**", "True", True),
    ("The final answer: False. I hope the answer is helpful!", "False", True),
    ("So the answer is 24.", "24", True),
    ("So the answer is 3 * 8 = 24.", "24", True),
    ("So the answer is 8.", "-8", False),
    ("So the answer is -8.", "-8", True),
    ("So the answer is ] ) }.", "] ) }", True),
    ("So the answer is B.", "(B)", True),
    ("(B)\n\nBecause of that.", "(B)", True),
    ("Therefore (B) is correct.", "(B)", True),
    ("the answer is: **(C) Foo**", "(C)", True),
    ("The correct answer here is therefore (D).", "(D)", True),
    ("So the answer is (A) or (B).", "(A)", False),
    ("So the answer is above big coexist.\nLet me know if the answer is unclear.", "above big coexist", True),
    ("So the answer is a dog.", "dog", True),
    ("The capital of Japan is Tokyo.", "Tokyo", True),
    ('The word that comes first is **"basket"**.', "basket", True),
    ("Grace is taller than Ben.\n\nSo, the tallest of the three is Grace.", "Grace", True),
    ("Bees produce honey.", "honey", True),
    ("The gas that plants take in is carbon dioxide.", "carbon dioxide", True),
    ("Answer: Paris, because it is in France.", "Paris", True),
    ("Final answer: The word is basket.", "basket", True),
    (r"The name is \(\boxed{\text{Anna}}\).", "Anna", True),
    ("Today is Monday. So in 2 days it will be Wednesday.", "Wednesday", True),
    ("Frank is taller than Henry.", "Henry", False),
    ("The capital is not Paris.", "Paris", False),
    ("I do not think it is Paris.", "Paris", False),
    ("It is Lyon or Paris.", "Paris", False),
    ("Answer: They take in water and carbon dioxide.", "carbon dioxide", False),
    ("It is the capital of France.", "France", False),
    ("Anna is tall. Bees are fond of honey.", "honey", False),
    ("Answer: Grace is taller than Clara.", "Grace", False),
    ("not True = False", "False", True),
    ("True and False = False", "True", False),
    ("Sorted: ape bear cat", "ape bear cat", True),
]


@pytest.mark.parametrize(("prediction", "target", "verdict"), HARD)
def test_hard_task_answers(prediction, target, verdict):
    assert bbh.is_correct(prediction, target) is verdict


def test_a_hard_task_is_answered_by_the_text_of_an_option():
    example = dspy.Example(question="When?\nOptions:\n(A) Monday\n(B) Friday", answer="(B)")
    assert HardTaskAnswer()(example, "So the answer is Friday.") is True
    assert HardTaskAnswer()(example, "So the answer is Monday.") is False


SCORES = [
    ("Rating: [[100]]", -1),
    ("Rating: [[11]]", -1),
    ("[[0]]", -1),
    ("[[-7]]", -1),
    ("[[-7]] [5]", -1),
    ("[[10.5]]", -1),
    ("[[7]] or [[8]]", -1),
    ("[[8/10]]", -1),
    ("8/10", -1),
    ("see [1] and [7]", -1),
    ("[link](1)", -1),
    ("", -1),
    ("[[8.5]]", 8.5),
    ("[[7]], that is [[7.0]]", 7),
    ("use [[rating]]: [[7]]", 7),
    ("[8]", 8),
    ("[[7 ]]", 7),
    ("[[10]]", 10),
    ("[[1]]", 1),
    ("[2] then [[7]]", 7),
    ("[[7.]]", 7),
]

GRADES = [
    ("8", 8),
    ("**8**", 8),
    ("8/10", 8),
    ("8 out of 10", 8),
    ("8.5/10", 8.5),
    ("Score: 8", 8),
    ("[[8]]", 8),
    ("10/10", 10),
    ("Rating: 8. It has 2 errors.", 8),
    ("It has 2 errors, so 8/10", 8),
    ("I give it an 8.", 8),
    ("1.0", 1),
    ("0", None),
    ("11", None),
    ("100", None),
    ("-8", None),
    ("Score: -8", None),
    ("8/5", None),
    ("80/100", None),
    ("80%", None),
    ("7-8", None),
    ("7 \u2013 8", None),
    ("7 or 8", None),
    ("[[7]] ... [[8]]", None),
    ("1,000", None),
    ("Score: 7. Score: 8", None),
    ("nine", 9),
    ("not 8", None),
    ("4/5", None),
    ("8%", None),
    ("between 7 and 8", None),
    ("8,5/10", 8.5),
    ("7\u20138/10", None),
    ("8+", None),
    (">8", None),
    ("8 out of a possible 10", 8),
    ("Score (1 to 10): 8", 8),
    ("On a scale from 1 to 10: 8", 8),
    ("", None),
]

VERDICTS = [
    ("A", 1.0),
    ("**B**", 0.0),
    ("[[A]]", 1.0),
    ("(B)", 0.0),
    ("Answer A", 1.0),
    ("Answer: A.", 1.0),
    ("Verdict: B", 0.0),
    ("Winner: A", 1.0),
    ("The answer is B", 0.0),
    ("The better answer is A", 1.0),
    ("answer_b", 0.0),
    ("Assistant A", 1.0),
    ("tie", 0.5),
    ("TIE", 0.5),
    ("a draw", 0.5),
    ("`tie`", 0.5),
    ("A or B", None),
    ("A > B", None),
    ("C", None),
    ("neither", None),
    ("not A", None),
    ("A is better than B.", 1.0),
    ("The winner is B", 0.0),
    ("A wins", 1.0),
    ("It's a tie.", 0.5),
    ("A is not better than B.", None),
    ("A or tie", None),
    ("Verdict: **A**\nA is clearer than B.", 1.0),
    ("A is slightly better", 1.0),
    ("I prefer answer B over answer A.", 0.0),
    ("Winner: Assistant B", 0.0),
    ("model_b", 0.0),
    ("A (slightly)", 1.0),
    ("A, by a small margin", 1.0),
    ("B is worse than A", None),
    ("A loses to B", None),
    ("", None),
]


@pytest.mark.parametrize(("judgment", "score"), SCORES)
def test_scores_out_of_range_or_several_are_not_read(judgment, score):
    assert parse_score(judgment) == score


GRADES += [
    *(
        (reply, 8.0)
        for reply in ("Turn 2 8 / 10", "GPT-4 8/10", "I counted 3 8/10", "Assistant 1 \u2014 8/10", "In 2024, 8/10")
    ),
    *((reply, 8.0) for reply in ("Turn 1 - 8/10", "Overall - 8/10", "Version 1.0, 8/10", "Score (1 to 10): 8")),
    *((reply, None) for reply in ("7\u20138/10", "7-8/10", "-8/10", "1.5-2/10")),
    ("8,5/10", 8.5),
]


@pytest.mark.parametrize(("reply", "grade"), GRADES)
def test_grades(reply, grade):
    assert parse_grade(reply) == grade


@pytest.mark.parametrize(("reply", "verdict"), VERDICTS)
def test_verdicts(reply, verdict):
    assert parse_verdict(reply) == verdict


@given(st.floats(allow_nan=False) | st.integers())
def test_a_rating_is_in_range_or_unread(number):
    for form in ("[[{}]]", "[{}]", "Rating: [[{}]]."):
        score = parse_score(form.format(number))
        assert score == -1 or score == number
        assert score == -1 or 1 <= score <= 10


def tokens(a, b, c=None):
    return [
        {
            "token": "A",
            "logprob": a,
            "top_logprobs": [{"token": t, "logprob": p} for t, p in zip("ABC", (a, b, c), strict=True)],
        }
    ]


IMPOSSIBLE = [None, "-2.4", "", math.nan, -math.inf, math.inf, 5.0, 1e9, True, [], {}]


def test_a_null_log_probability_is_an_impossible_token():
    assert letter_probability(tokens(-0.1, -2.4), "A", "B") == pytest.approx(0.909, abs=5e-4)


@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_an_impossible_log_probability_is_no_error(value):
    assert letter_probability(tokens(-0.1, value), "A", "B") == 1
    assert letter_probability(tokens(value, -0.1), "A", "B") == 0
    assert letter_probability(tokens(value, value), "A", "B") is None


@given(
    st.floats(max_value=0, allow_nan=False, allow_infinity=False),
    st.floats(max_value=0, allow_nan=False, allow_infinity=False),
)
def test_any_log_probabilities_give_a_probability(a, b):
    both = letter_probability(tokens(a, b), "A", "B"), letter_probability(tokens(a, b), "B", "A")
    assert sum(-1 if share is None else share for share in both) == pytest.approx(1)


@given(st.text(alphabet=st.sampled_from(list("answer is:#B()[]{}\\*=123,.\n \"'")), max_size=120))
def test_any_text_is_read_without_an_error(text):
    for read in (final_number, choice_letter, parse_score, parse_grade, parse_verdict, claims):
        read(text)
    for target in ("(B)", "Yes", "24", "a b"):
        bbh.is_correct(text, target)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "answer",
        "answer is ",
        "#### ",
        "#### 1 ",
        "( ",
        " (a",
        "[[1",
        "\\boxed{",
        "answer: \n",
        " " * 50,
        "1",
        "5,",
        "1.",
        "7-",
        "1 = ",
        "it is ",
        "the ",
    ],
)
def test_reading_takes_linear_time(part):
    started = time.monotonic()
    text = part * (1_000_000 // len(part))
    for read in (final_number, choice_letter, parse_score, parse_grade, parse_verdict):
        read(text)
    bbh.is_correct(text, "24")
    assert time.monotonic() - started < 10


def test_tables_are_in_every_metric():
    assert all(gsm8k.is_correct(solution, str(value)) for solution, value in NUMBERS if value is not None)
    assert all(Numeric()(dspy.Example(answer=str(value)), solution) for solution, value in NUMBERS if value is not None)
    example = dspy.Example(answer="B", choices=CITIES)
    assert [ChoiceLetter()(example, reply) for reply, _ in LETTERS] == [letter == "B" for _, letter in LETTERS]
