"""Mutated replies through the reader, the parsers and the quoting: does anything raise, or take long?

    uv run python -m benchmarks.fuzz_replies                      # 20,000 replies
    uv run python -m benchmarks.fuzz_replies --replies 1000000 --real FOLDER --templates FOLDER --log fuzz.jsonl

A reply is a seed text of ``fuzz_seeds``, mutated. Of 1,000 replies, two are stretched to 64 kB or are a loop of a short
piece; of 10,000, one has 1 MB.
`--real` is a folder with published replies, `--templates` one with chat templates (``*.jinja``). With `--log`, each
block of 1,000 replies is a line, and the same command goes on where it stopped. The figures are in docs/reliability.md.
"""

from __future__ import annotations

import argparse
import enum
import functools
import gc
import heapq
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import dspy
import pydantic
from dspy.utils.exceptions import AdapterParseError

from benchmarks.fuzz_seeds import BUILT_IN, mutated, real_replies, templated
from moa_dspy.data import choice_letter, parse_score
from moa_dspy.data.metrics.expressions import final_expression
from moa_dspy.data.metrics.hard_tasks import final_answer, read_as
from moa_dspy.data.metrics.numbers import final_number
from moa_dspy.data.metrics.ratings import parse_scores, parse_verdict
from moa_dspy.parsing import UnreadableError, parse_value, split_reasoning
from moa_dspy.runtime.adapters import PlainTextAdapter, lenient
from moa_dspy.runtime.answer_line import AnswerLineAdapter
from moa_dspy.runtime.reading import read
from moa_dspy.signatures import derive_roles, quote

BLOCK: Final = 1000
LARGE: Final = 64_000
HUGE: Final = 1_000_000
SLOW: Final = 0.1  # seconds of CPU for a text of 64 kB; longer texts may take as much per character
_SLOWEST: Final = 5

Reader: TypeAlias = Callable[[], object]
Slowest: TypeAlias = list[tuple[float, str, int, str]]  # seconds, reader, characters, beginning


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
MARKS: Final = (
    *("- ", "1. ", "> ", "answer", "answer:", "**", "[[ ## answer ## ]]", "<answer>", '{"answer":', "```", "#### "),
    *("\\boxed{", "The answer is ", "(A)", "Score: ", "1 +", "$", "\\frac{", "<think>", "{", "[", "not ", "\n", "9"),
)
UNITS: Final = (
    *(*" \t\n*#-_>({[|$.…'\"`\\\u00a0", "\r\n", " \n", "1", "a", "a ", "1,", "1 ", "- ", "- 1\n", "a, ", "<a>", "[[ "),
    *("\\(", "not ", "answer is ", '{"a":', "A. ", "= ", "1. ", "yes ", "or ", "\\boxed{", "<answer>", "```\n"),
    *("n't ", "9 ", "(A) ", "</think>", "<think>"),
)
PLAIN: Final = derive_roles("question -> answer").task
METRICS: Final[tuple[tuple[str, Callable[[str], object]], ...]] = (
    *(("choice_letter", choice_letter), ("parse_score", parse_score), ("final_answer", final_answer)),
    *(("final_expression", final_expression), ("final_number", final_number), ("parse_scores", parse_scores)),
    *(("parse_verdict", parse_verdict), ("read_as", lambda text: read_as(text, "(A)", ("(A)", "(B)")))),
)


def readers(text: str, random_: random.Random) -> list[tuple[str, Reader]]:
    """Return the ways to read a reply, by name. Of types, tasks and metrics, a random one."""
    kind, task = random_.choice(KINDS), random_.choice(TASKS)
    metric, measure = random_.choice(METRICS)
    chat, json_ = lenient(dspy.ChatAdapter()), lenient(dspy.JSONAdapter())
    body = _body(text, random_)
    return [
        ("reader", lambda: read([text], body)),
        ("reasoning", lambda: split_reasoning(text)),
        (f"value {kind}", lambda: parse_value(text, kind)),
        ("chat", lambda: chat.parse(task, text)),
        ("json", lambda: json_.parse(task, text)),
        ("plain", lambda: PlainTextAdapter().parse(PLAIN, text)),
        ("line", lambda: AnswerLineAdapter().parse(random_.choice(TASKS[:2]), text)),
        ("quote", lambda: quote("answer", text)),
        (metric, lambda: measure(text)),
    ]


def _body(text: str, random_: random.Random) -> dict[str, Any]:
    """Return a response of a random form that contains the text."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    match random_.randrange(6):
        case 0:
            message = {"content": None, "reasoning_content": text}
        case 1:
            message = {"content": [{"type": "thinking", "thinking": text}, {"type": "text", "text": "Paris"}]}
        case 2:
            message = {"content": None, "refusal": text}
        case 3:
            message = {"content": text, "reasoning": text, "error": {"message": text, "code": 502}}
    finish = random_.choice(["stop", "length", "content_filter", "error", None, text[:20]])
    usage = random_.choice([{"prompt_tokens": 1, "completion_tokens": 2}, {"prompt_tokens": text[:9]}, None])
    return {"choices": [{"index": 0, "finish_reason": finish, "message": message}], "usage": usage}


def stretched(text: str, length: int, random_: random.Random) -> str:
    """Return a text of that length that repeats a piece of ``text``, with the rest before or behind it."""
    if not text:
        return ""
    at, to = sorted((random_.randrange(len(text)), random_.randrange(1, len(text) + 1)))
    piece = text[at:to] or text
    middle = piece * ((length - len(text)) // len(piece) + 1)
    return (text[:at] + middle + text[at:])[:length]


def looped(length: int, random_: random.Random) -> str:
    """Return a text of that length that a few marks begin and end, and that repeats a short piece between them."""
    head, tail = ("".join(random_.choices(MARKS, k=random_.randrange(3))) for _ in range(2))
    unit = "".join(random_.choices(UNITS, k=random_.choice((1, 1, 2))))
    return (head + unit * (length // len(unit)))[: length - len(tail)] + tail


def block(number: int, seed: int, seeds: tuple[str, ...], count: int = BLOCK) -> tuple[Counter[str], Slowest]:
    """Return how the readings of a block of replies ended, and the slowest ones."""
    random_ = random.Random(f"{seed} {number}")
    ends: Counter[str] = Counter()
    slowest: Slowest = []
    for index in range(count):
        text = mutated(random_, seeds)
        if index % 500 == 0:
            length = HUGE if index == 0 and number % 10 == 0 else LARGE
            text = stretched(text, length, random_) if random_.random() < 0.5 else looped(length, random_)
        for name, reader in readers(text, random_):
            seconds, end = _timed(name, reader, text)
            ends[end] += 1
            ends["slow"] += seconds > SLOW * max(1, len(text) / LARGE)
            heapq.heappush(slowest, (seconds / max(1, len(text) / LARGE), name, len(text), text[:300]))
            if len(slowest) > _SLOWEST:
                heapq.heappop(slowest)
    return ends, slowest


def _timed(name: str, reader: Reader, text: str) -> tuple[float, str]:
    """Return the seconds of CPU that a reading takes, the least of three if they are many, and how it ended."""
    seconds, end = float("inf"), ""
    for _ in range(3):
        if len(text) > 10_000:
            for cached in _caches():
                cached.cache_clear()
        began = time.process_time()
        end = _ended(name, reader, text)
        seconds = min(seconds, time.process_time() - began)
        if seconds <= SLOW * max(1, len(text) / LARGE):
            break
    return seconds, end


def _ended(name: str, reader: Reader, text: str) -> str:
    try:
        reader()
    except (UnreadableError, AdapterParseError):
        return "unreadable"
    except Exception as error:  # noqa: BLE001 (counting these is the purpose)
        return f"{name}: {type(error).__name__}: {error!s:.80} in {text!r:.200}"
    return "read"


@functools.cache
def _caches() -> list[Any]:
    """Return what remembers texts that were read, so that a reading is timed as the first one."""
    cached = type(functools.lru_cache(len))
    found = [one for one in gc.get_objects() if isinstance(one, cached)]
    return [one for one in found if getattr(one, "__name__", "") in ("_split", "_quotable")]


def _finished(log: Path | None, seed: int) -> Iterator[dict[str, Any]]:
    lines = log.read_text(encoding="utf-8").splitlines() if log is not None and log.exists() else []
    yield from (entry for entry in map(json.loads, lines) if entry["seed"] == seed)


def fuzz(options: argparse.Namespace) -> tuple[int, Counter[str], Slowest]:
    """Return the number of replies, how many readings ended in which way, and the slowest ones per 64 kB."""
    seeds = tuple(
        [*BUILT_IN, *(real_replies(options.real) if options.real else ())]
        + 20 * list(templated(options.templates) if options.templates else ())
    )
    done = {entry["block"]: entry for entry in _finished(options.log, options.seed)}
    mine = range(options.shard, -(-options.replies // BLOCK), options.shards)
    for number in mine:
        if number in done:
            continue
        ends, slowest = block(number, options.seed, seeds, min(BLOCK, options.replies))
        done[number] = {"seed": options.seed, "block": number, "ends": ends, "slowest": slowest}
        if options.log is not None:
            with options.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[number]) + "\n")
    ends = sum((Counter(entry["ends"]) for entry in done.values()), start=Counter[str]())
    slowest = [(row[0], row[1], row[2], row[3]) for entry in done.values() for row in entry["slowest"]]
    return min(BLOCK, options.replies) * len(done), ends, heapq.nlargest(_SLOWEST, slowest)


def main() -> int:
    """Fuzz, and print what was found. The exit code is 1 if anything raised an untyped exception."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--templates", type=Path)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--shard", type=int, default=0, help="do each block of this number modulo --shards")
    parser.add_argument("--shards", type=int, default=1)
    replies, ends, slowest = fuzz(parser.parse_args())
    print(f"{replies:,} replies, {sum(ends.values()) - ends['slow']:,} readings")
    for end, count in ends.most_common():
        print(f"{count:>9,}  {end}")
    for seconds, name, length, text in slowest:
        print(f"{seconds:9.3f} s per 64 kB  {name:<30} {length:>7} characters: {text!r:.60}")
    return int(len(ends.keys() - {"read", "unreadable", "slow"}) > 0)


if __name__ == "__main__":
    sys.exit(main())
