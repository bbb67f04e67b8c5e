"""Several processes on one study: which process runs a trial, and how trials of dead processes are recovered.

A running trial stores its process and a heartbeat that a thread renews. A dead process of this machine is detected at
once. Any other process counts as dead if its heartbeat has not changed for ``GRACE`` seconds. The watcher uses its own
clock, so clocks need not agree. This works with every storage. Optuna's own heartbeat works only with databases, is
started only by ``study.optimize``, and is experimental.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from optuna import Study, Trial
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

__all__ = [
    "BEAT",
    "GRACE",
    "Watch",
    "enqueue_again",
    "give_up",
    "in_order",
    "is_to_repeat",
    "next_trial",
    "places_of",
    "this_process",
    "working_on",
]

BEAT: Final = 10.0
GRACE: Final = 60.0
_RETRIES: Final = 3
"""Maximum number of repetitions of a trial whose process died."""


def this_process() -> dict[str, Any]:
    """Return an identifier of this process that is unique among all processes of a study."""
    return {"machine": _machine(), "pid": os.getpid()}


@contextlib.contextmanager
def working_on(trial: Trial) -> Iterator[None]:
    """Store this process in a trial, and renew its heartbeat until the block ends."""
    trial.set_user_attr("worker", this_process())
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with contextlib.suppress(OptunaError, OSError):
                trial.set_user_attr("beat", time.time())

    thread = threading.Thread(target=beat, name="moa-dspy-search-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Watch:
    """Finds running trials whose process is dead, or has no heartbeat for ``grace`` seconds."""

    def __init__(self, study: Study, grace: float = GRACE) -> None:
        self._study, self._grace = study, grace
        self._seen: dict[int, tuple[Any, float]] = {}

    def revive(self) -> list[int]:
        """Fail the trials of dead processes, queue each again, and return their numbers."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        stale = [trial for trial in running if self._is_stale(trial)]
        return [trial.number for trial in stale if give_up(self._study, trial, "its process died", died=True)]

    def _is_stale(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker == this_process():
            return False
        if worker is not None and worker["machine"] == _machine() and not _alive(worker["pid"]):
            return True
        beat, now = (worker, trial.user_attrs.get("beat")), time.monotonic()
        last, since = self._seen.get(trial.number, (None, now))
        if last != beat:
            since = now
        self._seen[trial.number] = (beat, since)
        return now - since > self._grace


def give_up(study: Study, trial: FrozenTrial | Trial, why: str, *, again: bool = True, died: bool = False) -> bool:
    """Fail a running trial and, if ``again``, queue it again. Return False if the trial had already ended.

    A trial whose processes died (``died``) several times may be the cause, and is not queued again.
    """
    known = next(other for other in study.get_trials(deepcopy=False) if other.number == trial.number)
    deaths = int(known.user_attrs.get("deaths", 0)) + died
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return False
    if again and deaths <= _RETRIES:
        enqueue_again(study, known, why, deaths)
    return True


def enqueue_again(study: Study, trial: FrozenTrial, why: str, deaths: int = 0) -> None:
    """Queue the design of a failed trial. The new trial stores the numbers of the trials that it repeats."""
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if params:
        before = list(trial.user_attrs.get("retries_of", []))
        attrs = {"retries_of": [*before, trial.number], "retried_because": why, "deaths": deaths}
        study.enqueue_trial(params, user_attrs=attrs)


def is_to_repeat(trial: FrozenTrial) -> bool:
    """Return whether the next call repeats a failed trial: its runs all failed, or its search ended by an error.

    A process may also die after it has failed a trial and before it has queued it again.
    """
    attrs = trial.user_attrs
    failed = trial.state == TrialState.FAIL and "reason" not in attrs and attrs.get("deaths", 0) < _RETRIES
    return failed or bool(attrs.get("failing"))


def next_trial(study: Study) -> Trial:
    """Return a trial from the queue, else a new one. It has its process from the beginning, so a kill is noticed."""
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial({}, user_attrs={"worker": this_process()})
    return study.ask()


def places_of(study: Study) -> dict[int, int]:
    """Return the place of each trial, by number: its number if no trial had been interrupted.

    A repeated trial has the place of the first that it repeats. One that failed before it had a design has none to
    give: the next new trial has the same place.
    """
    places, place = dict[int, int](), 0
    for trial in study.get_trials(deepcopy=False):
        first = next(iter(trial.user_attrs.get("retries_of", [])), None)
        places[trial.number] = place if first is None else places[first]
        if first is None and (trial.params or trial.system_attrs.get("fixed_params") or trial.state != TrialState.FAIL):
            place += 1
    return places


def in_order(study: Study) -> list[FrozenTrial]:
    """Return the trials in the order in which they would be if none had been interrupted."""
    places = places_of(study)
    return sorted(study.get_trials(deepcopy=False), key=lambda trial: (places[trial.number], trial.number))


def _machine() -> str:
    """Return a name of the process table that a pid belongs to. Every container has its own."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def _alive(pid: int) -> bool:
    """Return whether a process exists; a zombie counts as dead."""
    if os.name == "nt":
        return True  # there is no safe check; the heartbeat decides
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True
