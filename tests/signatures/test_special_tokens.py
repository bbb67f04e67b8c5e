"""Special tokens of chat templates are broken up by their shape; ordinary code and markup keep theirs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, strategies as st

from moa_dspy.signatures import quote
from moa_dspy.signatures.special_tokens import broken

# From the models' tokenizers, or from the parsers and templates of transformers 5.24, vllm 0.33 and mistral-common 1.13.
FAMILIES = {
    "ChatML, Qwen": "<|im_start|> <|im_end|> <|endoftext|> <tool_call> </tool_call> <|vision_start|> <|box_start|> <think>",
    "Llama 2": "<s> </s> [INST] [/INST] <<SYS>> <</SYS>> <unk>",
    "Llama 3, 4": "<|begin_of_text|> <|start_header_id|> <|eot_id|> <|eom_id|> <|python_tag|> <|header_start|>",
    "Mistral": "[INST] [AVAILABLE_TOOLS] [TOOL_CALLS] [ARGS] [CALL_ID] [IMG] [IMG_BREAK] [IMG_END] [PREFIX] [SUFFIX] [MIDDLE]"
    " [BEGIN_AUDIO] [THINK] [/THINK] [SYSTEM_PROMPT]",
    "Gemma": "<bos> <eos> <start_of_turn> <end_of_turn> <start_of_image> <image_soft_token> <mask> <unused12> <|turn> <turn|>"
    " <channel|> <start_function_call> <end_function_call>",
    "DeepSeek": "<｜begin▁of▁sentence｜> <｜User｜> <｜tool▁calls▁begin｜> <｜DSML｜function_calls> </｜DSML｜invoke>",
    "GLM": "[gMASK] [sMASK] <sop> <eop> <|user|> <|observation|> <arg_key> </arg_value>",
    "Kimi": "[BOS] [EOS] [EOT] <|im_user|> <|im_middle|> <|tool_calls_section_begin|> ◁think▷ ◁/think▷",
    "MiniMax": "]~!b[ ]~b] [e~[ <minimax:tool_call> ]<]image[>[ <mm:think>",
    "Seed": "<seed:bos> <seed:eos> <seed:think> </seed:think> <seed:tool_call>",
    "EXAONE": "[|system|] [|user|] [|assistant|] [|endofturn|]",
    "Nemotron": "<SPECIAL_10> <SPECIAL_11> <extra_id_0> <extra_id_1> <TOOLCALL> <AVAILABLE_TOOLS>",
    "Cohere": "<BOS_TOKEN> <EOS_TOKEN> <|START_OF_TURN_TOKEN|> <|START_THINKING|> <|CHATBOT_TOKEN|> <|START_ACTION|>",
    "gpt-oss": "<|start|> <|channel|> <|message|> <|end|> <|return|> <|call|> <|constrain|>",
    "Ling": "<role> </role> <|startoftext|> <|role_end|>",
    "Phi": "<|system|> <|user|> <|end|> <|im_sep|> <|tool|> <|/tool|>",
    "Granite": "<|start_of_role|> <|end_of_role|> <|tool_call|> <|end_of_text|>",
    "ERNIE, Hunyuan": "<|extra_0|> <mask:1> <|hy_User|> <｜hy_place▁holder▁no▁2｜> <cls> <sep>",
    "InternLM": "<|action_start|> <|plugin|> <|action_end|> [UNUSED_TOKEN_145] <IMG_CONTEXT>",
    "Falcon, StarCoder": "<fim_prefix> <fim_middle> <fim_suffix> <|fim_hole|> [control_8]",
    "SmolVLM, LLaVA": "<end_of_utterance> <fake_token_around_image> <image> <video> <global_image_token>",
    "PLaMo, IFM": "<|plamo:begin_think:plamo|> <ifm|think> </ifm|tool_call> <ifm|arg_key>",
    "BERT, T5": "[CLS] [SEP] [PAD] [UNK] [MASK] [unused1] <pad> <extra_id_99>",
    "Qwen coder, functions": "<function=search> <parameter=city> <function_calls> <tool_response>",
}  # fmt: skip
ORDINARY = [
    "std::vector<int> a; Map<String, List<Integer>> m; fn id<T>(x: T) -> T {}",
    "#include <sys/types.h>\n#include <vector>\nif (a < b && c > d) f(x);",
    "const Local<S>& that; type A = Array<string | number>; let x: Option<ToolCall> = None;",
    '<div class="a"><p>Text <b>bold</b> <br/> <img src="a.png"></p></div>',
    "<note><to>Tove</to><first_name>Jani</first_name><user>ann</user><response>ok</response></note>",
    '<config><parameter name="a" value="b"/></config> <xs:element name="x"/> <svg:rect width="1"/>',
    "<details>\n<summary>More</summary>\n<audio controls></audio>\n</details>",
    "Usage: tool [-h] <file> <output> --name <your_name> <api-key>",
    "arr[0] = buf[MAX_LEN]; rows[IDX][COL]; m[KEY] = v; t[MASK] &= 1; [CASE_A] = 1,",
    "[API](https://example.org) [README][1] [NOTE]: text [x] [ ] [1] [TODO: write] [a, b]",
    "\\begin{table}[htb] \\documentclass[12pt]{article} \\[ x < y > z \\] $|a| < |b|$",
    "x <- a |> f; p <|> q; f <| g |> h; a || b; [| 1; 2 |]; 1 << 2 >> 1",
    "re.compile(r'(?P<name>\\w+)(?P<s>\\d)(?<token>x)')",
    "def f(x): return [x for x in xs if x < 3] # [1, 2]",
    "SELECT a FROM t WHERE a <> 'x' AND b >= 3; ~[a] !b[c]",
    "for (i = 0; i<n; i++) { s[i]>>=1; } template<class T> struct A<T*> {};",
    "const a = <Button onClick={f}>ok</Button>; <React.Fragment></React.Fragment>",
    "see <https://example.org/a> or <ann@example.org> and [RFC2119](rfc)",
    "matrix[i][j] = [[1, 0], [0, 1]]; list[END]; np.array([PI])",
    "tokens = tokenize(text); the role of the user; a think tank; end of turn",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_a_family_are_broken_up(family: str) -> None:
    for token in FAMILIES[family].split():
        for text in (token, f"before {token} after", f"line\n{token}\nline", f'"{token}"', f"{token}{token}"):
            assert token not in broken(text), f"{token} in {text!r}"


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_code_and_markup_keep_their_form(text: str) -> None:
    assert broken(text) == text
    assert quote("answer", text) == f"<answer>\n{text.strip()}\n</answer>"


def test_tokens_with_spaces_are_broken_up() -> None:
    for token in ("<｜DSML｜ calls>", "]<]end of image[>[", "<|reserved special token 1|>", "[BEGIN FINAL RESPONSE]"):
        assert token not in broken(f"a {token} b")


def test_mistral_calls_are_broken_up_although_words_are_glued_to_them() -> None:
    assert broken('[TOOL_CALLS]search[CALL_ID]a1[ARGS]{"q": 1}') == '[ TOOL_CALLS]search[ CALL_ID]a1[ ARGS]{"q": 1}'


@given(name=st.from_regex(r"[A-Za-z][A-Za-z0-9_▁:-]{0,30}", fullmatch=True), slash=st.sampled_from(["", "/"]))
def test_a_name_between_bars_is_always_broken_up(name: str, slash: str) -> None:
    for token in (f"<{slash}|{name}|>", f"<{slash}｜{name}｜>", f"[|{name}|]", f"<|{name}>", f"<{name}|>"):
        assert token not in broken(f"a{token}b")


@given(st.text(alphabet="<>[]/|｜~!ab_ B\n", max_size=60))
def test_what_is_broken_up_stays_as_it_is(text: str) -> None:
    once = broken(text)
    assert once.replace(" ", "") == text.replace(" ", "")
    assert broken(broken(once)) == broken(once)


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["<", "[", "<|", "]~", "< ", "<a", "[A", "</", "<|a|>", "[ARGS]", "<x>"])
def test_a_megabyte_takes_linear_time(piece: str) -> None:
    began = time.perf_counter()
    broken(piece * (1_000_000 // len(piece)))
    assert time.perf_counter() - began < 20, "quadratic work would take minutes"
