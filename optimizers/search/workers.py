"""Several processes on one study: who runs which trial, and what becomes of the trials of those that died.

A running trial carries the name of its process and a beat that a thread renews. A process of this machine that is gone
is seen at once; any other one counts as gone when its beat has not moved for ``GRACE`` seconds by the watcher's own
clock, so clocks need not agree. This works on every storage, journal files included. (Optuna's own heartbeat is for
databases alone, and experimental.)
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

__all__ = ["BEAT", "GRACE", "Watch", "enqueue_again", "give_up", "this_process", "working_on"]

BEAT: Final = 10.0
GRACE: Final = 60.0
_RETRIES: Final = 3
"""So often a trial whose process died is tried again."""


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others that may work on a study."""
    return {"machine": _machine(), "pid": os.getpid()}


@contextlib.contextmanager
def working_on(trial: Trial) -> Iterator[None]:
    """Claim a trial for this process, and renew the claim until the block ends."""
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
    """Finds the running trials whose process is gone.

    Args:
        study: the study.
        grace: seconds without a beat.
    """

    def __init__(self, study: Study, grace: float = GRACE) -> None:
        self._study, self._grace = study, grace
        self._seen: dict[int, tuple[Any, float]] = {}

    def revive(self) -> list[int]:
        """Fail the trials of dead processes and put each in the queue again; return their numbers."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        stale = [trial for trial in running if self._is_stale(trial)]
        return [trial.number for trial in stale if give_up(self._study, trial, "its process is gone", died=True)]

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
    """Fail a running trial, and put it in the queue once more.

    Args:
        study: the study.
        trial: one of its trials.
        why: for the record.
        again: whether it goes into the queue again.
        died: whether its process is gone. A trial that has lost several may be what kills them, and goes no further.

    Returns:
        Whether it was this process that failed it; False where another one, or the trial itself, came first.
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
    """Put a failed trial's design in the queue, for a trial that says which ones it repeats."""
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if params:
        before = list(trial.user_attrs.get("retries_of", []))
        attrs = {"retries_of": [*before, trial.number], "retried_because": why, "deaths": deaths}
        study.enqueue_trial(params, user_attrs=attrs)


def _machine() -> str:
    """Name the process table that a pid belongs to: containers on one host have their own."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def _alive(pid: int) -> bool:
    """Whether there is such a process; a killed one that nobody has waited for (a zombie) is gone."""
    if os.name == "nt":
        return True  # there is no harmless way to ask; the beat will tell
    with contextlib.suppress(OSError):
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] != "Z"
        )
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
