"""Members of closed sets and letters as models write them: one clear choice is read, every other text is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from moa_dspy.parsing import read_bool, read_choice
from moa_dspy.parsing.choices import choice_letter

CITIES = ["London", "Paris", "Rome", "Oslo"]
READ_AS_B = [
    "Ans: B",
    "Ans. B",
    "ANS: (B)",
    "ans = b",
    "Select B.",
    "Choose B.",
    "Pick (B).",
    "Choice B",
    "Choice: B",
    "Option: B",
    "Choice (B)",
    "B is correct",
    "B is the correct answer.",
    "(B) is right.",
    "**B**",
    "**B.**",
    "*B*",
    "__B__",
    "(B)",
    "[B]",
    "{B}",
    "<B>",
    "【B】",
    "`B`",
    '"B"',
    "'B'",
    "“B”",
    r"\boxed{\text{B}}",
    r"\boxed{\mathrm{B}}",
    r"\boxed{\textbf{(B)}}",
    r"\boxed{\textbf{(B) }Paris}",
    r"$\boxed{B}$",
    r"\(\boxed{\text{B}}\)",
    r"The answer is $\text{B}$.",
    r"The answer is \(B\).",
    "B: Paris",
    "B : Paris",
    "B. Paris",
    "B) Paris",
    "(B) Paris",
    "(B): Paris",
    "**B: Paris**",
    "**B)** Paris",
    "B - Paris",
    "B – Paris",
    "B, Paris",
    "B Paris",
    "Option B: Paris",
    "option b",
    "Letter B",
    "The letter is B.",
    "The correct letter is B.",
    "I would choose B.",
    "I choose option (B).",
    "I'd go with B.",
    "I'll go with option B.",
    "My answer: B",
    "My choice is B.",
    "My final answer is B.",
    "Final Answer: B",
    "FINAL ANSWER: B",
    "### Answer\nB",
    "### Final Answer:\n**B**",
    "## Answer: B",
    "Answer - B",
    "Answer -> B",
    "Answer → B",
    "Answer=B",
    "Answer is B",
    "Answer B",
    "answer: b",
    "The answer: B",
    "Correct answer: B",
    "The correct answer is: B",
    "The correct answer is:\n\nB) Paris",
    "The correct option is B) Paris.",
    "The right choice is (B).",
    "The best option is B.",
    "The correct answer is option B: Paris.",
    "The correct answer is **B) Paris**.",
    'The correct answer is "B".',
    "The answer would be B.",
    "Hence, (B).",
    "Thus the answer is B.",
    "So it must be B.",
    "∴ B",
    "B!",
    "B.",
    "b",
    "b)",
    "B because it is the capital.",
    "<answer>B</answer>",
    "<answer>(B) Paris</answer>",
    '{"answer": "B"}',
    "{'answer': 'B'}",
    '{"choice": "B", "why": "A is far"}',
    'answer: "B"',
    "[[B]]",
    "[[ B ]]",
    "The final answer is [[B]].",
    "Paris",
    "paris.",
    "**Paris**",
    "The capital of France is Paris.",
    "It was Paris, not London.",
    "The answer is Paris (B).",
    "The option that fits is (B).",
    "Based on this, option B is the most appropriate.",
    "Option B, Paris, is correct.",
    "B) Paris is the correct answer.",
    "Among these, B is the best choice.",
    "The answer is B, not A.",
    "Not A. The answer is B.",
    "A, C and D are wrong. The answer is B.",
    "A is a city. B is right.",
    "The answer is C? No. The answer is B.",
    "Correct: B",
    "Solution: B",
    "Result: B",
    "Response: B",
    "Output: B",
    "Answer (B)",
    "Answer: Option B",
    "Answer: option (b)",
    "Answer: The correct option is B.",
    "The answer is therefore B",
    "The answer must be B",
    "Answer:B",
    "Answer：B",
    "答案：B",
    "答案是B",
    "Antwort: B",
    "Réponse : B",
    "Respuesta: B",
    "1. B",
    "Q1: B",
    "→ B",
    "=> B",
    "> B",
    "Answer: __B__",
    "The answer is B.\n\nExplanation: A is wrong because London is in England.",
    "The answer to this question is B.",
    "Based on the analysis, the correct choice is **(B)**.",
    "The most accurate answer is:\n\n**B. Paris**",
    "Thus, the statement B is true.",
    "B seems right.",
    "I believe B is the answer.",
    "I think B.",
    "I think the answer is B",
    "Probably B",
    "Definitely B.",
    "The answer is definitely not A; it is B.",
]
UNREADABLE = [
    "A ✗, B ✓, C ✗",
    "The answer is not B.",
    "Answer: not B",
    "B is not correct.",
    "B is wrong.",
    "It is not B.",
    "It isn't B.",
    "not B",
    "Not (B)",
    "neither A nor B",
    r"\boxed{\text{not B}}",
    "**Not B**",
    "Option B is incorrect.",
    "B cannot be the answer.",
    "I would not choose B.",
    "Anything but B",
    "A or B",
    "A/B",
    "A and B",
    "Answer: A, B",
    "A, B and C",
    "Either (A) or (B).",
    "Answer: A\nAnswer: B",
    "The answer is A. The answer is B.",
    "A and C are both correct.",
    "I am not sure.",
    "E",
    "Answer: E",
    "A man walks by.",
    "I think so.",
    "London or Paris",
    "London and Paris are cities.",
    "All of the above",
    "None of the above",
    "The answer is a mystery.",
    "A) London\nB) Paris\nC) Rome\nD) Oslo",
    "Which of them, A or B?",
    "Grade: A+",
    "I",
    "The vitamin B complex",
    "Plan B failed.",
    "Let me check A. Wrong. B it is.",
]


@pytest.mark.parametrize("text", READ_AS_B)
def test_a_letter_is_read_in_every_form(text: str) -> None:
    assert choice_letter(text, CITIES) == "B"


@pytest.mark.parametrize("text", UNREADABLE)
def test_no_letter_is_read_if_none_or_several_are_chosen(text: str) -> None:
    assert choice_letter(text, CITIES) is None


FRAMES = [
    "{}",
    "**{}**",
    "({})",
    "[{}]",
    "`{}`",
    "{}.",
    "Answer: {}",
    "**Answer:** {}",
    "Ans: {}",
    "Final answer: **{}**",
    "The answer is {}.",
    "The correct answer is ({}).",
    "So the answer is {}",
    "Let me think.\n\nTherefore, the answer is **{}**.",
    "\\boxed{{{}}}",
    "$\\boxed{{\\text{{{}}}}}$",
    '{{"answer": "{}"}}',
    "<answer>{}</answer>",
    "<answer>\n{}\n</answer>",
    "#### {}",
    "It takes two steps.\n#### {}",
    "Verdict: {}",
]
DENIED = [
    "not {}",
    "The answer is not {}.",
    "It is not {}.",
    "It isn't {}.",
    "Answer: not {}",
    "{} is wrong.",
    "{} is not correct.",
]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("member", ["B", "positive", "very good", "C++"])
def test_a_member_in_any_frame(frame: str, member: str) -> None:
    sets = [("A", "B", "C", "D"), ("positive", "negative"), ("very good", "good"), ("C", "C++", "C#")]
    members = next(one for one in sets if member in one)
    assert read_choice(frame.format(member), members) == member


@pytest.mark.parametrize("frame", DENIED)
@pytest.mark.parametrize("member", ["B", "positive", "Yes"])
def test_a_denied_member_is_not_read(frame: str, member: str) -> None:
    sets = [("A", "B", "C", "D"), ("positive", "negative"), ("Yes", "No")]
    assert read_choice(frame.format(member), next(one for one in sets if member in one)) is None


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(FRAMES), st.sampled_from(FRAMES), st.permutations("ABCD"), st.sampled_from(["\n", "\n\n", " "]))
def test_two_answers_in_one_notation_are_unreadable(one: str, other: str, letters: list[str], between: str) -> None:
    text = one.format(letters[0]) + between + one.format(letters[1])
    assert choice_letter(text, 4) is None
    mixed = one.format(letters[0]) + "\n" + other.format(letters[0])
    assert choice_letter(mixed, 4) in (letters[0], None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Yes", True),
        ("yes, it is", True),
        ("No.", False),
        ("No, because it rains", False),
        ("The answer is no.", False),
        ("**True**", True),
        ("It is true.", True),
        ("it is false", False),
        ("✓", True),
        ("incorrect", False),
        ("Answer: y", True),
        ("#### False", False),
        ("\\boxed{Yes}", True),
        ("There is no doubt: yes.", True),
        ("not true", None),
        ("It isn't true", None),
        ("No one knows.", None),
        ("yes and no", None),
        ("true or false", None),
        ("Yes. Actually no.", None),
        ("maybe", None),
        ("The answer is not yes.", None),
    ],
)
def test_yes_and_no(text: str, value: bool | None) -> None:
    assert read_bool(text) is value
