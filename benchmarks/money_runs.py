"""Random programs on a provider that bills: are the tokens, dollars and calls that a run reports those on the bill?

    uv run python -m benchmarks.money_runs                          # 10,000 runs
    uv run python -m benchmarks.money_runs --runs 500 --seed 7 --log money.jsonl

A run is a random preset with random agents, layers, attention, faults, budget and cancellation, on a loopback provider
without latency. Every twentieth is an ``evaluate`` of five examples. The bill is what the provider counted for the
replies it wrote. Calls that were cut short (``unanswered``) may be on it. With `--log`, a block of 100 runs is a line,
and the same command goes on where it stopped. The figures are in docs/reliability.md.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import dspy
from support.loopback import Body, Call, Hang, Http, Loopback, Reply, Reset, completion, context_too_long, refusal
from support.runs import Watched, in_role

from moa_dspy import (
    Agent,
    AllProposalsFailedError,
    AttentionMoA,
    Budget,
    Tolerance,
    Usage,
    attention_moa,
    evaluate,
    mixture_of_agents,
    self_consistency,
    self_moa,
    single_model,
)
from moa_dspy.errors import MoAError
from moa_dspy.runtime import event_loop
from moa_dspy.trace import watch

BLOCK: Final = 100
PRICE: Final = {"prompt": 3.0, "completion": 15.0}  # dollars per million tokens
FAULTS: Final = (
    "429", "500", "reset", "hang", "half a body", "empty text", "wrong shape", "context", "filtered", "refused",
    "error inside", "cut", "reasoning only",
)  # fmt: skip
REPORTS: Final = ("whole", "whole", "whole", "none", "prompt", "completion", "texts", "nonsense")
TASKS: Final = {"text": "question -> answer", "typed": "question -> answer: int"}


@dataclass(frozen=True)
class Billed(Http):
    """A completion that costs tokens, whether or not its body says so."""

    prompt: int = 0
    completion: int = 0
    report: str = "whole"


@dataclass(frozen=True)
class Plan:
    """What a run is like, all of it drawn from its name."""

    name: str
    rate: float  # of faults
    report: str  # how much of the usage the provider reports
    typed: bool

    @classmethod
    def of(cls, name: str) -> Plan:
        draw = random.Random(name)
        typed = draw.random() < 0.4
        return cls(name, draw.choice([0.0, 0.0, 0.1, 0.4]), draw.choice(REPORTS), typed)


class Provider:
    """Answers, fails and bills as the plan of the run says whose name is in the prompt."""

    def __init__(self) -> None:
        self.by_run: dict[str, list[Call]] = defaultdict(list)
        self._sent: Counter[str] = Counter()
        self._lock = threading.Lock()

    def append(self, call: Call) -> None:
        """Note a request (Loopback keeps its record by calling this)."""
        with self._lock:
            self.by_run[_run_in(call.body)].append(call)

    def __call__(self, body: Body) -> Reply:
        key = json.dumps(body)
        self._sent[key] += 1
        plan, draw = Plan.of(_run_in(body)), random.Random(f"{key} {self._sent[key]}")
        text = in_role(body, str(draw.randrange(100)), typed=plan.typed)
        if draw.random() >= plan.rate:
            return _billed(body, text, plan.report)
        match draw.choice(FAULTS):
            case "429":
                return refusal(429, "slow down", retry_after="0.01")
            case "500":
                return refusal(500, "out of order")
            case "reset":
                return Reset()
            case "hang":
                return Hang()
            case "half a body":
                return Http(200, b'{"choices": [{"message": {"content": "')
            case "context":
                return context_too_long()
            case "empty text":
                return _billed(body, "", plan.report)
            case "wrong shape":
                return _billed(body, "[[ ## other ## ]]\nno", plan.report)
            case "filtered":
                return _billed(body, text, plan.report, finish_reason="content_filter")
            case "refused":
                message = {"content": None, "refusal": "I cannot do that."}
                return _billed(body, "I cannot do that.", plan.report, message=message)
            case "error inside":
                return _billed(body, text, plan.report, finish_reason="error", error={"code": 502, "message": "broke"})
            case "cut":
                return _billed(body, text[:3], plan.report, finish_reason="length")
            case _:
                message = {"content": None, "reasoning_content": "Let me think."}
                return _billed(body, "Let me think.", plan.report, finish_reason="length", message=message)


def _billed(body: Body, text: str, report: str, **choice: Any) -> Billed:
    """Return a completion and its bill."""
    content = completion(body, text)
    usage = content["usage"]
    whole = content["choices"][0]
    whole["message"] |= choice.pop("message", {})
    whole |= choice
    match report:
        case "none":
            del content["usage"]
        case "prompt":
            content["usage"] = {"prompt_tokens": usage["prompt_tokens"]}
        case "completion":
            content["usage"] = {"completion_tokens": usage["completion_tokens"]}
        case "texts":
            content["usage"] = {name: str(count) for name, count in usage.items()}
        case "nonsense":
            content["usage"] = {**usage, "prompt_tokens": -5}
    return Billed(200, content, prompt=usage["prompt_tokens"], completion=usage["completion_tokens"], report=report)


def _run_in(body: Body) -> str:
    found = re.search(r"run-\d+-\d+", json.dumps(body["messages"]))
    return found.group() if found else "?"


@dataclass
class Figures:
    """What came of the runs."""

    runs: int = 0
    answered: int = 0
    evaluations: int = 0
    cancelled: int = 0
    calls: int = 0
    unanswered: int = 0
    billed: int = 0
    reported: int = 0
    in_flight: int = 0  # tokens on the bill whose replies nobody read
    completed: int = 0  # runs in which tokens were estimated
    problems: list[str] = field(default_factory=list)

    def __add__(self, other: Figures) -> Figures:
        return Figures(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def block(number: int, seed: int, runs: int = BLOCK) -> Figures:
    """Make a block of runs, a few at once."""
    figures, provider = Figures(), Provider()
    record: Any = provider
    with Loopback(provider, calls=record) as server:
        lms = [server.lm(f"model-{index}") for index in range(3)]
        names = [f"run-{seed * 1000 + number}-{index}" for index in range(runs + runs // 20)]
        event_loop.run(lambda: _runs(figures, provider, lms, names[:runs]))
        for name in names[runs:]:
            _evaluate(figures, provider, lms, name)
    return figures


async def _runs(figures: Figures, provider: Provider, lms: Sequence[dspy.LM], names: Sequence[str]) -> None:
    places = asyncio.Semaphore(4)

    async def one(name: str) -> None:
        async with places:
            await _run(figures, provider, lms, name)

    await asyncio.gather(*(one(name) for name in names))


def program(name: str, lms: Sequence[dspy.LM]) -> AttentionMoA:
    """Return the program of a run."""
    draw, plan = random.Random(f"{name} program"), Plan.of(name)
    options: dict[str, Any] = {"tolerance": Tolerance(timeout=1.0, retries=draw.choice([0, 1, 2]), patience=0.2)}
    agents = [Agent(lm, price=PRICE) for lm in lms[: draw.randrange(1, 4)]]
    task, layers = TASKS["typed" if plan.typed else "text"], draw.choice([1, 1, 2])
    match draw.randrange(5):
        case 0:
            return single_model(task, agents[0], **options)
        case 1:
            return self_consistency(task, agents[0], samples=draw.randrange(2, 5), **options)
        case 2:
            return self_moa(task, agents[0], samples=draw.randrange(2, 4), layers=draw.choice([2, 2, 3]), **options)
        case 3:
            return mixture_of_agents(task, agents, layers=draw.choice([2, 2, 3]), **options)
    attention = draw.choice(["full", "cross", "self", "none"] if len(agents) > 1 else ["self", "none"])
    return attention_moa(task, agents, layers=layers, attention=attention, **options)


def budget(name: str) -> Budget | None:
    """Return the budget of a run."""
    draw = random.Random(f"{name} budget")
    return draw.choice([
        None, None, Budget(calls=draw.randrange(1, 20)), Budget(tokens=draw.randrange(2000, 8000)),
        Budget(usd=draw.uniform(0.01, 0.05)), Budget(seconds=draw.uniform(0.3, 2)),
    ])  # fmt: skip


async def _run(figures: Figures, provider: Provider, lms: Sequence[dspy.LM], name: str) -> None:
    seen, limits, moa = Watched(), budget(name), program(name, lms)
    draw = random.Random(f"{name} cancel")
    figures.runs += 1
    with watch(seen):
        task = asyncio.create_task(moa.acall(question=f"What is the number of {name}?", budget=limits))
        if draw.random() < 0.15:
            await asyncio.wait([task], timeout=draw.random() * 0.2)
            task.cancel()
        try:
            await task
            figures.answered += 1
        except asyncio.CancelledError:
            figures.cancelled += 1
        except AllProposalsFailedError:
            pass
        except MoAError as error:
            if "budget" not in str(error):
                figures.problems.append(f"{name}: {type(error).__name__}: {error}")
    await asyncio.sleep(0.03)  # the server has seen which connections were given up
    calls = provider.by_run.pop(name, [])
    if seen.events:
        compare(figures, name, seen.trace.usage, calls, limits)
    elif calls:
        figures.problems.append(f"{name}: {len(calls)} calls and no trace")


def _evaluate(figures: Figures, provider: Provider, lms: Sequence[dspy.LM], name: str) -> None:
    """Evaluate a program on five examples."""
    limits, moa = budget(name), program(name, lms)
    figures.evaluations += 1
    examples = [dspy.Example(question=f"Question {i} of {name}?", answer="1").with_inputs("question") for i in range(5)]
    try:
        used = evaluate(moa, examples, lambda example, prediction: 1.0, budget=limits, concurrency=3).usage
    except MoAError as error:
        provider.by_run.pop(name, None)
        known = ("budget", "fails on")
        if not any(word in str(error) for word in known):
            figures.problems.append(f"{name}: {type(error).__name__}: {error}")
        return
    time.sleep(0.03)
    compare(figures, name, used, provider.by_run.pop(name, []), limits)


def compare(figures: Figures, name: str, used: Usage, calls: Sequence[Call], limits: Budget | None) -> None:
    """Compare what was reported with the bill."""
    replies = [(call, call.reply) for call in calls if isinstance(call.reply, Billed)]
    read = [reply for call, reply in replies if call.hung_up is None and call.answered is not None]
    lost = [reply for call, reply in replies if call.hung_up is not None or call.answered is None]
    bill = sum(reply.prompt + reply.completion for reply in read)
    figures.calls += len(calls)
    figures.unanswered += used.unanswered
    figures.billed += bill
    figures.reported += used.tokens.total
    figures.in_flight += sum(reply.prompt + reply.completion for reply in lost)
    figures.completed += used.estimated
    problems = []
    if not len(calls) <= used.paid_calls <= len(calls) + used.unanswered:
        problems.append(f"{used.paid_calls} calls reported, {used.unanswered} unanswered, {len(calls)} received")
    if len(lost) > used.unanswered:
        problems.append(f"{len(lost)} replies written and not read, {used.unanswered} reported as unanswered")
    if limits is not None and limits.calls is not None and len(calls) > limits.calls:
        problems.append(f"{len(calls)} calls with a budget of {limits.calls}")
    least, most = bill, bill + sum(reply.prompt + reply.completion for reply in lost)
    complete = all(reply.report in ("whole", "texts") for reply in read)
    if complete and not least <= used.tokens.total <= most:
        problems.append(f"{used.tokens.total} tokens reported, {bill} billed, {most - least} in flight")
    if complete and not used.unanswered:
        dollars = sum(reply.prompt * PRICE["prompt"] + reply.completion * PRICE["completion"] for reply in read) / 1e6
        if used.cost_usd is None or abs(used.cost_usd - dollars) > 1e-9:
            problems.append(f"{used.cost_usd} dollars reported, {dollars} billed")
    if not complete and not used.unanswered and any(reply.completion for reply in read):
        known = sum(
            (reply.prompt if reply.report in ("whole", "texts", "prompt") else 0)
            + (reply.completion if reply.report in ("whole", "texts", "completion") else 0)
            for reply in read
        )
        if not used.estimated:
            problems.append("usage is missing, and nothing is marked as estimated")
        if not (known < used.tokens.total and used.tokens.prompt and used.tokens.completion):
            problems.append(f"{used.tokens} reported, {known} known: a missing part is not completed")
        if used.cost_usd is None:
            problems.append("dollars are unknown although the price is given")
    figures.problems += [f"{name}: {problem}" for problem in problems]


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs, and print the books. The exit code is 1 if they do not add up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args(argv)
    text = options.log.read_text() if options.log is not None and options.log.exists() else ""
    done = {entry["block"]: entry["figures"] for entry in map(json.loads, text.splitlines())}
    for number in range(-(-options.runs // BLOCK)):
        if number not in done:
            done[number] = vars(block(number, options.seed, min(BLOCK, options.runs)))
            if options.log is not None:
                text += json.dumps({"block": number, "figures": done[number]}) + "\n"
                options.log.write_text(text)
    total = sum((Figures(**figures) for figures in done.values()), start=Figures())
    for name, value in vars(total).items():
        print(f"{name:<12} {len(value) if isinstance(value, list) else f'{value:,}'}")
    for problem in total.problems[:50]:
        print(f"    {problem}")
    return int(bool(total.problems))


if __name__ == "__main__":
    sys.exit(main())
