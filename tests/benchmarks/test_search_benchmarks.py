"""The search's benchmarks run with tiny settings, and their worlds are what they say."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import search_records, search_simulated, search_warm
from benchmarks.search_records import exhaustive, real_search
from benchmarks.search_simulated import SHARES
from benchmarks.search_worlds import FLAT, FOUR, QUALITY, World, graded, noisy, quality

TINY = replace(FLAT, temperatures=(0.3,), attention=("full", "none"))


def tiny(world: World) -> World:
    """Return a world with few designs."""
    space = TINY if world.space != FOUR else replace(FOUR, temperatures=(0.3,), attention=("none",))
    return replace(world, space=replace(space, gate=world.space.gate, aggregators=world.space.aggregators))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all worlds have few designs."""
    of = search_records.recorded
    for module in (search_simulated, search_warm):
        monkeypatch.setattr(module, "recorded", lambda world, folder: of(tiny(world), folder))


@pytest.mark.slow
def test_the_quality_of_a_search_is_measured_in_all_worlds_and_continued(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--seeds", "1", "--examples", "8", "--out", str(tmp_path / "out.jsonl")]
    rows = search_simulated.main([*command, "--worlds", "two specialists", "deceptive agent"])
    assert {row["sampler"] for row in rows} == {"gp", "tpe", "random"}
    assert all(0 <= row["shares"][str(share)] <= 1 for row in rows for share in SHARES)
    assert all(set(row["dropped"]) == set(row["shares"]) for row in rows if row["world"] == "deceptive agent")
    assert "| worlds with a median of 98% |" in capsys.readouterr().out
    assert search_simulated.main([*command, "--worlds", "two specialists", "deceptive agent"]) == rows


@pytest.mark.slow
def test_warm_starts_are_measured_against_cold_ones(small: None, tmp_path: Path) -> None:
    rows = search_warm.main(["--seeds", "1", "--examples", "6", "--out", str(tmp_path / "out.jsonl")])
    assert [row["start"] for row in rows] == list(search_warm.STARTS)
    assert all(row["calls"] > 0 for row in rows)


@pytest.mark.slow
def test_an_exhaustive_run_gives_what_real_runs_give() -> None:
    world = tiny(quality("gate that pays", 0, count=6))
    record = exhaustive(world)
    few = record.search(0, n_trials=5)
    assert real_search(world, 0, n_trials=5) == (few.score, few.paid)


def test_there_are_ten_worlds_with_shared_errors_and_any_position_of_the_strong_agent() -> None:
    assert len(QUALITY) == 10
    assert all(quality(name, 0).errors == "shared" for name in QUALITY)
    strong = [
        one
        for seed in range(4)
        for one, skill in quality("strong agent", seed).skills.items()
        if callable(skill["knows"])
    ]
    assert strong == list("abcd")


def test_words_that_say_the_same_get_the_same_answer() -> None:
    world = quality("two specialists", 0, count=9)
    writer = world.agents(cache=False)[1]
    for number in range(world.count):
        prompts = [
            f"Question: task {number:03d}\n\nOwn Answer:\n<answer>\nreasoning: It follows from {words} round1.\n"
            f"answer: {number + 100}\n</answer>\n\nPeer Answer:\n<answer>\nanswer: 3\n</answer>"
            for words in ("0123456789ab", "ba9876543210")
        ]
        first, second = (writer(prompt)[0].rpartition(" (")[0] for prompt in prompts)
        assert first == second != ""


def test_graded_scores_are_noisy_and_higher_for_right_answers() -> None:
    world = quality("noisy scores", 0)
    judged: dict[bool, list[float]] = {True: [], False: []}
    wrong = SimpleNamespace(answer=1, trace=SimpleNamespace(steps=[SimpleNamespace(text="1")]))
    for example in world.examples:
        for number in range(10):
            steps = [SimpleNamespace(text=f"{number}")]
            for right in judged:
                prediction = SimpleNamespace(answer=example.answer if right else 1, trace=SimpleNamespace(steps=steps))
                judged[right].append(noisy(example, prediction))
    assert statistics.fmean(judged[True]) > statistics.fmean(judged[False]) + 0.5
    assert min(map(statistics.pstdev, judged.values())) > 0.1
    assert graded(world.examples[0], wrong) == 0.2
