"""Commands that are killed at a random point and started again: is anything lost, or paid for twice?

    nice uv run python -m benchmarks.kill_runs                       # 25 points of each command
    nice uv run python -m benchmarks.kill_runs --points 3 --commands eval --seed 7

A provider on loopback counts the requests and bills the tokens; its replies depend on the request alone. A command runs
once without a kill, in a folder of its own: that is what it should cost and say. Then, for each point, it is started in
a new folder, gets SIGKILL after a random number of requests or seconds (a third of them once more after the restart),
and is started until it ends by itself. The figures are in docs/reliability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from support.loopback import Body, Call, Loopback
from support.runs import in_role, until

from moa_dspy.cli import main as main_of_cli

os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", HF_HUB_OFFLINE="1")
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["moa_dspy", *(f"moa_dspy.cli.commands.{name}" for name in ("ask", "eval", "optimize", "compare"))]
)

ITEMS: Final = 12
LAYERS: Final = {"ask": 2}
LATENCY: Final = 0.003  # so that some calls are in flight
SETTLED: Final = 3.0  # seconds after which a client has kept a reply, also if it gets hardly any processor

COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    "ask": ("ask", "item 1 of all", "--config", "moa.toml", "--trace", "trace.json", "--json"),
    "eval": ("eval", "--config", "moa.toml", "--data", "items.jsonl", "--metric", "exact", "--out", "run.jsonl",
             "--name", "program", "--json", "--concurrency", "4"),
    "optimize": ("optimize", "--config", "moa.toml", "--data", "items.jsonl", "--metric", "exact", "--n-trials", "3",
                 "--method", "bootstrap", "--storage", "study.db", "--no-explain", "--out", "tuned.json", "--record",
                 "record.json", "--report", "report.html", "--json", "--yes", "--force"),
    "search": ("optimize", "--only", "architecture", "--config", "moa.toml", "--data", "items.jsonl", "--metric",
               "exact", "--n-trials", "12", "--storage", "study.db", "--no-explain", "--out", "tuned.json", "--json",
               "--yes", "--force"),
    "compare": ("compare", "--config", "moa.toml", "--data", "items.jsonl", "--metric", "exact", "--out",
                "winner.json", "--json", "--force"),
}  # fmt: skip
CONFIG: Final = """
[[agents]]
model = "openai/one"
api_base = "{url}"

[[agents]]
model = "openai/two"
api_base = "{url}"

[architecture]
layers = {layers}

[space]
samples = 1
layers = [1, 2]
attention = ["none", "full"]
temperatures = [0.7, 1.0]
"""
# Parts of a result that depend on the clock, on what the response cache had, or on trials that were interrupted.
_PASSING: Final = frozenset(
    {"seconds", "seconds_per_item", "cached_calls", "tokens", "cost", "cost_usd", "calls", "spent", "date", "rounds"}
)


@dataclass
class Killed:
    """What came of one point."""

    command: str
    kills: int = 0
    starts: int = 0
    problems: list[str] = field(default_factory=list)
    repeated: int = 0  # requests that were paid for twice because they were in flight at a kill
    in_flight: int = 0  # requests in flight at the kills
    requests: int = 0
    billed: int = 0
    reported: int = 0
    cached: int = 0


class Provider:
    """Answers as the request says, and knows what was in flight when."""

    def __init__(self) -> None:
        self.server = Loopback(self._reply, self._hold)
        self.arrived = threading.Condition()
        self.killed_at: list[float] = []
        self.starts: list[int] = []  # the number of requests before each start

    def _reply(self, body: Body) -> str:
        with self.arrived:
            self.arrived.notify_all()
        draw = random.Random(json.dumps(body))
        number = int(str(body["messages"][-1]["content"]).partition("item ")[2].split()[0])
        right = draw.random() < (0.7 if body["model"] == "one" else 0.5)
        text = in_role(body, str(number % 3) if right else "none", typed=False)
        if "NoulEvidence" in str(body["messages"][0]):  # a decision with its probability
            text = text.replace("]]\ntrue", ']]\n{"noul": 0.8}').replace(
                '"improved": "true"', '"improved": {"noul": 0.8}'
            )
        return text

    async def _hold(self, call: Call) -> None:
        await asyncio.sleep(LATENCY)

    def billed(self, since: int = 0) -> int:
        return sum(call.usage.get("total_tokens", 0) for call in self.server.calls[since:])

    def in_flight(self, moment: float, before: int) -> list[Call]:
        """Return the calls that a client killed at that moment may not have kept, of those from number ``before``.

        They are the last two on each connection: of the last one the client had not read the reply, or had just done
        so; and it may send a request before it has kept the reply to the one before.
        """
        until(lambda: not self.server.open_connections)
        last: dict[int, list[Call]] = {}
        for call in self.server.calls[before:]:
            last.setdefault(call.connection, []).append(call)
        return [
            call
            for calls in last.values()
            for call in calls[-2:]
            if call.answered is None or call.answered > moment - SETTLED
        ]


class Start:
    """A started command: a new process with a response cache in the folder.

    It is forked from a process that has imported the libraries, because importing takes longer than the work.

    Args:
        command: the name of the command.
        folder: where the command runs.
        log: the folder of its outputs; default: ``folder``.
        before: called in the new process before the command.
    """

    def __init__(
        self, command: str, folder: Path, log: Path | None = None, before: Callable[[], None] | None = None
    ) -> None:
        self._log = log or folder
        self.process = _CONTEXT.Process(target=_run, args=(COMMANDS[command], folder, self._log, before))
        self.process.start()

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit code, standard output and standard error."""
        self.process.join(600)
        code = self.process.exitcode
        self.process.close()
        out, err = ((self._log / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        return (1 if code is None else code), out, err


def _run(argv: Sequence[str], folder: Path, log: Path, before: Callable[[], None] | None) -> None:
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(log / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(DSPY_CACHEDIR=str(log / "cache"), NO_PROXY="127.0.0.1", OPENAI_API_KEY="loopback")
    if before is not None:
        before()
    import dspy

    dspy.__dict__.pop("cache", None)  # DSPy makes it, in the folder of the environment, when it is first read
    sys.exit(main_of_cli(list(argv)))


def prepare(command: str, folder: Path, url: str) -> Path:
    """Write the configuration and the examples."""
    folder.mkdir(exist_ok=True)
    (folder / "moa.toml").write_text(CONFIG.format(url=url, layers=LAYERS.get(command, 1)))
    for name in ("stdout", "stderr"):
        (folder / name).touch()  # a process may be killed before it opens them
    rows = [{"question": f"item {n} of all", "answer": str(n % 3)} for n in range(ITEMS)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@dataclass(frozen=True)
class Baseline:
    """A command that nobody killed."""

    result: Any
    asked: Counter[str]
    tokens: int
    cached: int
    seconds: float


def baseline(command: str, folder: Path) -> Baseline:
    """Run the command to its end."""
    provider = Provider()
    with provider.server as server:
        prepare(command, folder, server.url)
        began = time.monotonic()
        _, out, err = Start(command, folder).end()
        seconds = time.monotonic() - began
    try:
        result = json.loads(out)
    except ValueError:
        raise SystemExit(f"{command} failed without a kill: {err}") from None
    return Baseline(lasting(result), Counter(map(key_of, server.calls)), provider.billed(), cached(folder), seconds)


def key_of(call: Call) -> str:
    return json.dumps(call.body, sort_keys=True)


def lasting(value: Any) -> Any:
    """Return a result without what depends on the clock and the cache."""
    if isinstance(value, dict):
        return {name: lasting(part) for name, part in value.items() if name not in _PASSING}
    return [lasting(part) for part in value] if isinstance(value, list) else value


def killed(command: str, folder: Path, whole: Baseline, random_: random.Random) -> Killed:
    """Kill the command at a random point, start it until it ends, and check what it paid and said."""
    done, provider = Killed(command), Provider()
    excused: Counter[str] = Counter()
    kills = 1 if random_.random() < 0.67 else 2
    with provider.server as server:
        prepare(command, folder, server.url)
        while True:
            before = len(server.calls)
            provider.starts.append(before)
            process = Start(command, folder)
            done.starts += 1
            if done.kills < kills and (moment := _kill(process.process, provider, before, whole, random_)):
                process.end()
                done.kills += 1
                provider.killed_at.append(moment)
                flying = provider.in_flight(moment, before)
                done.in_flight += len(flying)
                excused.update(map(key_of, flying))
                done.problems += list(damaged(folder))
                continue
            code, out, err = process.end()
            if code:
                done.problems.append(f"exit code {code}: {err.strip()[-500:]}")
            break
        _check(done, folder, provider, whole, excused, before, out)
        done.problems += list(damaged(folder, ended=True))
    return done


def _kill(process: Any, provider: Provider, before: int, whole: Baseline, random_: random.Random) -> float:
    """Kill the process after a random number of requests or seconds; return when, or 0 if it ended before."""
    calls = provider.server.calls
    if random_.random() < 0.6:
        count = before + random_.randrange(1, max(2, sum(whole.asked.values()) - before))
        while len(calls) < count and process.is_alive():
            with provider.arrived:
                provider.arrived.wait(0.05)
        time.sleep(random_.random() * 0.02)
    else:
        process.join(random_.random() * whole.seconds)
    if not process.is_alive():
        return 0.0
    moment = time.monotonic()
    process.kill()
    return moment


def _check(
    done: Killed, folder: Path, provider: Provider, whole: Baseline, excused: Counter[str], before: int, out: str
) -> None:
    calls, ends = provider.server.calls, [*provider.starts[1:], len(provider.server.calls)]
    parts = [Counter(map(key_of, calls[begin:end])) for begin, end in zip(provider.starts, ends, strict=True)]
    asked = sum(parts, start=Counter[str]())
    more = asked - whole.asked
    done.repeated, done.requests = more.total(), asked.total()
    if unexcused := more - excused:
        first = next(call for call in calls if key_of(call) in unexcused)
        done.problems.append(
            f"{unexcused.total()} requests were paid twice that were not in flight at the kill; the first one was "
            f"answered {provider.killed_at[0] - (first.answered or 0):.3f} s before the first kill; starts with them: "
            f"{[sum(part[key] for key in unexcused) for part in parts]}"
        )
    if missing := whole.asked - asked:
        done.problems.append(f"{missing.total()} requests of the whole run were never made")
    try:
        result = json.loads(out)
    except ValueError:
        done.problems.append(f"the result is no JSON: {out[:200]!r}")
        return
    done.billed = provider.billed()
    if lasting(result) != whole.result:
        done.problems.append(f"another result: {differences(lasting(result), whole.result)}")
    done.reported = reported(done.command, result)
    done.cached = cached(folder)
    if done.command == "ask" and done.reported + done.cached != whole.tokens + whole.cached:
        done.problems.append(
            f"{done.reported} tokens paid and {done.cached} cached, not {whole.tokens} and {whole.cached}"
        )
    paid_now = provider.billed(before)
    if done.command != "eval" and done.reported != paid_now:
        done.problems.append(f"reported {done.reported} tokens, billed {paid_now} since the last start")


def cached(folder: Path) -> int:
    """Return the tokens that replies from the response cache had cost, by the trace that ``ask`` wrote."""
    if not (folder / "trace.json").exists():
        return 0
    steps = json.loads((folder / "trace.json").read_text())["steps"]
    return sum(int(step["saved_tokens"][kind]) for step in steps for kind in ("prompt", "completion"))


def reported(command: str, result: Any) -> int:
    """Return the paid tokens that a result reports."""
    tokens = (result if command in ("ask", "eval") else result["cost"])["tokens"]
    return int(tokens["prompt"] + tokens["completion"])


def differences(one: Any, two: Any, at: str = "") -> str:
    """Return where two results differ first."""
    if isinstance(one, dict) and isinstance(two, dict):
        return next(
            (differences(one.get(k), two.get(k), f"{at}.{k}") for k in {**one, **two} if one.get(k) != two.get(k)), at
        )
    return f"{at}: {one!r:.80} for {two!r:.80}"


def damaged(folder: Path, *, ended: bool = False) -> Iterator[str]:
    """Yield the files that are not whole, and after the end also those that should have been removed."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            if ended:
                yield f"left over: {path.name}"
        elif path.suffix == ".json":
            try:
                json.loads(path.read_text())
            except ValueError:
                yield f"half a file: {path.name}"
        elif path.suffix == ".html" and "</html>" not in path.read_text():
            yield f"half a file: {path.name}"
        elif path.name == "run.jsonl":
            lines = path.read_text().split("\n")
            for line in lines[:-1]:
                try:
                    json.loads(line)
                except ValueError:
                    yield f"a broken line in {path.name}"
            if ended and lines[-1]:
                yield f"half a line at the end of {path.name}"


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, and print what came of it. The exit code is 1 if anything was lost or paid twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=25, help="of each command")
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--layers", type=int, help="default: 2 of ask, 1 of the others")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.layers is not None:
        LAYERS.update(dict.fromkeys(options.commands, options.layers))
    problems = 0
    with tempfile.TemporaryDirectory() as base, ThreadPoolExecutor(options.at_once) as threads:
        for command in options.commands:
            whole = baseline(command, Path(base) / command)
            print(
                f"{command}: {whole.asked.total()} requests, {whole.tokens:,} tokens, {whole.seconds:.1f} s", flush=True
            )
            points = list(threads.map(partial(_point, command, Path(base), whole, options.seed), range(options.points)))
            for name in ("kills", "starts", "in_flight", "repeated", "requests", "billed"):
                print(f"    {name:<10} {sum(getattr(point, name) for point in points):,}")
            problems += sum(len(point.problems) for point in points)
    print(f"{problems} problems")
    return int(problems > 0)


def _point(command: str, base: Path, whole: Baseline, seed: int, number: int) -> Killed:
    attempt, done = 0, Killed(command)
    while not done.kills and not done.problems:  # a start that ends before its kill is no point
        name, attempt = f"{command}-{number}-{attempt}", attempt + 1
        done = killed(command, base / name, whole, random.Random(f"{seed} {name}"))
    for problem in done.problems:
        print(f"    point {number}: {problem}", flush=True)
    return done


if __name__ == "__main__":
    sys.exit(main())
