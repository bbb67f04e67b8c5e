"""Several processes on one study: every trial once, and a process that is killed takes nothing with it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeAlias

import optuna
import pytest
import sqlalchemy
import sqlalchemy.event
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from support.search_worker import work

from moa_dspy.optimizers.search.storage import open_storage
from moa_dspy.optimizers.search.workers import Watch, give_up, in_order, next_trial, places_of, this_process, working_on

# Servers on which a user may create databases, such as postgresql+psycopg2://me@127.0.0.1/postgres; none by default.
SERVERS = os.environ.get("MOA_DSPY_TEST_SERVERS", "").split()
STORAGES = ["sqlite:///{}/study.db", "journal:///{}/study.log", *SERVERS]


@pytest.fixture(params=STORAGES, ids=[kind.partition(":")[0] for kind in STORAGES])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a study that holds nothing yet."""
    if request.param not in SERVERS:
        return request.param.format(tmp_path)
    server, name = sqlalchemy.make_url(request.param), f"moa_{uuid.uuid4().hex}"
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.set(database=name).render_as_string(hide_password=False)


Start: TypeAlias = Callable[[str, float], BaseProcess]
"""Begins a search in a process of its own, given its name and the latency of its models in seconds."""


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that are forked from one that has imported everything, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.search_worker"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        forkserver.ensure_running()
    return context


@pytest.fixture
def start(tmp_path: Path, storage: str, processes: ForkServerContext) -> Iterator[Start]:
    """Processes that end with the test, whatever becomes of it."""
    begun: list[BaseProcess] = []

    def begin(name: str, latency: float) -> BaseProcess:
        process = processes.Process(target=work, args=(tmp_path, storage, name, latency))
        process.start()
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.join()


def result(folder: Path, name: str, process: BaseProcess) -> dict[str, Any]:
    process.join(timeout=240)
    assert process.exitcode == 0
    return json.loads((folder / f"result-{name}.json").read_text())


def study_of(storage: str) -> optuna.Study:
    return optuna.load_study(study_name="moa-dspy-search", storage=open_storage(storage))


def calls_in(folder: Path) -> Counter[str]:
    """How often each request was paid for, over all processes."""
    return Counter(line for file in folder.glob("calls-*.txt") for line in file.read_text().splitlines())


def running(storage: str, pid: int | None) -> bool:
    try:
        trials = study_of(storage).get_trials(states=(TrialState.RUNNING,))
    except (KeyError, ValueError, optuna.exceptions.OptunaError):
        return False
    return any(
        t.user_attrs.get("claimed") and t.user_attrs["worker"]["pid"] == pid and "rules" in t.user_attrs for t in trials
    )


def done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [t for t in study.get_trials() if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]


def architectures(study: optuna.Study) -> list[str]:
    return [json.dumps(t.params, sort_keys=True) for t in done(study)]


@pytest.mark.slow
def test_two_processes_run_every_trial_once_and_agree_on_the_best(tmp_path: Path, storage: str, start: Start) -> None:
    pair = {name: start(name, 0.02) for name in ("one", "two")}
    first, second = (result(tmp_path, name, process) for name, process in pair.items())
    study = study_of(storage)
    assert len(done(study)) == first["n_trials"]
    assert len(set(architectures(study))) == len(architectures(study))
    assert not study.get_trials(states=(TrialState.RUNNING,))
    workers = {t.user_attrs["worker"]["pid"] for t in done(study)}
    assert workers == {process.pid for process in pair.values()}
    best = max(t.user_attrs["score"] for t in study.get_trials(states=(TrialState.COMPLETE,)))
    assert first["score"] == second["score"] == best


@pytest.mark.slow
def test_a_killed_process_loses_no_trial_and_its_calls_are_not_paid_again(
    tmp_path: Path, storage: str, start: Start
) -> None:
    victim = start("victim", 0.1)
    deadline = time.monotonic() + 120
    while not running(storage, victim.pid) and time.monotonic() < deadline:
        assert victim.is_alive()
        time.sleep(0.02)
    other = start("other", 0.0)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    ended = result(tmp_path, "other", other)
    study = study_of(storage)
    assert len(done(study)) == ended["n_trials"]
    assert len(set(architectures(study))) == len(architectures(study))
    assert not study.get_trials(states=(TrialState.RUNNING,))
    lost = [t for t in study.get_trials(states=(TrialState.FAIL,)) if t.user_attrs["worker"]["pid"] == victim.pid]
    assert len(lost) == 1
    retried = [t for t in done(study) if lost[0].number in t.user_attrs.get("retries_of", [])]
    assert [t.params for t in retried] == [lost[0].params]
    # Calls that were on the wire when the process was killed had no answer to keep; nothing else was asked twice.
    again = [request for request, times in calls_in(tmp_path).items() if times > 1]
    unanswered = set((tmp_path / "calls-victim.txt").read_text().splitlines()) - set(
        (tmp_path / "answered-victim.txt").read_text().splitlines()
    )
    assert set(again) <= unanswered


@pytest.mark.slow
def test_a_search_that_was_killed_several_times_tries_the_designs_of_one_that_was_not(
    tmp_path: Path, processes: ForkServerContext
) -> None:
    (tmp_path / "whole").mkdir()
    storage, whole = (f"sqlite:///{folder}/study.db" for folder in (tmp_path, tmp_path / "whole"))

    def started(folder: Path, place: str, name: str, latency: float) -> BaseProcess:
        process = processes.Process(target=work, args=(folder, place, name, latency, 10))
        process.start()
        return process

    def calls(name: str) -> int:
        file = tmp_path / f"calls-{name}.txt"
        return len(file.read_text().splitlines()) if file.exists() else 0

    result(tmp_path / "whole", "whole", started(tmp_path / "whole", whole, "whole", 0.0))
    for name, most in (("first", 1), ("second", 30), ("third", 5), ("fourth", 60)):
        victim = started(tmp_path, storage, name, 0.01)
        while calls(name) < most and victim.is_alive():
            time.sleep(0.002)
        assert victim.is_alive()
        victim.kill()
        victim.join()
    result(tmp_path, "last", started(tmp_path, storage, "last", 0.0))

    def designs(study: optuna.Study) -> list[tuple[Any, ...]]:
        trials = [trial for trial in in_order(study) if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        return [(trial.state, trial.params, trial.user_attrs["rules"]) for trial in trials]

    assert designs(study_of(storage)) == designs(study_of(whole))


def test_a_database_whose_tables_another_process_makes_at_the_same_moment_is_opened(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    first = iter([True])

    def another_process_is_faster(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "CREATE TABLE" in statement and next(first, False):
            optuna.create_study(study_name="theirs", storage=open_storage(url))

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", another_process_is_faster)
    try:
        ours = open_storage(url)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", another_process_is_faster)
    assert optuna.get_all_study_names(ours) == ["theirs"]


class TestStaleTrials:
    def study(self) -> optuna.Study:
        return optuna.create_study(storage=optuna.storages.InMemoryStorage())

    def test_a_trial_of_this_process_is_never_stale(self) -> None:
        study = self.study()
        with working_on(study.ask()):
            assert Watch(study, grace=0).revive() == []

    @pytest.mark.slow
    def test_a_process_on_another_machine_is_given_its_grace(self) -> None:
        study = self.study()
        trial = study.ask()
        trial.suggest_int("x", 0, 3)
        trial.set_user_attr("worker", {"machine": "elsewhere", "pid": 1})
        watch = Watch(study, grace=0.3)
        assert watch.revive() == []
        trial.set_user_attr("beat", 1.0)
        time.sleep(0.4)
        assert watch.revive() == [], "the beat has moved"
        time.sleep(0.4)
        assert watch.revive() == [0]
        states = [t.state for t in study.get_trials()]
        assert states == [TrialState.FAIL, TrialState.WAITING]
        assert study.ask().user_attrs["retries_of"] == [0]

    def test_a_dead_process_of_this_machine_is_seen_at_once(self) -> None:
        study = self.study()
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        study.ask().set_user_attr("worker", {**this_process(), "pid": gone.pid})
        assert Watch(study).revive() == [0]

    def test_a_trial_is_given_up_once_and_one_that_kills_is_retried_three_times(self) -> None:
        study = self.study()
        for _ in range(4):
            trial = study.ask()
            trial.suggest_int("x", 0, 3)
            assert give_up(study, trial, "a test", died=True)
            assert not give_up(study, trial, "a test", died=True)
        assert [t.state for t in study.get_trials()] == [TrialState.FAIL] * 4

    def test_a_trial_whose_process_dies_before_it_has_a_design_is_seen_and_gives_its_place(self) -> None:
        study = self.study()
        assert study.user_attrs == {}
        assert next_trial(study).user_attrs["worker"] == this_process()
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        study.enqueue_trial({}, user_attrs={"worker": {**this_process(), "pid": gone.pid}})
        study.ask()
        assert Watch(study).revive() == [1]
        assert next_trial(study).number == 2
        assert places_of(study) == {0: 0, 1: 1, 2: 1}

    def test_the_end_of_a_budget_is_no_death(self) -> None:
        study = self.study()
        for _ in range(6):
            trial = study.ask()
            trial.suggest_int("x", 0, 3)
            give_up(study, trial, "the budget ended")
        assert study.ask().user_attrs["retries_of"] == [0, 1, 2, 3, 4, 5]


def test_two_processes_never_take_the_same_trial_from_the_queue(tmp_path: Path) -> None:
    """The second one asks between the first one's reading that the trial waits and its writing that it runs."""
    one, two = (open_storage(tmp_path / "study.db") for _ in range(2))
    study = optuna.create_study(storage=one, study_name="s")
    other = optuna.load_study(study_name="s", storage=two)
    for number in range(2):
        study.enqueue_trial({"x": number})
    taken: list[int] = []
    between = threading.Thread(target=lambda: taken.append(other.ask().number))
    before = RDBStorage.check_trial_is_updatable

    def check(self: RDBStorage, trial_id: int, state: TrialState) -> None:
        before(self, trial_id, state)
        if threading.current_thread() is not between and not between.ident:
            between.start()
            between.join(0.2)  # it waits for the lock

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RDBStorage, "check_trial_is_updatable", check)
        taken.append(study.ask().number)
    between.join()
    assert sorted(taken) == [0, 1]
