"""What tests of whole runs share: replies in the format that a role asks for, and what a run left behind."""

from __future__ import annotations

import gc
import json
import os
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dspy.lm15 import Request, ServerError
from support.loopback import Body, Call

from moa_dspy import AttentionMoA, Trace, load
from moa_dspy.testing import ScriptedLM, prompt_of

# How the instructions of each role begin, and so how a provider can tell which one is asked.
ROLES = {
    "synthesize": "was answered in several rounds",
    "aggregate": "Several agents have answered",
    "refine": "reviewers have made suggestions",
    "critique": "Suggest how",
    "improve": "An earlier round has already answered",
}


def role_in(prompt: str) -> str:
    """The role that is asked; ``propose`` where no other is."""
    return next((role for role, words in ROLES.items() if words in prompt), "propose")


def role_of(asked: Body | Request | Call) -> str:
    if isinstance(asked, Request):
        return role_in(prompt_of(asked))
    body = asked.body if isinstance(asked, Call) else asked
    return role_in(str(body["messages"][0]["content"]))


def in_format(asked: Body | Request, text: str = "an answer", improved: bool = True) -> str:
    """``text`` as the role that is asked would write it."""
    if role_of(asked) == "synthesize":
        return f"[[ ## improved ## ]]\n{improved}\n\n[[ ## answer ## ]]\n{text}\n\n[[ ## completed ## ]]"
    return text


def in_role(asked: Body, text: str, typed: bool) -> str:
    """``text`` as every output that DSPy's adapters ask for; as it is where the completion is the answer."""
    system = str(asked["messages"][0]["content"])
    if "Your output fields are:" not in system:
        return text
    fields = re.findall(r"^\d+\. `(\w+)`", system.partition("Your output fields are:")[2], re.MULTILINE)
    values = {name: "true" if name == "improved" else text for name in fields}
    if "Outputs will be a JSON object" in system:
        return json.dumps({name: json.loads(value) if typed else value for name, value in values.items()})
    return "".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in values.items()) + "[[ ## completed ## ]]"


def loaded(path: str | Path) -> AttentionMoA:
    """Load a program file whose models ran on a loopback server. Its models here answer nothing."""
    shape = json.loads(Path(path).read_text())["architecture"]
    agents = [*shape["agents"], *([shape["aggregator"]] if shape.get("aggregator") else [])]
    return load(path, lms={agent["name"]: ScriptedLM("", agent["model"]) for agent in agents})


def stages(trace: Trace) -> dict[str, int]:
    """How many steps of each stage made a call."""
    counts: dict[str, int] = {}
    for step in trace.steps:
        if step.calls:
            counts[step.stage] = counts.get(step.stage, 0) + 1
    return counts


class Watched:
    """Collects what a run tells its watchers; the last is always its trace."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __call__(self, event: Any) -> None:
        self.events.append(event)

    @property
    def trace(self) -> Trace:
        assert isinstance(self.events[-1], Trace)
        return self.events[-1]


def transient(message: str = "SECRET-ERROR-TEXT") -> ServerError:
    """A server's failure that may be retried at once."""
    return ServerError(message, retry_after=0.0)


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0


def thread_names(ignore: Iterable[str] = ()) -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name not in set(ignore))


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Wait until the condition holds; whether it did in time."""
    import time

    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def environment(**extra: str) -> dict[str, str]:
    """The environment of a child process that imports ``support`` and this package."""
    tests = str(Path(__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": tests, "LITELLM_LOCAL_MODEL_COST_MAP": "True", **extra}
