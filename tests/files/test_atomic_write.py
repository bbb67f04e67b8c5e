"""Files are whole, private, and what killed writers left behind is removed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from moa_dspy.files.atomic_write import check_writable, create_private, replace_file

KILLED_WHILE_IT_WRITES = """
import os, signal, sys
from pathlib import Path
from moa_dspy.files import atomic_write
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
atomic_write.replace_file(Path(sys.argv[1]), b"half")
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "dspy-cache" not in path.name)


@pytest.mark.parametrize("name", ["p.json", "ü" * 100 + ".json", "a [b] (c)*.json", ".hidden"])
def test_the_temporary_file_of_a_killed_writer_is_removed_by_the_next(name: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_IT_WRITES, str(path)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    assert path.read_bytes() == b"old"
    (tmp_path / "neighbour.json").write_bytes(b"")
    (tmp_path / f".{name}.backup").write_bytes(b"")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == sorted([name, "neighbour.json", f".{name}.backup"])


def test_the_files_of_living_writers_stay(tmp_path: Path):
    path = tmp_path / "p.json"
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        replace_file(path, b"x")
        from moa_dspy.files import atomic_write

        living = tmp_path / f".p.json.{atomic_write._MACHINE}-{child.pid}-01234567"
        elsewhere = tmp_path / ".p.json.00000000-1-01234567"
        old_form = tmp_path / ".p.json.89abcdef"
        for other in (living, elsewhere, old_form):
            other.write_bytes(b"")
        replace_file(path, b"y")
        assert living.exists()
        assert elsewhere.exists()
        assert old_form.exists()
        long_ago = time.time() - 100_000
        for other in (elsewhere, old_form):
            os.utime(other, (long_ago, long_ago))
        replace_file(path, b"z")
        assert names(tmp_path) == sorted([living.name, "p.json"])
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(timeout=60)


def test_writers_of_one_process_do_not_remove_each_others_files(tmp_path: Path):
    path, errors = tmp_path / "p.json", list[Exception]()

    def write(content: bytes) -> None:
        try:
            for _ in range(30):
                replace_file(path, content)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(bytes([number]) * 1000,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names(tmp_path) == ["p.json"]
    assert len(set(path.read_bytes())) == 1


def test_new_files_are_private_whatever_the_umask(tmp_path: Path):
    before = os.umask(0)
    try:
        replace_file(tmp_path / "a", b"")
        create_private(tmp_path / "b")
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {0o600}


def test_a_file_that_exists_is_kept_as_it_is(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    path.chmod(0o444)
    create_private(path)
    assert path.read_bytes() == b"x"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_a_check_leaves_nothing(tmp_path: Path):
    check_writable(tmp_path / "new")
    assert names(tmp_path) == []
