"""Mutated replies through the reader, the value parser and the quoting: does anything raise, or take long?

    uv run python -m benchmarks.fuzz_replies                      # 20,000 replies
    uv run python -m benchmarks.fuzz_replies --replies 200000 --seed 7

A reply is a seed text (a reply of a known kind, or a chat template's piece), mutated: pieces are repeated, cut, joined,
swapped and sprinkled with marks. One in a hundred is stretched to 64 kB. The figures are in docs/reliability.md.
"""

from __future__ import annotations

import argparse
import enum
import heapq
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Literal

import dspy
import pydantic
from dspy.utils.exceptions import AdapterParseError

from moa_dspy.parsing import UnreadableError, parse_value, split_reasoning
from moa_dspy.run.adapters import PlainTextAdapter, lenient
from moa_dspy.signatures import derive_roles, quote

LARGE: Final = 64_000
SLOW: Final = 0.1  # seconds of CPU

SEEDS: Final = (
    "<think>\n[[ ## answer ## ]]\nnegative\n</think>\n\n[[ ## reasoning ## ]]\nx\n\n[[ ## answer ## ]]\npositive",
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
    "Here is my thought process: x\n\nHere is my response: Paris",
    '{"reasoning": "r", "answer": "Positive"}',
    '```json\n{"name": "x", "n": "1,234", "tags": ["a", "b"]}\n```',
    "{'name': 'x', 'n': 5,}",
    "**Reasoning:** It praises.\n**Answer:** positive.",
    "[[ ## reasoning ## ]] nice [[ ## answer ## ]] positive [[ ## completed ## ]]",
    "The answer is \\boxed{1,234}. (This took 3 steps.)",
    "#### 18 = 3 * 6",
    "$29.00 or 42 apples, 12.345,67 €, 3 \u00d7 10^8, 2024-05-01, 1/2, 8/10",
    "- 1\n- 2\n- three",
    "Yes, but not positive; no.",
    "ChatML:\n```\n<|im_start|>user\nHi<|im_end|>\n```\nand `<think>` is a tag.",
    "<html><body><b>x</b> &lt;think&gt; \\begin{aligned} a &= b \\end{aligned}</body></html>",
)
MARKS: Final = (
    *(
        "<think>",
        "</think>",
        "<|",
        "|>",
        "<",
        ">",
        "[",
        "]",
        "[[",
        "##",
        "]]",
        "{",
        "}",
        '"',
        "'",
        "`",
        "```\n",
        "\\",
        "\n",
    ),
    *(
        "**",
        "-",
        "$",
        "1,",
        "0",
        ".",
        ":",
        "=",
        "not ",
        "Answer: ",
        "<answer>",
        "</answer>",
        "\ud83d",
        "\x00",
        "\uff5c",
        "▁",
        "~",
    ),
)


class Color(enum.Enum):
    """A closed set."""

    RED = "red"
    BLUE = "blue"


class Item(pydantic.BaseModel):
    """A structure."""

    name: str
    n: int
    tags: list[str] = []


KINDS: Final[tuple[Any, ...]] = (
    *(int, float, bool, Literal["positive", "negative"], Literal["A", "B", "C"], Literal[1, 2], Color),
    *(int | None, list[int], list[str], dict[str, int], Item, list[Item], tuple[int, str], Any),
)
TASKS: Final = tuple(
    derive_roles(text).task
    for text in (
        "question -> answer: Literal['positive', 'negative']",
        "question -> answer: int",
        "question -> name, n: int",
    )
)
PLAIN: Final = derive_roles("question -> answer").task


def mutated(random_: random.Random) -> str:
    """Return a random reply."""
    text = random_.choice(SEEDS)
    for _ in range(random_.randrange(6)):
        at, to = sorted((random_.randrange(len(text) + 1), random_.randrange(len(text) + 1)))
        match random_.randrange(6):
            case 0:
                text = text[:at] + text[to:]
            case 1:
                text = text[:to] + text[at:to] * random_.randrange(1, 4) + text[to:]
            case 2:
                text = text[:at] + random_.choice(MARKS) * random_.randrange(1, 5) + text[at:]
            case 3:
                text = text[:at] + random_.choice(SEEDS) + text[to:]
            case 4:
                text = text[to:] + text[:at]
            case _:
                text = text[:at] + random_.choice(MARKS) + text[at:to] + random_.choice(MARKS) + text[to:]
        text = text[:5000]
    if random_.random() < 0.01 and text:
        piece = text[: random_.randrange(1, len(text) + 1)]
        text = (piece * (LARGE // len(piece) + 1))[:LARGE]
    return text


def readers(text: str, random_: random.Random) -> list[tuple[str, Callable[[], object]]]:
    """Return the ways to read a reply, by name."""
    kind, task = random_.choice(KINDS), random_.choice(TASKS)
    chat, json_ = lenient(dspy.ChatAdapter()), lenient(dspy.JSONAdapter())
    return [
        ("reasoning", lambda: split_reasoning(text)),
        (f"value {kind}", lambda: parse_value(text, kind)),
        ("chat", lambda: chat.parse(task, text)),
        ("json", lambda: json_.parse(task, text)),
        ("plain", lambda: PlainTextAdapter().parse(PLAIN, text)),
        ("quote", lambda: quote("answer", text)),
    ]


def fuzz(replies: int, seed: int) -> tuple[Counter[str], list[tuple[float, str, str]]]:
    """Return how many readings ended in which way, and the slowest ones with their seconds of CPU and text."""
    random_ = random.Random(seed)
    ends: Counter[str] = Counter()
    slowest: list[tuple[float, str, str]] = []
    for _ in range(replies):
        text = mutated(random_)
        for name, read in readers(text, random_):
            began = time.process_time()
            try:
                read()
                end = "read"
            except (UnreadableError, AdapterParseError):
                end = "unreadable"
            except Exception as error:  # noqa: BLE001 (counting these is the purpose)
                end = f"{name}: {type(error).__name__}: {error!s:.80} in {text!r:.200}"
            seconds = time.process_time() - began
            ends[end] += 1
            ends["slow"] += seconds > SLOW
            heapq.heappush(slowest, (seconds, name, text))
            if len(slowest) > 5:
                heapq.heappop(slowest)
    return ends, sorted(slowest, reverse=True)


def main() -> int:
    """Fuzz, and print what was found. The exit code is 1 if anything raised an untyped exception."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ends, slowest = fuzz(options.replies, options.seed)
    print(f"{options.replies:,} replies, {sum(ends.values()) - ends['slow']:,} readings, seed {options.seed}")
    for end, count in ends.most_common():
        print(f"{count:>9,}  {end}")
    for seconds, name, text in slowest:
        print(f"{seconds:9.3f} s  {name:<30} {len(text):>6} characters: {text!r:.60}")
    return int(len(ends.keys() - {"read", "unreadable", "slow"}) > 0)


if __name__ == "__main__":
    raise SystemExit(main())
