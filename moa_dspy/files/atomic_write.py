"""Atomic file writes. New files can be read by their owner alone, because they hold private prompts."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["PRIVATE", "check_folder", "check_writable", "create_private", "in_use", "lock", "replace_file", "replacing"]

PRIVATE: Final = 0o600
"""The rights of a new file."""

_LONGEST_NAME: Final = 180  # bytes of the file's own name in the name of its temporary file
_MACHINE: Final = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
# Temporary files of other machines, and of versions that did not note the process, are removed after this time.
_ABANDONED_SECONDS: Final = 3600.0
_in_use: set[str] = set()


def replace_file(path: Path, content: bytes) -> None:
    """Write a new file beside ``path`` and rename it to ``path``; see ``replacing``.

    A pipe or a device is written to directly.

    Raises:
        OSError: if the file cannot be written. The old file is then unchanged.
    """
    if _is_special(path):
        path.write_bytes(content)
        return
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file beside ``path``. At the end of the block, rename it to ``path``; after an error, remove it.

    A file that exists keeps its permissions. The target of a link is replaced, not the link. Temporary files that
    killed processes left for this path are removed.

    Raises:
        OSError: if the file cannot be written. The old file is then unchanged.
    """
    path = Path(os.path.realpath(path))
    temporary = _beside(path)
    _in_use.add(temporary.name)
    try:
        with _created(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        _in_use.discard(temporary.name)
    _remove_abandoned(path)


def create_private(path: Path) -> None:
    """Create an empty file that its owner alone can read, unless the file exists.

    Raises:
        OSError: if it cannot be created.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))


def check_writable(path: Path) -> None:
    """Raise OSError unless ``replace_file`` can write to ``path``. Nothing is changed."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if not _is_special(path):
        temporary = _beside(Path(os.path.realpath(path)))
        _created(temporary).close()
        temporary.unlink()


def check_folder(folder: Path, room: int) -> None:
    """Raise an error unless files of ``room`` bytes can be created, locked and written in ``folder``. None stays.

    Raises:
        OSError: if the disk is full, the folder is read-only, or its file system has no locks.
    """
    probe = _beside(folder / "probe")
    try:
        with _created(probe) as file:
            lock(file.fileno(), of_records=True)
            file.write(bytes(room))
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(folder)) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    _remove_abandoned(folder / "probe")


def lock(file: int, *, of_records: bool = False) -> None:
    """Lock a file for this process until it is closed. Do nothing on Windows.

    With ``of_records``, it is locked as SQLite does. A file system may have one of both kinds of locks only.

    Raises:
        OSError: if another process has locked it (see ``in_use``), or the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        return
    (fcntl.lockf if of_records else fcntl.flock)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def in_use(error: OSError) -> bool:
    """Return whether ``lock`` failed because another process has locked the file."""
    return error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _created(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb")


def _stem(path: Path) -> str:
    return os.fsencode(path.name)[:_LONGEST_NAME].decode(errors="ignore")


def _beside(path: Path) -> Path:
    """Return the name of a temporary file. It names the machine and the process that writes it."""
    return path.with_name(f".{_stem(path)}.{_MACHINE}-{os.getpid()}-{secrets.token_hex(4)}")


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of ``path`` whose process has ended. Never fail: the file itself is written."""
    form = re.compile(re.escape(f".{_stem(path)}.") + r"(?:(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-)?[0-9a-f]{8}")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            match = form.fullmatch(entry.name)
            if match is None or entry.name in _in_use:
                continue
            with contextlib.suppress(OSError):
                if _is_abandoned(entry, match["machine"], match["process"]):
                    Path(entry.path).unlink()


def _is_abandoned(entry: os.DirEntry[str], machine: str | None, process: str | None) -> bool:
    if not entry.is_file(follow_symlinks=False):
        return False
    if machine == _MACHINE and process is not None and not _runs(int(process)):
        return True
    return abs(time.time() - entry.stat(follow_symlinks=False).st_mtime) > _ABANDONED_SECONDS


def _runs(process: int) -> bool:
    if os.name == "nt":  # a signal of 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True
