"""Negations in English: before a value, after it, and two that affirm."""

from __future__ import annotations

import time

import pytest

from moa_dspy.parsing.choices import read_choice
from moa_dspy.parsing.negation import is_negated
from moa_dspy.parsing.numbers import read_number

DENIED = [
    "not {v}",
    "It is not {v}.",
    "It isn't {v}.",
    "It's never {v}.",
    "It is no longer {v}.",
    "It can't be {v}.",
    "It cannot be {v}.",
    "It could not possibly be {v}.",
    "It is by no means {v}.",
    "It is in no way {v}.",
    "It is not necessarily {v}.",
    "It is hardly {v}.",
    "It is far from {v}.",
    "It is anything but {v}.",
    "It is certainly not the case that it is {v}.",
    "I do not think that it is {v}.",
    "I don't think it is {v}.",
    "I don't think that the answer is {v}.",
    "I do not believe the answer is {v}.",
    "I don't really believe that the correct answer to this question is {v}.",
    "I would not say that it is {v}.",
    "I wouldn't say {v}.",
    "I can't agree that it is {v}.",
    "I cannot say that the answer is {v}.",
    "I do not agree that the answer is {v}.",
    "I disagree that it is {v}.",
    "I doubt that it is {v}.",
    "I doubt it's {v}.",
    "I highly doubt that the answer is {v}.",
    "It is doubtful that it is {v}.",
    "It is not true that the answer is {v}.",
    "It is false that the answer is {v}.",
    "It is unlikely that it is {v}.",
    "It is unlikely to be {v}.",
    "It is impossible that it is {v}.",
    "It would be wrong to say {v}.",
    "It is incorrect to answer {v}.",
    "It would be a mistake to answer {v}.",
    "There is no evidence that it is {v}.",
    "There is no way it is {v}.",
    "There is no reason to think that it is {v}.",
    "No one would say that it is {v}.",
    "Nobody would choose {v}.",
    "Nothing suggests that it is {v}.",
    "I deny that it is {v}.",
    "I have ruled out {v}.",
    "I'd rule out {v}.",
    "I am not sure that it is {v}.",
    "I am not convinced that the answer is {v}.",
    "I'm not certain it is {v}.",
    "It does not seem to be {v}.",
    "It doesn't look like {v}.",
    "It fails to be {v}.",
    "I do not think, however, that it is {v}.",
    "{v} is not correct.",
    "{v} is not the answer.",
    "{v} isn't right.",
    "{v} is wrong.",
    "{v} is incorrect.",
    "{v} would be wrong.",
    "{v} is clearly wrong.",
    "{v} is certainly not right.",
    "{v} cannot be right.",
    "{v} can't be the answer.",
    "{v} could not be it.",
    "{v} does not fit.",
    "{v} doesn't work.",
    "{v} did not fit.",
    "{v} will not work.",
    "{v} won't do.",
    "{v} would not work.",
    "{v} should not be chosen.",
    "{v} must not be chosen.",
    "{v} has not been shown.",
    "{v} is never right.",
    "{v} is no longer right.",
    "{v} is ruled out.",
    "{v} can be ruled out.",
    "{v} was excluded.",
    "{v} has been eliminated.",
    "{v} is out of the question.",
    "{v} is unlikely.",
    "{v} seems unlikely.",
    "{v} seems wrong.",
    "{v} looks wrong.",
    "{v} is far from right.",
    "{v} is hardly right.",
    "{v} is by no means right.",
    "{v} is anything but right.",
    "{v} is neither plausible nor right.",
    "{v} makes no sense.",
    "{v} fails.",
    "{v} is a distractor.",
    "{v}, however, is wrong.",
    "{v}? No.",
    "{v} is a mistake.",
    "{v} is the wrong answer.",
    "{v} is an incorrect option.",
    "{v} is not it.",
    "{v} may not be right.",
    "{v} might not be the answer.",
]

AFFIRMED = [
    "{v}",
    "It is {v}.",
    "The answer is {v}.",
    "I think that it is {v}.",
    "There is no doubt that it is {v}.",
    "I have no doubt that the answer is {v}.",
    "I do not doubt that it is {v}.",
    "Without a doubt, it is {v}.",
    "Without doubt it is {v}.",
    "No doubt it is {v}.",
    "It is undoubtedly {v}.",
    "It cannot be anything but {v}.",
    "It can't be other than {v}.",
    "It is none other than {v}.",
    "It is nothing but {v}.",
    "It is nothing other than {v}.",
    "I am not sure, but {v}.",
    "I am not sure but I think it is {v}.",
    "I'm not sure, {v}.",
    "I'm not an expert. It is {v}.",
    "I am not certain, but I believe the answer is {v}.",
    "Not surprisingly, it is {v}.",
    "It is not hard to see that the answer is {v}.",
    "It is not difficult to see that it is {v}.",
    "It isn't complicated: {v}.",
    "I don't need more steps, the answer is {v}.",
    "I do not see why not: {v}.",
    "I cannot deny that it is {v}.",
    "It cannot be denied that it is {v}.",
    "It is not unlikely that it is {v}.",
    "It is not wrong to say {v}.",
    "There is no other option than {v}.",
    "There is no option but {v}.",
    "There is no question that it is {v}.",
    "No one doubts that it is {v}.",
    "Nobody can deny that it is {v}.",
    "It is not clear at first, but it is {v}.",
    "We should not forget that the answer is {v}.",
    "Do not forget that it is {v}.",
    "Don't be fooled: it is {v}.",
    "Never mind. It is {v}.",
    "I did not use a calculator and got {v}.",
    "The others do not fit, so {v}.",
    "The other options are wrong; {v}.",
    "Since the rest is wrong, it is {v}.",
    "I have no choice but to say {v}.",
    "It could not be clearer that it is {v}.",
    "If I am not mistaken, it is {v}.",
    "Unless I am mistaken, it is {v}.",
    "{v} is correct.",
    "{v} is the answer.",
    "{v} is right.",
    "{v} because the other one is wrong.",
    "{v} since the rest is not correct.",
    "{v}, as the rest does not fit.",
    "{v} and nothing else is right.",
    "{v} is not wrong.",
    "{v} is not only plausible but right.",
    "{v} is not impossible.",
    "{v} is not a bad answer.",
    "{v} cannot be denied.",
    "{v} is undoubtedly right.",
    "{v} without a doubt.",
    "{v}, no doubt.",
    "{v} is certain.",
    "{v} while the others are wrong.",
    "{v} if I am not mistaken.",
    "{v} unless I am wrong.",
    "{v} is the only one that is not wrong.",
    "{v} is the one that cannot be ruled out.",
    "{v} is not ruled out.",
    "{v} cannot be ruled out.",
    "{v} cannot be excluded, the others can.",
    "{v} can't be wrong.",
    "{v} does not contradict the facts.",
    "{v} is the only option that does not fail.",
]

CITIES = ("Paris", "London", "Rome")


@pytest.mark.parametrize("sentence", DENIED)
def test_a_denied_value_is_not_read(sentence: str) -> None:
    assert read_choice(sentence.format(v="Paris"), CITIES) is None
    assert read_choice(sentence.format(v="B"), ("A", "B", "C", "D")) is None
    assert read_number(sentence.format(v="9")) is None


@pytest.mark.parametrize("sentence", AFFIRMED)
def test_an_affirmed_value_is_read(sentence: str) -> None:
    assert read_choice(sentence.format(v="Paris"), CITIES) == "Paris"
    assert read_number(sentence.format(v="9")) == 9


@pytest.mark.parametrize(
    ("text", "city"),
    [
        ("I do not think that it is Paris. It is Rome.", "Rome"),
        ("I do not think that it is Paris, it is Rome.", "Rome"),
        ("It is Rome. I doubt that it is Paris.", "Rome"),
        ("Paris can be ruled out, so it is Rome.", "Rome"),
        ("It is neither Paris nor London.", None),
        ("It is neither Paris nor London but Rome.", "Rome"),
        ("It is not Paris or London.", None),
        ("I don't think it's not Paris.", "Paris"),
        ("The answer is Rome because Paris is wrong.", "Rome"),
        ("I do not think that the answer is Paris. The answer is Rome.", "Rome"),
    ],
)
def test_a_denied_value_does_not_hide_another(text: str, city: str | None) -> None:
    assert read_choice(text, CITIES) == city


@pytest.mark.parametrize("word", ["not ", "not think ", "is not ", "no doubt ", "a ", "wrong to "])
def test_the_time_is_short_for_any_words(word: str) -> None:
    text = word * 100 + "9" + f" {word}" * 100
    start = time.process_time()
    for _ in range(100):
        is_negated(text, len(word) * 100, len(word) * 100 + 1)
    assert time.process_time() - start < 0.5
