"""Blocking calls: one background loop, whoever calls it, from wherever, and however it ends."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import moa_dspy
from moa_dspy.runtime import event_loop
from moa_dspy.testing import ScriptedLM

COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


async def value_of(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "moa-dspy"]


def run_python(code: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, check=False)


def test_a_result_comes_back():
    assert event_loop.run(lambda: value_of(42)) == 42


class OwnError(Exception):
    pass


@pytest.mark.parametrize("kind", [OwnError, TimeoutError])
def test_an_exception_comes_back_as_it_was_raised_with_its_traceback_and_cause(kind: type[Exception]):
    async def the_culprit() -> None:
        raise kind("because") from OSError("of this")

    with pytest.raises(kind, match="because") as caught:
        event_loop.run(the_culprit)
    assert "the_culprit" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, StopIteration])
def test_what_is_not_an_ordinary_exception_ends_the_call_but_not_the_loop(kind: type[BaseException]):
    async def raises() -> None:
        raise kind

    with pytest.raises(BaseException):  # noqa: B017 (a cancelled future and a coroutine's StopIteration change class)
        event_loop.run(raises)
    assert event_loop.run(lambda: value_of("still there")) == "still there"


def test_work_sees_the_callers_context_and_cannot_change_it():
    async def look() -> str:
        seen = COLOUR.get()
        COLOUR.set("changed")
        return seen

    token = COLOUR.set("red")
    try:
        assert event_loop.run(look) == "red"
        assert COLOUR.get() == "red"
    finally:
        COLOUR.reset(token)


def test_many_threads_share_one_loop_each_with_its_own_context():
    async def look(number: int) -> tuple[int, str, int]:
        await asyncio.sleep(0.001 * (number % 3))
        return number, COLOUR.get(), threading.get_ident()

    def call(number: int) -> tuple[int, str, int]:
        COLOUR.set(f"colour {number}")
        return event_loop.run(lambda: look(number))

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(call, range(200)))
    assert [(number, colour) for number, colour, _ in results] == [(n, f"colour {n}") for n in range(200)]
    assert len({thread for *_, thread in results}) == 1


def test_calls_leave_no_threads_behind():
    event_loop.run(lambda: value_of(1))
    before = set(threading.enumerate())
    for number in range(50):
        event_loop.run(lambda number=number: value_of(number))
    assert set(threading.enumerate()) == before


def test_it_can_be_called_inside_a_running_loop():
    async def notebook_cell() -> int:
        return event_loop.run(lambda: value_of(3))

    assert asyncio.run(notebook_cell()) == 3


@pytest.mark.timeout(20)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_call_within_a_call_does_not_wait_for_itself(depth: int):
    async def nest(levels: int) -> int:
        await asyncio.sleep(0)
        return 0 if levels == 0 else 1 + event_loop.run(lambda: nest(levels - 1))

    assert event_loop.run(lambda: nest(depth)) == depth


@pytest.mark.timeout(20)
def test_a_call_from_a_worker_thread_of_a_nested_call_does_not_deadlock():
    async def inner() -> str:
        return await asyncio.to_thread(lambda: event_loop.run(lambda: value_of("deep")))

    async def outer() -> str:
        return event_loop.run(inner)

    assert event_loop.run(outer) == "deep"


@pytest.mark.timeout(20)
def test_a_program_may_be_a_models_tool():
    """A model whose reply is computed by asking another program, and that one's by a third."""
    third = moa_dspy.single_model("question -> answer", ScriptedLM("Paris"))
    second = moa_dspy.single_model("question -> answer", ScriptedLM(lambda _: third(question="?").answer + "!"))
    first = moa_dspy.single_model("question -> answer", ScriptedLM(lambda _: second(question="?").answer + "!"))
    assert first(question="?").answer == "Paris!!"


INTERRUPTED = """
import asyncio, threading, time, dspy, moa_dspy
from moa_dspy.testing import ScriptedLM

class Slow:
    async def complete(self, request):
        print("calling", flush=True)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise

class Never:
    def complete(self, request):
        raise AssertionError("blocking call")

lm = dspy.LM("slow/model", engine=Never(), async_engine=Slow(), cache=False)
program = moa_dspy.single_model("question -> answer", lm)
try:
    program(question="?")
finally:
    print("left", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.slow
def test_ctrl_c_cancels_the_call_under_way_and_ends_promptly():
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "calling\n"
    asked = time.monotonic()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert time.monotonic() - asked < 5
    assert out == "cancelled\nleft\n"
    assert child.returncode in (-signal.SIGINT, 130)
    assert err.rstrip().endswith("KeyboardInterrupt")


INTERRUPTED_EARLY = """
import asyncio, gc, os, signal, threading, time
from moa_dspy.runtime import event_loop

def interrupted(work):
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        event_loop.run(work)
    except KeyboardInterrupt:
        print("interrupted")

async def blocking():
    time.sleep(0.6)

async def late():
    print("started")

async def failing():
    try:
        await asyncio.sleep(9)
    finally:
        raise ValueError("at the end")

busy = threading.Thread(target=event_loop.run, args=(blocking,))
busy.start()
time.sleep(0.1)
interrupted(late)
busy.join()
interrupted(failing)
event_loop.run(blocking)
gc.collect()
"""


def test_work_that_ctrl_c_cancels_does_not_start_late_and_is_not_complained_about():
    done = run_python(INTERRUPTED_EARLY)
    assert (done.stdout, done.stderr) == ("interrupted\ninterrupted\n", "")


FORKED = """
import os, warnings
import moa_dspy
from moa_dspy.testing import ScriptedLM
warnings.simplefilter("ignore")
program = moa_dspy.mixture_of_agents("question -> answer", [ScriptedLM("Paris"), ScriptedLM("Rome", model="b/c")])
assert program(question="?").answer == "Paris"
child = os.fork()
if child == 0:
    assert program(question="?").answer == "Paris"
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert program(question="?").answer == "Paris"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.slow
def test_parent_and_child_can_both_call_after_a_fork():
    done = run_python(FORKED)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_process_that_has_called_exits_at_once():
    done = run_python(
        "import moa_dspy; from moa_dspy.testing import ScriptedLM\n"
        "print(moa_dspy.single_model('question -> answer', ScriptedLM('Paris'))(question='?').answer)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Paris\n", "")
