"""Letters and words next to words that correct, deny, ask, doubt, or only look as if they chose one."""

from __future__ import annotations

import time
from typing import Literal

import pytest

from moa_dspy.parsing import UnreadableError, parse_value, read_bool, read_choice
from moa_dspy.parsing.choices import choice_letter

CITIES = ["London", "Paris", "Rome", "Oslo"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        # The other letter is only mentioned after the word.
        ("Answer: A. It's actually better than B.", "A"),
        ("Answer: A, actually better than B.", "A"),
        ("The answer is A. Actually, I considered B, but it fails.", "A"),
        ("A. Actually, it was close to B.", "A"),
        ("A - actually the opposite of B.", "A"),
        ("Answer: A. I mean, compared to B, it is better.", "A"),
        ("Answer: A. Wait, let me check B. B fails. So A.", "A"),
        ("The answer is C. (Actually D, but only in 2020.)", "C"),
        ("Answer: A. Wait, is it B? No.", "A"),
        ("Answer: A. Wait, B? No, A.", "A"),
        ("Answer: A. No, not B.", "A"),
        ("Answer: A. No, B is not right.", "A"),
        ("Answer: A. Actually, B fails.", "A"),
        ("The answer is A. Sorry, B.C. is an era.", "A"),
        ("The answer is A. Actually, C and D are far away.", "A"),
        # The word is followed by the new answer.
        ("Answer: A. Actually it's B.", "B"),
        ("Answer: A. Actually, the correct answer is B.", "B"),
        ("Answer: A. Actually, B because it is in France.", "B"),
        ("Answer: A. Oops, it should be B.", "B"),
        ("Answer: A. Sorry, I meant B.", "B"),
        ("Answer: A, I mean B.", "B"),
        ("Answer: A) London. Sorry, B) Paris.", "B"),
        ("Answer: **A**. Wait, **B**.", "B"),
        ("The answer is A. Wait, no, it's B.", "B"),
        ("The answer is A. Scratch that; it's B.", "B"),
        ("A - sorry, B", "B"),
    ],
)
def test_a_correction_is_a_member_right_after_its_word(text: str, letter: str) -> None:
    assert choice_letter(text, CITIES) == letter


@pytest.mark.parametrize(
    "text",
    [
        "不应该选择A",
        "我不会选A",
        "不要选A",
        "不能选A",
        "没有选择A",
        "不建议选B。",
        "选项A是不正确的",
        "选项B错误",
        "选项B不对",
        "选B不对",
        "选B会出错",
        "选A还是B",
        "选 A 还是选 B？",
        "选B，还是选C？",
        "为什么选A?",
        "难道选A吗",
        "如果选A",
        "如果答案是B",
        "若选B，则错误。",
        "是否选B",
        "他选B。",
        "答案是B吗？",
        "选A、B",
        "选择A和B",
        "选A或B",
        "答案是A或B",
        "答案：A、B",
        "答案：A错误",
        "答案是B的反面",
        "答案:B是错误的",
        "答えはBですか？",
        "答えはBではない",
        "정답은 B가 아닙니다",
        "不正确的选项是B",
        "A、B",
        "A、B、C",
        "A、C都对",
        "选项B和C都正确",
    ],
)
def test_chinese_denials_questions_and_several_letters_choose_none(text: str) -> None:
    assert choice_letter(text, CITIES) is None


@pytest.mark.parametrize(
    "text",
    [
        "所以选B",
        "我选B",
        "我会选B",
        "应该选B",
        "综上，选B。",
        "因此选B项。",
        "选B，因为巴黎是首都。",
        "B，因为它是首都",
        "A不对，选B。",
        "不选A，选B。",
        "正确选项是B。",
        "选项B正确。",
        "选项B是正确的",
        "只有B正确",
        "选项A错误，选项B正确。",
        "答案是B选项",
        "答案：选项B",
        "因此正确答案是选项B。",
        "正确的选项是B。",
        "由此可知选B",
        "我选择B，而不是A。",
        "答案是B，不是A。",
        "정답: B번",
    ],
)
def test_a_chinese_or_korean_clause_chooses_a_letter(text: str) -> None:
    assert choice_letter(text, CITIES) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "A (incorrect)",
        "A (wrong)",
        "A (no)",
        "A (or B)",
        "A (maybe)",
        "A (I am not sure)",
        "A (ruled out)",
        "A (50%)",
        "A (B is also possible)",
        "A by a process of elimination, B",
    ],
)
def test_a_letter_before_a_doubt_is_not_read(text: str) -> None:
    assert choice_letter(text, CITIES) is None


@pytest.mark.parametrize(
    "text", ["B (slightly)", "B (final answer)", "B (correct)", "B by a wide margin", "I pick:\nB (Paris)"]
)
def test_a_letter_before_a_degree_or_its_text_is_read(text: str) -> None:
    assert choice_letter(text, CITIES) == "B"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("If I had to choose I'd say B.", "B"),
        ("If forced to pick I would choose B", "B"),
        ("If you ask me I would pick B.", "B"),
        ("If we rule out A and C then B is correct.", "B"),
        ("Even if it looks strange B is correct.", "B"),
        ("I wonder if B is the best choice.", None),
        ("I don't know if B is right.", None),
        ("I'm not sure if B is right", None),
        ("It is unclear if B is correct.", None),
        ("It depends on whether B is correct.", None),
        ("If B is correct, we would see it.", None),
    ],
)
def test_a_condition_of_the_choice_is_no_question(text: str, letter: str | None) -> None:
    assert choice_letter(text, CITIES) == letter


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("If asked I say yes", True),
        ("I'd say if anything yes", True),
        ("Even if odd it is true.", True),
        ("I don't know if it's true.", None),
        ("It's not certain whether it's true", None),
        ("Regardless of whether it rains, yes.", True),
        ("Yes or no? " * 1500, None),
    ],
)
def test_a_condition_of_yes_is_no_question(text: str, value: bool | None) -> None:
    assert read_bool(text) is value


@pytest.mark.parametrize("text", ["正面和负面", "正面的反面", "不是正面", "答案是正面吗", "这不是正面的"])
def test_a_chinese_word_in_a_sentence_is_no_choice(text: str) -> None:
    assert read_choice(text, ("正面", "负面")) is None


@pytest.mark.parametrize("text", ["If anything positive", "If I had to choose I'd say positive"])
def test_a_condition_of_a_word_is_no_question(text: str) -> None:
    assert read_choice(text, ("positive", "negative")) == "positive"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("That's A good point. I choose B.", "B"),
        ("That's A problem. B.", None),
        ("I prefer A more detailed answer", None),
        ("I'm going with A friend", None),
        ("I choose A different approach", None),
        ("A beats me", None),
        ("A wins nothing", None),
        ("A outperforms expectations", None),
        ("I prefer A.", "A"),
        ("I prefer A over B.", "A"),
        ("I prefer A because it is short.", "A"),
        ("I prefer A much more than B", "A"),
        ("I prefer answer A more", "A"),
        ("I'd go with A: London", "A"),
        ("It is A that fits", "A"),
        ("A beats B.", "A"),
        ("A beats the rest.", "A"),
        ("A outperforms response B", "A"),
        ("A wins by far.", "A"),
        ("A wins hands down", "A"),
        ("I'd pick A then", "A"),
        ("I choose A of these", "A"),
        ("I prefer A but B is close", "A"),
    ],
)
def test_the_letter_a_is_told_from_the_article(text: str, letter: str | None) -> None:
    assert choice_letter(text, CITIES) == letter


@pytest.mark.parametrize(
    ("text", "choices", "letter"),
    [
        ("Option 2", ["5", "2", "7"], None),
        ("Option #2", ["5", "2", "7"], None),
        ("I choose option 2.", ["5", "2", "7"], None),
        ("The answer is Option 1", ["3", "1", "2"], None),
        ("The answer is 2", ["5", "2", "7"], "B"),
        ("It is 2.", ["5", "2", "7"], "B"),
        ("Option B", ["5", "2", "7"], "B"),
        ("Option 13", ["3", "13", "30", "3.5"], "B"),
    ],
)
def test_the_number_of_an_option_is_not_its_text(text: str, choices: list[str], letter: str | None) -> None:
    assert choice_letter(text, choices) == letter


@pytest.mark.parametrize("text", ["yes", "true", "no"])
def test_a_word_of_truth_is_no_member_of_zero_and_one(text: str) -> None:
    with pytest.raises(UnreadableError):
        parse_value(text, Literal[0, 1])


@pytest.mark.parametrize("part", ["Yes or no? ", "tie or draw? ", "A. Actually, ", "选B或", "option((", "whether "])
def test_reading_takes_linear_time(part: str) -> None:
    started = time.monotonic()
    text = part * (100_000 // len(part))
    read_bool(text)
    read_choice(text, ("A", "B", "tie", "draw"))
    choice_letter(text, ["5", "2", "7"])
    assert time.monotonic() - started < 2
