"""The server under load: streams at once, its delay, answers streamed and not, bills, and how fast it starts.

    uv run python -m benchmarks.serve streams               # 1,000 at once: all complete, nothing is left behind
    uv run python -m benchmarks.serve delay                 # 20 at once: the first delta, the time without the server
    uv run python -m benchmarks.serve same                  # 1,000 random runs: streamed and whole answers
    uv run python -m benchmarks.serve bills                 # 10,000 requests, faults, clients that leave or die
    uv run python -m benchmarks.serve killed                # SIGKILL of the server, 20 times
    uv run python -m benchmarks.serve hostile               # 2,000 bad requests, and clients that leave at any moment
    uv run python -m benchmarks.serve start                 # the first answer of a new process
    uv run python -m benchmarks.serve proxy --litellm PATH  # a LiteLLM proxy in front, from an environment of its own

The provider is the loopback server of the tests, in this process. The figures are in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from support.loopback import Body, Call, Hang, Loopback, Reply, Reset, refusal
from support.runs import environment, in_format, open_files, until
from support.serving import PATH, Server, asked, content_of, data_of, serving
from support.streams import both_ways, drawn

from benchmarks.bad_requests import BODIES, HEADS, JSON
from benchmarks.common import question, spread, table
from moa_dspy import AttentionMoA, Tolerance, Usage, single_model
from moa_dspy.serve.app import ServeOptions

NUMBER = re.compile(r"Question (\d+):")


def program(provider: Loopback, **options: Any) -> AttentionMoA:
    """Two agents and an aggregator, three calls."""
    agents = [provider.lm("one"), provider.lm("two")]
    return AttentionMoA("question -> answer", agents, **{"layers": 1, "attention": "none", **options})


def after(seconds: float) -> Any:
    """A provider that takes so long."""

    async def hold(_: Call) -> None:
        await asyncio.sleep(seconds)

    return hold


def resident() -> float:
    """Memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def stream(client: httpx.AsyncClient, number: int) -> str:
    """Ask for a stream, and return the answer."""
    lines: list[str] = []
    async with client.stream("POST", PATH, json=asked(question(number), stream=True)) as reply:
        lines += [line async for line in reply.aiter_lines()]
    chunks = data_of("\n".join(lines))
    assert chunks[-1] == "[DONE]", chunks[-1]
    return content_of(chunks)


def client_of(server: Server) -> httpx.AsyncClient:
    """A client with as many connections as there are requests."""
    return httpx.AsyncClient(base_url=server.url, timeout=600, limits=httpx.Limits(max_connections=None))


def streams(options: argparse.Namespace) -> dict[str, Any]:
    """Ask for many streams at once, twice. What the first round leaves in memory is not counted."""
    head = "round", "complete", "sockets before", "after", "MB before", "after", "seconds"
    number, rows = options.streams, list[tuple[str, ...]]([head])
    left = 0
    answering = Loopback(lambda body: in_format(body, "an answer of several words"), hold=after(0.5))
    settings = ServeOptions(concurrency=number, kept_runs=0)
    with (
        answering as provider,
        serving({"p": single_model("question -> answer", provider.lm(num_retries=3))}, settings) as server,
    ):

        async def all_at_once() -> int:
            async with client_of(server) as client:
                answers = await asyncio.gather(*(stream(client, one) for one in range(number)))
            return sum(answer == "an answer of several words" for answer in answers)

        for attempt in ("first", "second", "third"):
            provider.calls.clear()
            gc.collect()
            files, memory, began = open_files(), resident(), time.monotonic()
            complete = asyncio.run(all_at_once())
            seconds = time.monotonic() - began
            until(lambda: not server.runs.running, 10)
            gc.collect()
            figures = (complete, files, open_files(), f"{memory:.0f}", f"{resident():.0f}", f"{seconds:.1f}")
            rows.append((attempt, *map(str, figures)))
        left = len(server.runs.running) + len(server.runs.ended)
    table(rows)
    print(f"runs left: {left}, threads: {threading.active_count()}")
    return {"rows": rows, "left": left}


CLIENT = """
import asyncio, json, sys, time, httpx
url, number = sys.argv[1], int(sys.argv[2])
async def stream(client, one):
    body = {"model": "moa/p", "stream": True,
            "messages": [{"role": "user", "content": f"Question {one}: what is it?"}]}
    first = None
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        async for line in reply.aiter_lines():
            if first is None and "reasoning_content" in line:
                first = time.monotonic()
    return first
async def main():
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        for _ in sys.stdin:
            began = time.monotonic()
            firsts = await asyncio.gather(*(stream(client, one) for one in range(number)))
            print(json.dumps([time.monotonic() - began, firsts]), flush=True)
asyncio.run(main())
"""


def delay(options: argparse.Namespace) -> dict[str, Any]:
    """Time from the provider's first reply to the first delta, and the whole against runs without the server.

    The client is a process of its own, since its work is not the server's.
    """
    number, first, ratios = options.streams, list[float](), list[float]()
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    replying = Loopback(lambda body: in_format(body, "an answer " * 20), hold=after(options.latency))
    with replying as provider:
        moa = program(provider, attention="full", layers=2)

        async def without() -> float:
            began = time.monotonic()
            await asyncio.gather(*(moa.acall(question=f"Question {one}: what is it?") for one in range(number)))
            return time.monotonic() - began

        with serving({"p": moa}, ServeOptions(concurrency=number)) as server:
            command = [sys.executable, "-c", CLIENT, server.url, str(number)]
            with subprocess.Popen(command, **pipes) as client:
                assert client.stdin is not None
                assert client.stdout is not None
                for attempt in range(options.repeats + 1):  # the first opens the connections
                    provider.calls.clear()
                    print("go", file=client.stdin, flush=True)
                    seconds, firsts = json.loads(client.stdout.readline())
                    answered = _first_replies(provider.calls)
                    alone = asyncio.run(without())
                    if attempt:
                        first += [told - answered[one] for one, told in enumerate(firsts)]
                        ratios.append(seconds / alone)
                client.stdin.close()
    p95 = quantiles(first, n=20)[-1] * 1000
    table([("first delta, p95", "time with and without the server"), (f"{p95:.0f} ms", spread(ratios, 3))])
    return {"p95": p95, "ratio": median(ratios)}


def _first_replies(calls: Sequence[Call]) -> dict[int, float]:
    """Return when the provider first replied, by the number of the question."""
    first: dict[int, float] = {}
    for call in calls:
        found = NUMBER.search(call.prompt)
        if found and call.answered:
            first[int(found[1])] = min(call.answered, first.get(int(found[1]), call.answered))
    return first


def same(options: argparse.Namespace) -> dict[str, Any]:
    """Compare streamed and whole answers of random runs."""

    async def compare() -> tuple[Counter[str], list[int]]:
        counts: Counter[str] = Counter()
        different = []
        for seed in range(options.runs):
            shape, faults, calls = drawn(seed)
            outcome = await both_ways(shape, faults, seed, calls)
            trace = getattr(outcome.whole, "trace", None)
            counts["no answer" if trace is None else trace.stopped_by] += 1
            counts["sent early"] += bool(outcome.early)
            if not outcome.is_same:
                different.append(seed)
        return counts, different

    counts, different = asyncio.run(compare())
    table([("runs", "different", *counts), (str(options.runs), str(len(different)), *map(str, counts.values()))])
    return {"different": different, **counts}


KILLED = """
import httpx, sys
from concurrent.futures import ThreadPoolExecutor
url, first = sys.argv[1], int(sys.argv[2])
def ask(number):
    body = {"model": "moa/p", "stream": number % 2 == 0,
            "messages": [{"role": "user", "content": f"Question {number}: what is it?"}]}
    httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
print("asking", flush=True)
with ThreadPoolExecutor(10) as pool:
    list(pool.map(ask, range(first, first + 10)))
"""


def _unreliable(draws: random.Random) -> Callable[[Body], Reply]:
    """Replies of which one in eight is a fault."""

    def reply(_: Body) -> Reply:
        if draws.random() < 0.12:
            return draws.choice([refusal(500, "no"), refusal(429, "no", retry_after="0"), Reset(), Hang()])
        return "an answer of several words"

    return reply


def bills(options: argparse.Namespace) -> dict[str, Any]:
    """Compare what the provider counted with the records of the runs, while faults happen and clients leave."""
    draws = random.Random(0)

    async def hold(_: Call) -> None:
        await asyncio.sleep(draws.random() * 0.05)

    async def ask(client: httpx.AsyncClient, number: int, counts: Counter[str]) -> None:
        patience = draws.random() * 0.3 if number % 4 == 0 else 60.0
        try:
            async with asyncio.timeout(patience):
                reply = await client.post(PATH, json=asked(question(number), stream=number % 2 == 0))
                counts[str(reply.status_code)] += 1
        except TimeoutError:
            counts["left"] += 1

    async def ask_all(server: Server) -> Counter[str]:
        counts: Counter[str] = Counter()
        numbers = iter(range(options.requests))

        async def worker() -> None:
            async with client_of(server) as client:
                for number in numbers:
                    await ask(client, number, counts)

        await asyncio.gather(*(worker() for _ in range(16)))
        return counts

    tolerance = Tolerance(timeout=2.0, retries=1)
    with Loopback(_unreliable(draws), hold=hold) as provider:
        settings = ServeOptions(concurrency=200, kept_runs=10**6)
        with serving({"p": program(provider, tolerance=tolerance)}, settings) as server:
            counts = asyncio.run(ask_all(server))
            for kill in range(options.kills):
                command = [sys.executable, "-c", KILLED, server.url, str(10**6 + 10 * kill)]
                with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
                    assert client.stdout is not None
                    client.stdout.readline()
                    time.sleep(0.2 + draws.random() * 0.3)
                    client.kill()
            until(lambda: not server.runs.running, 30)
            ended = list(server.runs.ended.values())
    figures = _compared(provider.calls, ended) | {"requests": options.requests, "runs": len(ended), **counts}
    table([tuple(figures), tuple(map(str, figures.values()))])
    return figures


def _compared(calls: Sequence[Call], runs: Sequence[Any]) -> dict[str, int]:
    """Count the runs whose record differs from the provider's books. The record counts calls that were cut short."""
    billed: defaultdict[str, list[int]] = defaultdict(list)
    for call in calls:
        found = NUMBER.search(call.prompt)
        if found and call.usage:
            billed[found[1]].append(call.usage["total_tokens"])
    exact = cut = wrong = 0
    for run in runs:
        trace = run.trace
        found = NUMBER.search(str(trace.inputs["question"]))
        tokens = sum(billed[found[1]]) if found else -1
        if not trace.usage.unanswered:
            exact += tokens == trace.tokens.total
            wrong += tokens != trace.tokens.total
            continue
        largest = max(billed[found[1]] if found else [], default=0)
        missing = tokens - trace.tokens.total
        cut += 0 <= missing <= largest * trace.usage.unanswered
        wrong += not 0 <= missing <= largest * trace.usage.unanswered
    tokens = sum(sum(each) for each in billed.values()), sum(run.trace.tokens.total for run in runs)
    return {"equal": exact, "with cut calls": cut, "wrong": wrong, "tokens billed": tokens[0], "reported": tokens[1]}


_KINDS = ("streamed", "whole")


def hostile(options: argparse.Namespace) -> dict[str, Any]:
    """Send bad requests of every kind, then let clients leave at random moments, streaming or not."""
    draws = random.Random(0)

    async def hold(_: Call) -> None:
        await asyncio.sleep(draws.random() * 0.1)

    settings = ServeOptions(kept_runs=0)
    with Loopback(hold=hold) as provider, serving({"p": program(provider)}, settings) as server:
        statuses: Counter[str] = Counter()
        kinds, memory, files = [*BODIES, *HEADS], 0.0, 0
        for number in range(-len(kinds), options.requests):
            if number == 0:  # each kind was sent once
                gc.collect()
                memory, files = resident(), open_files()
            statuses[_status_of(server, kinds[number % len(kinds)])] += number >= 0
        server.http.close()
        gc.collect()
        until(lambda: open_files() <= files, 10)
        names = ["MB before", "after", "sockets before", "after", "calls made", *statuses]
        calls = len(provider.calls)
        grown = f"{memory:.0f}", f"{resident():.0f}", files, open_files(), calls
        table([tuple(names), tuple(map(str, [*grown, *statuses.values()]))])
        delays = {kind: _delays(server, draws, options.leavers, stream=kind == "streamed") for kind in _KINDS}
    figures = {kind: (median(each), quantiles(each, n=20)[-1], max(each)) for kind, each in delays.items()}
    head = "clients that left", "runs stopped after, median", "p95", "most"
    table([head, *((kind, *(f"{1000 * seconds:.0f} ms" for seconds in each)) for kind, each in figures.items())])
    return {"statuses": statuses, "calls": calls, "delays": delays}


def _status_of(server: Server, kind: str) -> str:
    """Send a bad request, and return the status of the error."""
    if kind in BODIES:
        reply = server.http.post(PATH, content=BODIES[kind], headers={"Content-Type": "application/json"})
        status, text = reply.status_code, reply.text
    else:
        with _connected(server) as raw:
            raw.sendall(f"{HEADS[kind]}\r\n\r\n".encode("latin-1"))
            answer = http.client.HTTPResponse(raw)
            answer.begin()
            status, text = answer.status, answer.read().decode()
    assert json.loads(text)["error"].keys() == {"message", "type", "param", "code"}, kind
    assert "Traceback" not in text, kind
    return str(status)


def _connected(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def _delays(server: Server, draws: random.Random, number: int, *, stream: bool) -> list[float]:
    """Let clients ask and leave within 0.3 s. Return how long their runs went on."""
    delays: list[float] = []
    body = json.dumps(asked("?", stream=stream)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
    while len(delays) < number:
        with _connected(server) as raw:
            raw.sendall(head.encode() + body)
            time.sleep(draws.random() * 0.3)
            is_running = bool(server.runs.running)
        left = time.monotonic()
        while server.runs.running:
            time.sleep(0.001)
        if is_running:
            delays.append(time.monotonic() - left)
    return delays


def start(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the time from starting a process to its first answers, and the process's CPU until then."""
    ready, answered, cpu = list[float](), list[float](), list[float]()
    with Loopback() as provider, tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            began = time.monotonic()
            with _process(provider, folder) as (process, url, model):
                httpx.get(f"{url}/health").raise_for_status()
                ready.append(time.monotonic() - began)
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                cpu.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
                httpx.post(f"{url}{PATH}", json=asked("?", model=model), timeout=60).raise_for_status()
                answered.append(time.monotonic() - began)
    head = "first request answered after", "CPU until then", "first question answered after"
    table([head, tuple(f"{spread(seconds)} s" for seconds in (ready, cpu, answered))])
    return {"ready": ready, "answered": answered}


@contextmanager
def _process(provider: Loopback, folder: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """``moa-dspy serve`` in a process of its own; yields it, its address, and the name of its program."""
    config = Path(folder) / "moa.toml"
    agent = f'[[agents]]\nmodel = "openai/x"\napi_base = "{provider.url}"\n'
    tolerance = "[tolerance]\ntimeout = 2.0\nretries = 1\n"
    config.write_text(f"{agent * 2}[architecture]\nlayers = 1\n{tolerance}")
    command = [sys.executable, "-m", "moa_dspy", "serve", str(config), "--port", "0", "--json", "--no-cache", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), text=True) as process:
        assert process.stdout is not None
        told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        yield process, told["address"].removesuffix("/v1"), told["models"][0]
        process.terminate()


def killed(options: argparse.Namespace) -> dict[str, Any]:
    """Kill the server with SIGKILL while it answers, and compare the provider's books with its usage file."""
    draws = random.Random(0)

    async def hold(_: Call) -> None:
        await asyncio.sleep(draws.random() * 0.05)

    async def ask_until_killed(process: subprocess.Popen[str], url: str, model: str, allowed: int) -> int:
        numbers, answered = iter(range(allowed + 16)), 0

        async def worker(client: httpx.AsyncClient) -> None:
            nonlocal answered
            for number in numbers:
                body = asked(question(number), model=model, stream=number % 2 == 0)
                reply = await client.post(PATH, json=body)
                answered += reply.status_code == 200
                if answered >= allowed:
                    process.kill()

        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            await asyncio.gather(*(worker(client) for _ in range(16)), return_exceptions=True)
        return answered

    answered = 0
    with Loopback(_unreliable(draws), hold=hold) as provider, tempfile.TemporaryDirectory() as folder:
        kept = "--usage-file", str(Path(folder) / "usage.jsonl")
        for _ in range(options.kills):
            with _process(provider, folder, *kept) as (process, url, model):
                allowed = draws.randint(1, 2 * options.requests // options.kills)
                answered += asyncio.run(ask_until_killed(process, url, model, allowed))
        with _process(provider, folder, *kept) as (_, url, _):
            used = Usage.model_validate(httpx.get(f"{url}/usage").json())
        billed = [call.usage["total_tokens"] for call in provider.calls if call.usage]
    missing = sum(billed) - used.tokens.total
    figures = {
        "kills": options.kills,
        "answered": answered,
        "calls billed": len(billed),
        "tokens billed": sum(billed),
        "on file": used.tokens.total,
        "missing": missing,
        "of calls cut short": used.unanswered,
        "at most": used.unanswered * max(billed),
        "wrong": int(not 0 <= missing <= used.unanswered * max(billed)),
    }
    table([tuple(figures), tuple(map(str, figures.values()))])
    return figures


def proxy(options: argparse.Namespace) -> dict[str, Any]:
    """Put a LiteLLM proxy in front: its keys, the Responses and Anthropic dialects, streams, clients that leave."""
    if not Path(options.litellm).exists():
        print(f"skipped: there is no {options.litellm}; install litellm[proxy] in an environment of its own")
        return {}
    called = threading.Event()

    async def hold(call: Call) -> None:
        called.set()
        await asyncio.sleep(60 if "WAIT" in call.prompt else 0)

    with Loopback(lambda body: in_format(body, "an answer of several words"), hold=hold) as provider:
        settings = ServeOptions(key="moa-key")
        with serving({"p": program(provider)}, settings) as server, tempfile.TemporaryDirectory() as folder:
            config = {
                "model_list": [
                    {
                        "model_name": "moa/p",
                        "litellm_params": {
                            "model": "openai/moa/p",
                            "api_base": f"{server.url}/v1",
                            "api_key": "moa-key",
                            "use_chat_completions_api": True,
                        },
                    }
                ],
                "litellm_settings": {"num_retries": 0, "use_chat_completions_url_for_anthropic_messages": True},
                "general_settings": {"master_key": "sk-master", "cancel_on_disconnect": True},
            }
            path = Path(folder) / "litellm.json"
            path.write_text(json.dumps(config))
            command = [options.litellm, "--config", str(path), "--port", str(options.port), "--host", "127.0.0.1"]
            variables = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True"}
            log = Path(folder) / "log"
            with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, env=variables) as one:
                try:
                    figures = _through_proxy(f"http://127.0.0.1:{options.port}", server, called)
                except Exception:
                    print(log.read_text()[-3000:])
                    raise
                finally:
                    one.terminate()
    table([tuple(figures), tuple(map(str, figures.values()))])
    return figures


def _through_proxy(url: str, server: Server, called: threading.Event) -> dict[str, Any]:
    key = {"Authorization": "Bearer sk-master"}

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/health/liveliness").status_code == 200
        except httpx.HTTPError:
            return False

    assert until(answers, 600)
    with httpx.Client(base_url=url, headers=key, timeout=60) as client:
        figures: dict[str, Any] = {"without a key": httpx.post(f"{url}{PATH}", json=asked("?")).status_code}
        chat = client.post(PATH, json=asked("?")).json()
        figures["chat"] = chat["choices"][0]["message"]["content"]
        streamed = client.post(PATH, json=asked("?", stream=True)).text
        figures["streamed"] = content_of(data_of(streamed))
        said = client.post("/v1/responses", json={"model": "moa/p", "input": "?"}).json()
        figures["responses"] = said["output"][-1]["content"][0]["text"]
        body = {"model": "moa/p", "max_tokens": 99, "messages": [{"role": "user", "content": "?"}]}
        figures["anthropic"] = client.post("/v1/messages", json=body).json()["content"][-1]["text"]
    for stream_it in (True, False):
        called.clear()
        leaver = httpx.Client(base_url=url, headers=key, timeout=httpx.Timeout(60, read=3))
        began = time.monotonic()
        try:
            leaver.post(PATH, json=asked("WAIT", stream=stream_it))
        except httpx.ReadTimeout:
            leaver.close()
            stopped = until(lambda: not server.runs.running, 10)
            figures[f"left, stream {stream_it}"] = f"stopped: {stopped}, {time.monotonic() - began - 3:.1f} s"
    return figures


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    commands = parser.add_subparsers(required=True)
    for measure, defaults in (
        (streams, {"streams": 1000}),
        (delay, {"streams": 20, "latency": 0.5, "repeats": 5}),
        (same, {"runs": 1000}),
        (bills, {"requests": 10_000, "kills": 5}),
        (killed, {"requests": 1_000, "kills": 20}),
        (hostile, {"requests": 2000, "leavers": 100}),
        (start, {"repeats": 3}),
        (proxy, {"litellm": "litellm", "port": 4321}),
    ):
        command = commands.add_parser(measure.__name__, help=measure.__doc__)
        for name, default in defaults.items():
            command.add_argument(f"--{name}", type=type(default), default=default)
        command.set_defaults(measure=measure)
    options = parser.parse_args(argv)
    return options.measure(options)


if __name__ == "__main__":
    main()
