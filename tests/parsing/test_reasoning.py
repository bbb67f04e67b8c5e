"""Where reasoning ends and the answer begins, in the notations of all model families."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings, strategies as st

from moa_dspy.parsing import EDGES, PLAIN, SplitReply, split_reasoning

# A reply and its answer.
ANSWERED = [
    ("<think>Rome? No.</think>Paris", "Paris"),
    ("Rome? No.</think>\nParis", "Paris"),
    ("Rome? No.</think>Paris", "Paris"),
    ("It is Rome </think> Paris", "Paris"),
    (
        "<|channel|>analysis<|message|>secret<|end|><|start|>assistant<|channel|>final<|message|>Paris<|return|>",
        "Paris",
    ),
    ("<|start|>assistant<|channel|>final<|message|>Paris<|end|>", "Paris"),
    ('<|channel|>final <|constrain|>json<|message|>{"a":1}<|return|>', '{"a":1}'),
    ("[THINK]x[/THINK]Paris", "Paris"),
    ("[THINK](x)[/THINK]Paris", "Paris"),
    ("<think>Rome?</think>Paris</think>", "Paris"),
    ("<think>Rome?</think>\n\nParis\n\n</think>\n", "Paris"),
    ("<unused94>thought\nRome?<unused95>Paris", "Paris"),
    ("<ctrl94>thought\nRome?\n<ctrl95>Paris", "Paris"),
    ("Paris<|user|>\nAnd Italy?", "Paris"),
    ("Paris.<|user|>\nAnd?<|assistant|>\nRome.", "Paris."),
    ("Paris<pad><pad><pad>", "Paris"),
    ("Paris<|endoftext|><|endoftext|>", "Paris"),
    ("[THINK]: Rome? No.[/THINK]Paris", "Paris"),
    ("◁think▷x◁/think▷Paris", "Paris"),
    ("<seed:think>x<seed:cot_budget_reflect>y</seed:cot_budget_reflect>z</seed:think>Paris", "Paris"),
    ("<|begin_of_thought|>x<|end_of_thought|>\n\n<|begin_of_solution|>Paris<|end_of_solution|>", "Paris"),
    ("<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>Paris<|END_RESPONSE|>", "Paris"),
    ("<|inner_prefix|>x<|inner_suffix|>Paris", "Paris"),
    ("<|channel>thought\nblah<channel|>Paris<turn|>", "Paris"),
    ("<|channel>thought\n<channel|>Paris", "Paris"),
    ("<antThinking>Rome?</antThinking>Paris", "Paris"),
    ("<getThought>x", "<getThought>x"),
    ("<thinkingBlock>abc</thinkingBlock>5", "<thinkingBlock>abc</thinkingBlock>5"),
    ("<my:thinkBlock>a</my:thinkBlock>5", "<my:thinkBlock>a</my:thinkBlock>5"),
    ("Paris<think>Rome?</think>", "Paris"),
    ("<|think|>x<|end|><|begin|>assistant<|content|>Paris<|end|>", "Paris"),
    ("<thinking>a<reflection>b</reflection>c</thinking>\n<output>Paris</output>", "Paris"),
    ("<think>\nx\n</think>\n<answer>\nParis\n</answer>", "Paris"),
    ("<thought>\nx\n</thought>\n\nParis", "Paris"),
    ("Here is my thought process: x\n\nHere is my response: Paris", "Paris"),
    ("## Thinking\n\nx\n\n## Final Response\n\nParis", "Paris"),
    ("Thinking...\nx\n...done thinking.\n\nParis", "Paris"),
    ("analysisThe user asks.assistantfinalParis", "Paris"),
    ("Paris<|im_end|>", "Paris"),
    ("Paris<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nNext", "Paris"),
    ("Paris</s>", "Paris"),
    ("Paris </s>", "Paris"),
    ("Paris<end_of_turn>\n", "Paris"),
    ("Paris[|endofturn|]", "Paris"),
    ("<|im_start|>assistant\nParis<|im_end|>", "Paris"),
    ("<|start_header_id|>assistant<|end_header_id|>\n\nParis<|eot_id|>", "Paris"),
    ("Paris<｜end▁of▁sentence｜>", "Paris"),
    ("<s>[INST] q [/INST] Paris</s>", "Paris"),
    ("[e~[", ""),
    ("Paris[e~[", "Paris"),
    ("<think>a</think>\nSo.\n<think>b</think>\nParis", "So.\n\nParis"),
    ('<details type="reasoning" done="true">\n<summary>Thought</summary>x</details>\nParis', "Paris"),
    ("&lt;think&gt;x&lt;/think&gt;Paris", "Paris"),
    ("＜think＞x＜/think＞Paris", "Paris"),
    ("<think/>Paris", "Paris"),
    ("</think>Paris", "Paris"),
    ("<think>The tag </think> closes it, I know.\n</think>\nParis", "Paris"),
    ("<think>```python\nx=1\n</think>\nParis\n```python\ny\n```", "Paris\n```python\ny\n```"),
    ("<think>I like <think> tags.</think>Paris", "Paris"),
    ("<thinking>x</think>Paris", "Paris"),
    ("<longcat_think>x</longcat_think>Paris", "Paris"),
    ("<|zorb|>draft<|/zorb|>Paris", "Paris"),
    ("<think>a</think><think>b</think>Paris", "Paris"),
    ("Sure! <think>draft</think>Paris", "Sure! \n\nParis"),
    ("<think time=3>x</think>\n\nParis", "Paris"),
    ("Use <answer></think>\nParis", "Paris"),
    ("<analysis>draft</analysis>\n<answer>Paris</answer>", "Paris"),
    ("```thinking\nx\n```\nParis", "Paris"),
    ("<思考>x</思考>Paris", "Paris"),
    ("The user wants X. So Paris.\n</think>\n\nParis<|im_end|>", "Paris"),
    ("<think>x</think>[[ ## answer ## ]]\nParis", "[[ ## answer ## ]]\nParis"),
    ("so the answer is </think>\nParis", "Paris"),
]

# Replies that ended during the reasoning.
CUT = [
    "<think>cut off",
    "[THINK]cut",
    "◁think▷cut",
    "<|channel|>analysis<|message|>still",
    "<|begin_of_thought|>x",
    "analysisThe user",
    "<think>all</think>",
    "all\n</think>",
    "<|START_THINKING|>x",
    "<unused94>thought\nRome?",
]

# Answers that contain tags or tokens and no reasoning.
ORDINARY = [
    "Write <think> tags as <think>x</think>.",
    "R1 ends its reasoning with </think> and then answers 42.",
    "The closing tag is </think> in Qwen models; it ends the reasoning.",
    "Models of this kind end their reasoning with </think>",
    "`</think>`\nends the reasoning",
    "<b>x</b>",
    "<b>x</b> and more",
    "<html><body>x</body></html>",
    "<response><code>1</code></response>",
    "<think> is the tag that Qwen uses.",
    "<think>...</think> tags are used by Qwen.",
    "`<think>` opens.\n`</think>` closes.",
    "```\n<think>\nx\n</think>\n```\nis the format.",
    "ChatML:\n```\n<|im_start|>user\nHi<|im_end|>\n```\nDone.",
    "<s>old</s> new",
    "We had <s>old</s> new",
    "Map<String, Thought> x = 1;",
    "<ThinkingIndicator />",
    "Contact <thinker@x.com>",
    "[Thinking, Fast and Slow](http://x) is a book",
    "[thinking](http://x)",
    "[THOUGHTS](#thoughts) is a part",
    "<h1>thought\n</h1>",
    "Write <|user|>\nand then the question.",
    "`<|system|>s<|user|>q`\nis the format.",
    "«Thinking, Fast and Slow»",
    "<conversation>\n<think>\nhm\n</think>\n<say>Hi</say>\n</conversation>",
    "Use this format:\n<think>\nyour reasoning\n</think>\nyour answer",
    "Qwen's end token is <|im_end|>",
    "- <|endoftext|>: end of document\n- <|im_start|>: start",
    "The tokens <|im_start|> and <|im_end|> mark turns.",
    "let a = f <| x |> g",
    "a < think > b",
    '{"reasoning": "<think>x</think>", "answer": "p"}',
    "<config>\n<a/>\n</config>\n\nThis is a config.",
    "<plan>a</plan>\n<b>c</b>",
    "<request>a</request><response>b</response>",
    "x </s> y?",
    "\\[ x < y \\]",
    "I was thinking [1] and [2].",
    "# Thinking\nIt is hard.",
    "<reason>expired</reason>",
]


@pytest.mark.parametrize(("reply", "answer"), ANSWERED)
def test_the_answer_comes_without_reasoning_and_tokens(reply: str, answer: str) -> None:
    split = split_reasoning(reply)
    assert split.text == answer
    assert split.ended


@pytest.mark.parametrize("reply", CUT)
def test_a_reply_that_ended_in_its_reasoning_has_no_answer(reply: str) -> None:
    split = split_reasoning(reply)
    assert (split.text, bool(split.reasoning)) == ("", True)


@pytest.mark.parametrize("reply", [reply for reply in CUT if "</" not in reply])
def test_reasoning_without_an_end_is_unfinished(reply: str) -> None:
    assert not split_reasoning(reply).ended


@pytest.mark.parametrize("answer", ORDINARY)
def test_an_ordinary_answer_is_left_alone(answer: str) -> None:
    split = split_reasoning(answer)
    assert (split.text, split.reasoning, split.ended) == (answer, "", True)


# After reasoning, tags of an answer around the whole of it go.
@pytest.mark.parametrize("answer", [answer for answer in ORDINARY if not answer.startswith("<response>")])
def test_an_ordinary_answer_after_reasoning_is_left_alone(answer: str) -> None:
    assert split_reasoning(f"<think>\nWell.\n</think>\n\n{answer}").text == answer


@pytest.mark.parametrize(("reply", "answer"), ANSWERED)
def test_an_answer_stays_the_same_when_it_is_read_again(reply: str, answer: str) -> None:
    assert split_reasoning(answer).text == answer


STEMS = ["think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad", "inner_monologue"]
NAMES = [*STEMS, "seed:think", "longcat_think", "deep-thinking", "my_cot", "Chain_of_Thought", "rationale", "推理"]
SHAPES = [
    ("<{}>", "</{}>"),
    ("<{}>\n", "\n</{}>\n\n"),
    ("< {} >", "</ {} >"),
    ("<|{}|>", "<|/{}|>"),
    ("<|begin_of_{}|>", "<|end_of_{}|>"),
    ("<|start_{}|>", "<|end_{}|>"),
    ("<|{}_start|>", "<|{}_end|>"),
    ("[{}]\n", "\n[/{}]\n"),
    ("◁{}▷", "◁/{}▷"),
    ("＜{}＞", "＜/{}＞"),
    ('<{} time="3">', "</{}>"),
    ("&lt;{}&gt;", "&lt;/{}&gt;"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("opening", "closing"), SHAPES)
def test_a_new_name_in_a_known_shape_is_reasoning(name: str, opening: str, closing: str) -> None:
    block = f"{opening.format(name)}Rome? No.{closing.format(name)}"
    for cased in (block, block.upper().replace("TIME", "time").replace("&LT;", "&lt;").replace("&GT;", "&gt;")):
        assert split_reasoning(f"{cased}Paris").text == "Paris"


@settings(deadline=None, max_examples=300)
@given(
    st.text(alphabet=st.characters(exclude_characters="<>[]◁▷＜＞&|｜`\"'", exclude_categories=["Cs"]), max_size=80),
    st.sampled_from(["Paris", "42", "two\n\nparagraphs", "`x < y`", '{"answer": 1}', "$x_1$", "**bold**", "é"]),
)
def test_a_draft_of_any_text_is_kept_out(draft: str, answer: str) -> None:
    for opening, closing in [("<think>", "</think>"), ("<think>\n", "\n</think>\n\n"), ("[THINK]", "[/THINK]")]:
        assert split_reasoning(f"{opening}{draft}{closing}{answer}").text == answer
    if draft.strip():
        assert split_reasoning(f"{draft}.\n</think>\n{answer}").text == answer


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<|im_end|>", "<|", "|>", "a", "\n", " ", "`", "</s>", "[", "]", ":"])
    )
)
def test_any_text_can_be_read_and_reading_twice_changes_nothing_more(pieces: list[str]) -> None:
    first = split_reasoning("".join(pieces))
    assert len(first.text) <= len("".join(pieces)) + len(pieces)


UNITS = [
    *("<think>", "</think>", "<|im_start|>", "[think]\n", "intro:\n[think]\n", "x\n<think>\n", "<", "[[", "```\n"),
    *(
        "`<think>`",
        "<s>",
        "</s>",
        "<answer>",
        "<think>\n</think>\n",
        "<|channel|>analysis<|message|>",
        "&lt;",
        "]~",
        " ",
    ),
]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("head", ["", "<think>", "</think>"])
def test_the_time_is_linear(unit: str, head: str) -> None:
    def seconds(length: int) -> float:
        text = head + unit * (length // len(unit))
        began = time.process_time()
        split_reasoning(text)
        return time.process_time() - began

    assert seconds(64_000) < 0.5  # once: what was read is remembered
    assert seconds(256_000) < 2.0


@pytest.mark.parametrize("reply", [reply for reply, _ in ANSWERED] + CUT)
def test_a_reply_with_reasoning_is_never_taken_for_a_plain_one(reply: str) -> None:
    if split_reasoning(reply) != SplitReply("", reply.strip(EDGES)):
        assert not PLAIN.fullmatch(reply)


HEADS = [
    "Thinking...\n",
    "my thoughts:",
    "here is my reasoning:",
    "analysisWe",
    "# Thinking\n",
    "```think\n",
    "thought…\n",
]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [*HEADS, *"<[]&＜◁⟨〈《«‹【|/~:#`", "think", "s", ">", "\n", " ", "\u200b", "\x1c", "Paris", "é"]
        )
    )
)
def test_a_plain_reply_is_its_own_answer(pieces: list[str]) -> None:
    text = "".join(pieces)
    if PLAIN.fullmatch(text) and text.strip(EDGES).strip():
        assert split_reasoning(text) == SplitReply("", text.strip(EDGES))
