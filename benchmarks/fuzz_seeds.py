"""What ``fuzz_replies`` mutates: replies of known kinds, published replies, and what chat templates make of a reply."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jinja2
import jinja2.ext
import jinja2.sandbox

__all__ = ["BUILT_IN", "mutated", "real_replies", "templated"]

_LONGEST: Final = 5000
_REAL: Final = 800  # characters of a published reply, so that most replies are short

BUILT_IN: Final = (
    "<think>\n[[ ## answer ## ]]\nnegative\n</think>\n\n[[ ## reasoning ## ]]\nx\n\n[[ ## answer ## ]]\npositive",
    "<think>It praises.</think>\n[[ ## answer ## ]]\npositive",
    "<|channel|>analysis<|message|>secret<|end|><|start|>assistant<|channel|>final<|message|>Paris<|return|>",
    "[THINK]draft[/THINK]Paris",
    "◁think▷draft◁/think▷Paris",
    "<seed:think>a<seed:cot_budget_reflect>b</seed:cot_budget_reflect></seed:think>Paris<seed:eos>",
    "<|begin_of_thought|>x<|end_of_thought|>\n\n<|begin_of_solution|>Paris<|end_of_solution|>",
    "<|START_THINKING|>x<|END_THINKING|><|START_RESPONSE|>Paris<|END_RESPONSE|>",
    "<|im_start|>assistant\nParis<|im_end|>\n<|im_start|>user\nNext?<|im_end|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\nParis<|eot_id|>",
    "<start_of_turn>model\nParis<end_of_turn>",
    "<s>[INST] q [/INST] Paris</s>",
    "[|assistant|]Paris[|endofturn|]",
    "<|channel>thought\nx<channel|>Paris<turn|>",
    "]~b]ai\nParis[e~[",
    "[ARGS] [CALL_ID] [gMASK] <SPECIAL_10> <\uff5ctool▁calls▁begin\uff5c> <|observation|> <extra_id_0>",
    "Here is my thought process: x\n\nHere is my response: Paris",
    '{"reasoning": "r", "answer": "Positive"}',
    '{"title": null, "body": "B"}',
    '```json\n{"name": "x", "n": "1,234", "tags": ["a", "b"]}\n```',
    "{'name': 'x', 'n': 5,}",
    "**Reasoning:** It praises.\n**Answer:** positive.",
    "[[ ## reasoning ## ]] nice [[ ## answer ## ]] positive [[ ## completed ## ]]",
    "**[[ ## answer ## ]]** **positive**\n[[##answer##]] `positive`",
    "The answer is \\boxed{18}. (This took 3 steps.)",
    "#### 18 = 3 * 6",
    "#### Step 2: multiply\n9 * 2 = 18.\nThe answer is 18.",
    "#### 18\n\n#### Check\n16 - 7 = 9",
    "$29.00 or 42 apples, 12.345,67 €, 3 \u00d7 10^8, 2024-05-01, 1/2, 8/10",
    "- 1\n- 2\n- three",
    "-" * 200,
    "Yes, but not positive; no.",
    'The answer is likely B. The most appropriate answer here is C. {"answer": "B"} A and B are wrong, so C.',
    "Answer: B\n\nNote that answer A would be right for England.",
    "Rating: [[100]], or [[11]], or [7.5]",
    "**Answer**: (B)\nSo the answer is (B).\nLet me know if the answer is unclear.",
    "{'Comprehension': 5, 'Factuality': 'N/A', 'logical_correctness': 3.5}",
    "Par\ud83dis",
    "ChatML:\n```\n<|im_start|>user\nHi<|im_end|>\n```\nand `<think>` is a tag.",
    "<html><body><b>x</b> &lt;think&gt; \\begin{aligned} a &= b \\end{aligned}</body></html>",
)
_MARKS: Final = (
    *("<think>", "</think>", "<|", "|>", "<", ">", "[", "]", "[[", "##", "]]", "{", "}", '"', "'", "`", "```\n"),
    *("\\", "\n", "**", "-", "$", "1,", "0", ".", ":", "=", "not ", "Answer: ", "<answer>", "</answer>", "\ud83d"),
    *("\x00", "\uff5c", "▁", "~", "(", ")", "/", "^", "_", "|", "\\boxed{", "The answer is ", "\u00a0", " "),
)  # fmt: skip


def real_replies(folder: Path) -> Iterator[str]:
    """Yield the published replies in a folder: solutions, answers, predictions and judgments of models."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                yield from (",".join(row) for number, row in enumerate(csv.reader(file)) if number % 50 == 1)
        elif path.suffix in (".json", ".jsonl"):
            text = path.read_text(encoding="utf-8")
            rows = json.loads(text) if path.suffix == ".json" else map(json.loads, text.splitlines())
            yield from (text[:_REAL] for row in rows for text in _texts(row))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name in ("output", "answer", "judgment", "solution", "reference", "6b_finetuning", "6b_verification"):
            yield from _texts(value.get(name))
        yield from (row[0] for row in value.get("rows", ()))
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def templated(folder: Path) -> Iterator[str]:
    """Yield what the chat templates (``.jinja``) in a folder make of a reply with reasoning and a tool call."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value)
    environment.globals.update(strftime_now=lambda _: "2026-11-29", raise_exception=_refuse)
    call = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": {"q": "capital"}}}
    replies: list[dict[str, Any]] = [
        {"role": "assistant", "content": "The answer is Paris.", "reasoning_content": "a draft"},
        {"role": "assistant", "content": "<think>a draft</think>The answer is 1,234."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    for path in sorted(folder.glob("*.jinja")):
        for reply in replies:
            for last in ([], [{"role": "user", "content": "Next?"}]):
                messages = [{"role": "user", "content": "QUESTION"}, reply, *last]
                try:
                    text = environment.from_string(path.read_text(encoding="utf-8")).render(
                        messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=True, tools=None
                    )
                except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError):
                    continue  # the model takes no such conversation
                yield text.rpartition("QUESTION")[2][:_LONGEST]


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def mutated(random_: random.Random, seeds: tuple[str, ...]) -> str:
    """Return a reply of a random kind with up to five pieces cut, repeated, joined, swapped or marked."""
    text = random_.choice(seeds if random_.random() < 0.5 else BUILT_IN)
    for _ in range(random_.randrange(6)):
        at, to = sorted((random_.randrange(len(text) + 1), random_.randrange(len(text) + 1)))
        match random_.randrange(6):
            case 0:
                text = text[:at] + text[to:]
            case 1:
                text = text[:to] + text[at:to] * random_.randrange(1, 4) + text[to:]
            case 2:
                text = text[:at] + random_.choice(_MARKS) * random_.randrange(1, 5) + text[at:]
            case 3:
                text = text[:at] + random_.choice(BUILT_IN) + text[to:]
            case 4:
                text = text[to:] + text[:at]
            case _:
                text = text[:at] + random_.choice(_MARKS) + text[at:to] + random_.choice(_MARKS) + text[to:]
        text = text[:_LONGEST]
    return text
