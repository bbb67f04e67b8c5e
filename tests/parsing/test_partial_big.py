"""What is certain of a reply that is still being written is how its answer begins."""

from __future__ import annotations

from itertools import pairwise

import pytest
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given, settings, strategies as st

from moa_dspy.parsing.partial import AnswerSoFar, begins_with
from moa_dspy.runtime.adapters import PlainTextAdapter
from moa_dspy.runtime.reading import read
from moa_dspy.signatures import task_signature

TASK = task_signature("question -> answer")
REASONING = st.sampled_from(
    [
        *(
            "",
            "",
            "<think>Hm [1].</think>",
            "<thinking>\nHm\n</thinking>\n\n",
            "[THINK]Hm[/THINK]",
            "◁think▷Hm◁/think▷",
        ),
        *("Here is my thought process: hm\nHere is my response:\n", "Thinking...\nhm\n...done thinking.\n"),
        "analysisHm. assistantfinal",
    ]
)
PIECES = st.sampled_from(
    [
        *(
            "<b>",
            "</b>",
            "a[0]",
            "[1]",
            "](x)",
            "if a < b and c > d",
            "R&D",
            "&lt;b&gt;",
            "**",
            "`",
            "```\n",
            "\n",
            "\n\n",
        ),
        *(" ", "word", "Ünïcode", "\u200b", "The", "[", "]", "<", ">", "&", "Answer", "The answer is 42.", "# Notes\n"),
        *("<answer>", "</answer>", "thinking", "Here is my", "]~[", "[a link", "\\", "<plan>", "</plan>", "[#12]"),
    ]
)
ENDS = st.sampled_from(["", "", "<|im_end|>", "</s>", "\n\n[[ ## completed ## ]]", "**[[ ## completed ## ]]**", "<|e"])


def final(text: str) -> str | None:
    """The answer in the whole reply, as a run reads it."""
    (completion,) = read([text])
    try:
        return PlainTextAdapter().parse(TASK, completion.text)["answer"]
    except AdapterParseError:
        return None


def seen(text: str, step: int = 1) -> list[str]:
    reader = AnswerSoFar()
    return [reader.read(text[:end]) for end in range(1, len(text) + 1, step)]


@settings(max_examples=20000, suppress_health_check=list(__import__("hypothesis").HealthCheck))
@given(REASONING, st.lists(PIECES, max_size=10).map("".join), ENDS, st.integers(1, 7))
def test_what_is_certain_is_how_the_answer_begins(reasoning: str, text: str, end: str, step: int):
    reply = f"{reasoning}{text or 'word'}{end}"
    parts = seen(reply, step)
    for before, after in pairwise(parts):
        assert after.startswith(before)
    answer = final(reply)
    assert answer is None or not parts or answer.startswith(parts[-1])


@pytest.mark.parametrize(
    ("reply", "answer", "begins"),
    [
        ("It is 42.", "It is 42.", True),
        ("<think>hm</think>It is 42.", "It is 42.", True),
        ("hm</think>It is 42.", "It is 42.", False),
        ("hm</think>", "", False),
    ],
)
def test_models_whose_template_opens_their_reasoning_are_known_by_a_reply(reply: str, answer: str, begins: bool):
    assert begins_with(reply, answer) is begins


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("The answer is 42. It is even.", "The answer is 42. It is even."),
        ("Use a[0] and [a link](x), if a < b\nelse R&D or so.", "Use a[0] and [a link](x), if a < b\nelse R&D or so."),
        ("<think>Hm, so\nit is</think>\n\nThe answer is 42.", "The answer is 42."),
        ("Here is my thought process: hm.\nHere is my response:\nThe answer is 42.", "The answer is 42."),
        ("The answer is 42.\n\n[[ ## completed ## ]]", "The answer is 42."),
        ("The answer is 42.<|im_end|>", "The answer is 42."),
        ("<answer>42</answer>", ""),  # the tags go at the end
    ],
)
def test_an_answer_is_certain_while_it_is_written(text: str, certain: str):
    parts = seen(text)
    assert parts[-1] == certain
    assert not certain or len(set(parts)) > 8  # piece by piece
