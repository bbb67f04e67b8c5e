"""A process that is killed in the middle of a run, and started again, pays only for what had not been finished."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Body, Call, Loopback
from support.runs import environment, in_format, role_of, until

CHILD = """
import json, sys, dspy, moa_dspy
url, folder = sys.argv[1:]
dspy.configure_cache(enable_disk_cache=True, enable_memory_cache=True, disk_cache_dir=folder)
lms = [dspy.LM(f"openai/m{i}", api_base=url, api_key="k", temperature=1.0) for i in range(2)]
moa = moa_dspy.AttentionMoA("question -> answer", [lms[0], lms[0], lms[1]], layers=2)
prediction = moa(question="?")
trace = prediction.trace
print(json.dumps({"answer": prediction.answer, "calls": trace.calls, "cached": trace.cached_calls,
                  "tokens": trace.tokens.total, "full": moa.architecture.max_calls}), flush=True)
"""


def numbered(body: Body, texts: dict[str, str]) -> str:
    """A text of its own for every request, and the same for a repeated one."""
    return in_format(body, texts.setdefault(json.dumps(body), f"answer {len(texts)}"))


def start(server: Loopback, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, server.url, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def finish(child: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("role", ["critique"])
@pytest.mark.slow
def test_a_killed_run_is_finished_for_the_price_of_what_was_missing(role: str, tmp_path: Path) -> None:
    texts: dict[str, str] = {}
    stuck = {"m1"}

    async def hold(call: Call) -> None:
        import asyncio

        # Calls of one model hang in that role; those of the other go on as far as they can.
        if role_of(call) == role and call.body["model"] in stuck:
            await asyncio.sleep(600)

    with Loopback(lambda body: numbered(body, texts), hold) as server:
        child = start(server, tmp_path)

        def as_far_as_it_gets() -> bool:
            pending = [call for call in server.calls if call.answered is None]
            return bool(pending) and {call.body["model"] for call in pending} == stuck

        assert until(as_far_as_it_gets, 60)
        settled = -1
        while settled != len(server.calls):  # nothing more comes
            settled = len(server.calls)
            until(lambda: False, 1.0)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        finished = sum(call.answered is not None for call in server.calls)
        assert 0 < finished < settled

        stuck.clear()
        before = len(server.calls)
        result = finish(start(server, tmp_path))
        paid = server.calls[before:]

        assert len(paid) == result["full"] - finished
        assert result["calls"] - result["cached"] == len(paid)
        assert result["tokens"] == sum(call.usage["total_tokens"] for call in paid)

        before = len(server.calls)
        again = finish(start(server, tmp_path))
        assert len(server.calls) == before
        assert (again["answer"], again["cached"], again["tokens"]) == (result["answer"], result["full"], 0)
