"""The usage of each step is on file, whatever becomes of the server and of the disk."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.serving import serving

from moa_dspy import AttentionMoA, ConfigurationError, single_model
from moa_dspy.cost.usage import Usage
from moa_dspy.serve.app import ServeOptions
from moa_dspy.serve.usage_file import UsageFile
from moa_dspy.testing import ScriptedLM


def program() -> AttentionMoA:
    return AttentionMoA(
        "question -> answer", [ScriptedLM("yes", "scripted/a"), ScriptedLM("yes", "scripted/b")], layers=1
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_step_is_on_file_when_it_starts_and_when_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    with serving({"p": program()}, ServeOptions(usage_file=path)) as server:
        answer = server.ask().json()
        written = lines(path)
        counted = server.http.get("/usage").json()
    assert answer["moa"]["calls"] == 9
    assert sum(line["status"] == "started" for line in written) == sum(line["status"] == "ok" for line in written) == 9
    assert {line["run"] for line in written} == {answer["moa"]["trace_id"]}
    assert {line["stage"] for line in written} == {"propose", "critique", "refine", "aggregate"}
    ended = [Usage.model_validate(line["usage"]) for line in written if line["usage"]]
    assert sum((one.tokens.total for one in ended), 0) == answer["usage"]["total_tokens"]
    assert Usage.model_validate(counted).calls == sum(one.calls for one in ended) == 9
    assert "yes" not in path.read_text()  # no text of questions and answers
    assert path.stat().st_mode & 0o077 == 0


def test_a_server_counts_what_earlier_ones_wrote(tmp_path: Path) -> None:
    path, used = tmp_path / "usage.jsonl", []
    for _ in range(3):
        with serving({"p": program()}, ServeOptions(usage_file=path)) as server:
            server.ask()
            used.append(server.http.get("/usage").json())
    assert [one["calls"] for one in used] == [9, 18, 27]
    assert [one["tokens"]["prompt"] for one in used] == [used[0]["tokens"]["prompt"] * times for times in (1, 2, 3)]


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_steps_under_way_at_a_kill_count_as_unanswered(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "usage.jsonl"
    with serving({"p": program()}, ServeOptions(usage_file=path)) as server:
        server.ask()
    whole = path.read_bytes().splitlines(keepends=True)
    first_end = next(at for at, line in enumerate(whole) if b'"started"' not in line)
    path.write_bytes(b"".join(whole[:first_end]) + whole[first_end][:cut])  # as at a kill, within a line or not
    file = UsageFile(path)
    file.close()
    assert file.before == Usage(calls=first_end, unanswered=first_end)
    assert path.read_bytes() == b"".join(whole[:first_end])


@pytest.mark.parametrize(
    "content",
    [
        b"Dear diary",
        b"Dear diary\n",
        b"\x00\xff",
        b'{"question": "?"}\n',
        b'{"time": 1}\n',
        b"[]\n",
        b"{",
        b"\n",
        b"5\n",
    ],
)
def test_another_kind_of_file_is_refused_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    if content == b"{":  # may be the beginning of a line
        UsageFile(path).close()
        return
    with pytest.raises(ConfigurationError, match="notes is no usage file of moa-dspy serve"):
        UsageFile(path)
    assert path.read_bytes() == content


def test_two_servers_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    with (
        serving({"p": program()}, ServeOptions(usage_file=path)),
        pytest.raises(ConfigurationError, match="another moa-dspy serve"),
    ):
        UsageFile(path)


@pytest.mark.parametrize("path", ["", "missing/usage.jsonl"])
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot write"):
        UsageFile(tmp_path / path)


def test_on_a_full_disk_answers_go_on_and_their_usage_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, write = tmp_path / "usage.jsonl", os.write
    full = True

    def limited(file: int, data: bytes) -> int:
        if full and os.path.samestat(os.fstat(file), path.stat()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    monkeypatch.setattr(os, "write", limited)
    model = single_model("question -> answer", ScriptedLM("yes"))
    with serving({"p": model}, ServeOptions(usage_file=path)) as server:
        assert server.ask("One?").status_code == 200
        assert lines(path) == []
        full = False
        assert server.ask("Two?").status_code == 200
    assert [line["status"] for line in lines(path)] == ["started", "ok"] * 2
    told = [record.getMessage() for record in caplog.records if "usage.jsonl" in record.getMessage()]
    assert len(told) == 1
    assert "No space left on device; the usage of steps is kept in memory until it can be" in told[0]
