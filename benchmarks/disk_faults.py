"""Commands on a bad disk or with a bad clock: one line that says what to do, and nothing that was computed is lost?

    sudo uv run python -m benchmarks.disk_faults          # mounts file systems, so it needs root on Linux
    sudo uv run python -m benchmarks.disk_faults --faults full --commands eval

Each command runs in a folder that has one fault: its disk is full (some kilobytes are left, or none), it is read-only,
it knows no locks, or the clock is set back by a day in the middle. The response cache is on a good disk, or has the
same fault. Then the fault is mended and the command is started again, on the provider of ``kill_runs``. The table is in
docs/reliability.md.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.kill_runs import COMMANDS, Provider, Start, baseline, damaged, key_of, prepare

DAY: Final = 86_400.0
LOCKS: Final = (5, 6, 7, 36, 37, 38)  # of fcntl: F_GETLK, F_SETLK, F_SETLKW and those of open files


def without_locks() -> None:
    """Let the kernel refuse every lock of this process: flock, and fcntl with a command for locks (x86-64)."""
    returned, number, command = 0x06, 0, 24

    def instruction(code: int, yes: int, no: int, value: int) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    refuse = 0x00050000 | 37  # SECCOMP_RET_ERRNO with ENOLCK
    tests = [instruction(0x15, len(LOCKS) - index, 0, lock) for index, lock in enumerate(LOCKS)]
    program = b"".join([
        instruction(0x20, 0, 0, number),  # load the number of the system call
        instruction(0x15, len(LOCKS) + 3, 0, 73),  # flock: refuse
        instruction(0x15, 0, len(LOCKS) + 1, 72),  # another call than fcntl: allow
        instruction(0x20, 0, 0, command),  # load the command of fcntl
        *tests,
        instruction(returned, 0, 0, 0x7FFF0000),  # allow
        instruction(returned, 0, 0, refuse),
    ])  # fmt: skip
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, header, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel takes no filter")


def clock_set_back() -> None:
    """Set the clock that Python reads back by a day after a second."""
    real, began = time.time, time.monotonic()
    time.time = lambda: real() - (DAY if time.monotonic() > began + 1.0 else 0.0)


@contextlib.contextmanager
def disk(folder: Path, fault: str, left: int) -> Iterator[Callable[[], None]]:
    """Give the folder the fault; yield what mends it."""
    if fault == "full":
        filler = folder / "filler"
        block = os.statvfs(folder).f_bsize
        free = os.statvfs(folder).f_bavail * block
        filler.write_bytes(b"x" * max(0, free - left))
        yield filler.unlink
    elif fault == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield lambda: _remount(folder)
    else:
        yield lambda: None


def _remount(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount a small file system."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


FAULTS: Final[Mapping[str, tuple[str, int, Callable[[], None] | None]]] = {
    "disk full": ("full", 0, None),
    "4 kB left": ("full", 4096, None),
    "32 kB left": ("full", 32768, None),
    "read-only": ("read-only", 0, None),
    "no locks": ("", 0, without_locks),
    "clock set back": ("", 0, clock_set_back),
}


def tried(command: str, fault: str, base: Path, whole: Counter[str], *, cache_too: bool) -> tuple[str, list[str]]:
    """Run a command with a fault, mend it, and run it again. Return a row of the table, and what is wrong."""
    kind, left, before = FAULTS[fault]
    provider, problems = Provider(), list[str]()
    base.mkdir()
    folder = base / "work"
    with provider.server as server, mounted(folder):
        prepare(command, folder, server.url)
        if cache_too:
            (folder / "cache").mkdir()
        for name in ("stdout", "stderr"):
            (base / name).touch()
        if cache_too:
            (base / "cache").symlink_to(folder / "cache")
        with disk(folder, kind, left) as mend:
            code, out, err = Start(command, folder, base, before).end()
            flying = Counter(map(key_of, provider.in_flight(time.monotonic(), 0)))  # cancelled at the failure
            paid = len(server.calls)
            problems += list(damaged(folder, ended=True))
            mend()
        lines = [line for line in err.splitlines() if line.startswith("error")]
        last = lines[-1] if lines else ""
        if code not in (0, 1, 2) or (code and not lines) or "bug" in last or "Traceback" in err:
            problems.append(f"exit code {code}: {err.strip()[-300:]}")
        again, _, later = Start(command, folder, base).end()
        if again:
            problems.append(f"after the fault: exit code {again}: {later.strip()[-300:]}")
        twice = (Counter(map(key_of, server.calls)) - whole - (flying if code else Counter())).total()
        if twice and not cache_too and fault != "no locks":  # the cache has none either, and a warning says so
            problems.append(f"{twice} of {paid} requests were paid twice")
        problems += [f"after the fault: {problem}" for problem in damaged(folder, ended=True)]
    what, shown = f"{fault}{', cache too' if cache_too else ''}", "yes" if out.strip() else "no"
    return (
        f"| {what} | {command} | {code} | {paid} | {twice} | {shown} | {last.replace(str(base), '')[:200]} |",
        problems,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and print the table. The exit code is 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="*", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    options = parser.parse_args(argv)
    wrong = 0
    print("| fault | command | exit | requests | paid twice | result shown | message |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as base:
        for command in options.commands:
            whole = baseline(command, Path(base) / command).asked
            for fault in options.faults:
                for cache_too in (False, True) if fault not in ("clock set back", "no locks") else (False,):
                    folder = Path(base) / f"{command}-{fault}-{cache_too}".replace(" ", "-")
                    row, problems = tried(command, fault, folder, whole, cache_too=cache_too)
                    print(row, *(f"    {problem}" for problem in problems), sep="\n", flush=True)
                    wrong += len(problems)
    print(f"{wrong} problems")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
