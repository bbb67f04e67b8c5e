"""Runs against a provider that fails all the time: do they end, within their deadline, with books that add up?

    uv run python -m benchmarks.fault_runs                 # 1,000 runs, 5 agents, 3 layers
    uv run python -m benchmarks.fault_runs --runs 40 --processes 1
    nice uv run python -m benchmarks.fault_runs --runs 5000 --log faults.jsonl

Every call fails with probability 0.3, by one of the kinds in ``FAULTS``, drawn from a seed, the prompt and how often it
was sent. Of the others, a fifth is written in an odd way, with reasoning or tokens of a chat template (``ODDITIES``).
Half of the runs are on a task with a typed output. The figures are in docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from support.loopback import Body, Call, Hang, Http, Loopback, Reply, Reset, completion, context_too_long, refusal
from support.runs import Watched, in_role, open_files

from moa_dspy import AllProposalsFailedError, AttentionMoA, Budget, Tolerance, Trace
from moa_dspy.runtime.concurrency import limit_concurrency
from moa_dspy.trace import watch

AGENTS, LAYERS, RATE = 5, 3, 0.3
DEADLINE, SHORT_DEADLINE = 90.0, 5.0  # of each run; the short one of every tenth
TIMEOUT = 2.5  # of each call
UNDER_WAY = 48  # calls at once; with more, answered calls would be late because the CPU is busy
AT_ONCE = 16  # runs
BLOCK = 100  # runs

SECRET = "PROVIDER-SAYS-NO"
THOUGHT = "PRIVATE-THOUGHT"


def odd(message: Mapping[str, Any], finish: str = "stop", **others: Any) -> Http:
    """A successful response that is no plain answer. The provider adds its usage."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}, **others}
    return Http(200, {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice]})


FAULTS: dict[str, Reply] = {
    "429": refusal(429, f"{SECRET}: slow down", retry_after="0.05"),
    "500": refusal(500, SECRET),
    "503": refusal(503, SECRET),
    "reset": Reset(),
    "hang": Hang(),
    "half a body": Http(200, f'{{"choices": [{{"message": {{"content": "{SECRET}'.encode()),
    "empty text": "",
    "wrong shape": Http(200, {"result": SECRET}),
    "context": context_too_long(f"{SECRET}: This model's maximum context length is 10 tokens."),
    "401": refusal(401, f"{SECRET}: Incorrect API key provided"),
    "refusal": odd({"content": None, "refusal": f"{SECRET}: I cannot help with that request."}),
    "filtered": odd({"content": f"{SECRET} The first step is to"}, "content_filter"),
    "reasoning only": odd({"content": None, "reasoning_content": f"{THOUGHT}: let me think"}, "length"),
    "error inside": odd({"content": ""}, "error", error={"message": f"{SECRET}: upstream broke off", "code": 502}),
    "no system role": refusal(400, f"{SECRET}: System role not supported"),
    "dashes": "-" * 16_000,
}
# Replies that are right, however they are written: the answer takes the place of ANSWER.
ODDITIES = (
    f"<think>{THOUGHT}: 7\n[[ ## answer ## ]]\n7</think>ANSWER",
    f"{THOUGHT}: 7</think>ANSWER",
    f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>ANSWER<|return|>",
    f"[THINK]{THOUGHT}[/THINK]ANSWER",
    "ANSWER<|im_end|>",
    "Par\ud83dANSWER",
)
# What of a failure could find its way into a prompt: the provider's words, or those of DSPy and of this package.
ERROR_TEXT = re.compile(rf"{SECRET}|{THOUGHT}|Traceback|Exception|adapter_parse_error|no reply in time|\bNone\b")
TASKS = {"text": "question -> answer", "typed": "question -> answer: int"}


class Provider:
    """Replies as a model would, or fails; counts what it did for each run."""

    def __init__(self, seed: int, rate: float = RATE) -> None:
        self.failed: Counter[str] = Counter()
        self.leaks: list[str] = []
        self.by_run: dict[str, list[Call]] = defaultdict(list)
        self._seed, self._rate = seed, rate
        self._sent: Counter[int] = Counter()
        self._lock = threading.Lock()

    def append(self, call: Call) -> None:
        """Note a request (Loopback keeps its record by calling this)."""
        with self._lock:
            self.by_run[run_of(call.prompt)].append(call)
            if found := ERROR_TEXT.search(call.prompt):
                self.leaks.append(found.group())

    def __call__(self, body: Body) -> Reply:
        key = hash(json.dumps(body))
        self._sent[key] += 1
        draw = random.Random(f"{self._seed} {json.dumps(body)} {self._sent[key]}")
        if draw.random() >= self._rate:
            text = in_role(body, str(draw.randrange(100)), typed="typed" in str(body["messages"]))
            return draw.choice(ODDITIES).replace("ANSWER", text) if draw.random() < 0.2 else text
        name = draw.choice(list(FAULTS))
        typed = "[[ ##" in str(body["messages"][0])
        if (name == "dashes" and not typed and "####" not in str(body["messages"])) or (
            name == "no system role" and body["model"] != "model-4"
        ):
            name = "500"  # dashes are a text; what one server rejects is not sent to it again
        self.failed[name] += 1
        if name == "wrong shape" and draw.random() < 0.5 and typed:
            return f"[[ ## answer ## ]]\n{SECRET}"  # of a typed output, in place of the number
        reply = FAULTS[name]
        if isinstance(reply, Http) and isinstance(reply.body, dict) and "choices" in reply.body:
            usage = completion(body, str(reply.body["choices"]))["usage"]
            return Http(200, {**reply.body, "usage": usage})
        return reply


def tokens_of(call: Call) -> int:
    """Return the tokens that the server reported in its reply."""
    body = call.reply.body if isinstance(call.reply, Http) else None
    usage = body.get("usage", {}) if isinstance(body, dict) else call.usage
    return int(usage.get("total_tokens", 0))


def run_of(prompt: str) -> str:
    found = re.search(r"run-\d+-\d+-\w+", prompt)
    return found.group() if found else "?"


@dataclass
class Figures:
    """What came of the runs of one process."""

    runs: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    stopped_by: Counter[str] = field(default_factory=Counter)
    layers: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    server_calls: int = 0
    tokens: int = 0
    server_tokens: int = 0
    not_counted: int = 0  # runs whose trace has fewer calls than the server has seen
    never_sent: int = 0  # calls that were counted and given up before they reached the server
    unanswered: int = 0  # calls that the traces say were cut short
    overcounted: int = 0  # runs whose trace has more calls than the server has seen and than were cut short
    tokens_differ: int = 0  # runs whose trace has other tokens than the replies that were read
    late: int = 0  # runs that ended more than a second after their deadline, stalls of the whole process not counted
    late_with_stalls: int = 0
    latest: float = 0.0  # seconds after its deadline, stalls not counted
    longest_stall: float = 0.0  # seconds in which the event loop got no processor
    longest: float = 0.0
    error_texts: int = 0
    threads_left: int = 0
    tasks_left: int = 0
    files_left: int = 0
    connections_left: int = 0
    seconds: float = 0.0
    stalls: list[tuple[float, float]] = field(default_factory=list, repr=False)

    def __add__(self, other: Figures) -> Figures:
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in vars(self))
        return Figures(
            **{n: max(a, b) if n in ("latest", "longest", "longest_stall", "seconds") else a + b for n, a, b in pairs}
        )

    @property
    def broken(self) -> list[str]:
        """What should be 0 and is not."""
        books = ("not_counted", "overcounted", "tokens_differ", "late", "error_texts")
        left = ("threads_left", "tasks_left", "files_left", "connections_left")
        wrong = [f"{name}={getattr(self, name)}" for name in (*books, *left) if getattr(self, name)]
        unexpected = set(self.errors) - {"AllProposalsFailedError"}
        return [*wrong, *sorted(unexpected)]


def shard(runs: int, number: int = 0, seed: int = 0, timeout: float = TIMEOUT, under_way: int = UNDER_WAY) -> Figures:
    """Make ``runs`` runs in this process."""
    limit_concurrency(under_way)
    asyncio.run(_runs(1, -1, seed, timeout))  # what is set up once is there
    threads, files = threading.active_count(), open_files()
    figures = asyncio.run(_runs(runs, number, seed, timeout))
    limit_concurrency(None)
    figures.threads_left = threading.active_count() - threads
    figures.files_left = open_files() - files
    return figures


async def _runs(runs: int, number: int, seed: int, timeout: float) -> Figures:
    provider = Provider(seed + number)
    figures = Figures(runs=runs)
    began = time.perf_counter()
    heart = asyncio.create_task(_beat(figures.stalls))
    places = asyncio.Semaphore(AT_ONCE)
    record: Any = provider
    with Loopback(provider, calls=record) as server:
        lms = [server.lm(f"model-{i}", num_retries=2) for i in range(AGENTS)]
        tolerance = Tolerance(timeout=timeout)
        programs = {name: AttentionMoA(task, lms, layers=LAYERS, tolerance=tolerance) for name, task in TASKS.items()}

        async def one(index: int) -> None:
            name = list(TASKS)[index % 2]
            async with places:
                deadline = DEADLINE if index % 10 else SHORT_DEADLINE
                await _one(programs[name], f"run-{number + 1}-{index}-{name}", deadline, provider, figures)

        await asyncio.gather(*(one(index) for index in range(runs)))
        for lm in lms:
            await lm.aclose()
        await asyncio.sleep(0.2)
        figures.connections_left = server.open_connections
    heart.cancel()
    await asyncio.gather(heart, return_exceptions=True)
    figures.longest_stall = max((lasted for _, lasted in figures.stalls), default=0.0)
    figures.stalls.clear()
    figures.tasks_left = len(asyncio.all_tasks()) - 1
    figures.faults = provider.failed
    figures.error_texts = len(provider.leaks)
    figures.seconds = time.perf_counter() - began
    return figures


async def _beat(stalls: list[tuple[float, float]]) -> None:
    """Note when the event loop comes to its turn too late: the machine is busy with something else."""
    while True:
        asleep = time.perf_counter()
        await asyncio.sleep(0.02)
        late = time.perf_counter() - asleep - 0.02
        if late > 0.05:
            stalls.append((asleep + 0.02 + late, late))


async def _one(program: AttentionMoA, name: str, deadline: float, provider: Provider, figures: Figures) -> None:
    seen = Watched()
    began = time.perf_counter()
    with watch(seen):
        try:
            prediction = await program.acall(question=f"What is the number of {name}?", budget=Budget(seconds=deadline))
        except AllProposalsFailedError as error:
            figures.errors[type(error).__name__] += 1
        except Exception as error:  # noqa: BLE001 (counted, and reported as broken)
            figures.errors[f"{type(error).__name__}: {error}"[:200]] += 1
        else:
            figures.answered += prediction.answer not in (None, "")
    seconds = time.perf_counter() - began
    figures.longest = max(figures.longest, seconds)
    await asyncio.sleep(0.1)  # so that the server has seen which connections were given up, and the heart a stall
    over = seconds - deadline
    stalled = sum(lasted for at, lasted in figures.stalls if at > began + deadline - 1)
    figures.late_with_stalls += over > 1
    figures.late += over - stalled > 1
    figures.latest = max(figures.latest, over - stalled)
    _compare(seen.trace, provider.by_run.pop(name, []), figures)


def _compare(trace: Trace, calls: list[Call], figures: Figures) -> None:
    tokens = sum(tokens_of(call) for call in calls if call.hung_up is None)
    figures.stopped_by[trace.stopped_by] += 1
    figures.layers[trace.layers] += 1
    figures.failures.update(step.error.kind for step in trace.steps if step.error is not None)
    figures.calls += trace.calls
    figures.server_calls += len(calls)
    figures.not_counted += trace.calls < len(calls)
    unanswered, never_sent = sum(step.unanswered for step in trace.steps), max(0, trace.calls - len(calls))
    figures.never_sent += never_sent
    figures.unanswered += unanswered
    figures.overcounted += never_sent > unanswered
    figures.tokens += trace.tokens.total
    figures.server_tokens += tokens
    figures.tokens_differ += trace.tokens.total != tokens


def measure(
    runs: int, processes: int = 2, seed: int = 0, timeout: float = TIMEOUT, under_way: int = UNDER_WAY
) -> Figures:
    """Make ``runs`` runs in ``processes`` new processes, whose threads and files are the runs' own."""
    shares = [runs // processes] * processes
    shares[0] += runs - sum(shares)
    of_one = partial(shard, seed=seed, timeout=timeout, under_way=under_way)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        parts = list(pool.map(of_one, shares, range(0, 2 * len(shares), 2)))
    return sum(parts[1:], start=parts[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help=f"a line for each {BLOCK} runs; the same command goes on from there")
    options = parser.parse_args()
    text = options.log.read_text() if options.log is not None and options.log.exists() else ""
    parts = [restored(json.loads(line)) for line in text.splitlines()]
    while (done := sum(part.runs for part in parts)) < options.runs:
        seed = options.seed + 100 * len(parts)
        parts.append(measure(min(BLOCK, options.runs - done), options.processes, seed))
        if options.log is not None:
            with options.log.open("a") as file:
                file.write(json.dumps(vars(parts[-1])) + "\n")
    total = sum(parts[1:], start=parts[0])
    sys.stdout.write(json.dumps(vars(total), indent=2) + "\n")
    sys.stdout.write(f"broken: {', '.join(total.broken) or 'nothing'}\n")
    return int(bool(total.broken))


def restored(values: dict[str, Any]) -> Figures:
    """Return the figures of a line of the log."""
    read: dict[str, Any] = {
        name: Counter(value) if isinstance(value, dict) else value for name, value in values.items()
    }
    return Figures(**read)


if __name__ == "__main__":
    sys.exit(main())
