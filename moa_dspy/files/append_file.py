"""Files to which one process appends lines. A killed process leaves at most one incomplete line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.files.atomic_write import PRIVATE, in_use, lock

__all__ = ["AppendFile"]


class AppendFile:
    """A file of lines, locked for this process until it is closed. Each line is one append of the operating system.

    A file that it created and that is still empty when an error ends the block is removed.

    Args:
        path: the file; it is created if it does not exist.
        what: what another process that writes it is called in the message.

    Raises:
        ConfigurationError: if the file is in use, or cannot be written or locked.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        self.path = Path(path)
        try:
            self._is_new = not self.path.exists()
            if not self._is_new and not self.path.is_file() and not self.path.is_dir():
                raise ConfigurationError(f"{path} is a pipe or a device; give a file")
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, PRIVATE)
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
        try:
            lock(self._file)
            if not os.path.samestat(os.fstat(self._file), self.path.stat()):  # replaced since it was opened
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))  # noqa: TRY301 (as if it were locked)
        except OSError as error:
            os.close(self._file)
            if in_use(error):
                raise ConfigurationError(
                    f"{path} is being written by another {what}; wait for it, or stop it"
                ) from None
            raise ConfigurationError(
                f"{path} cannot be locked ({error.strerror}), so two processes might mix their lines; give a file in a "
                "folder on a local disk"
            ) from None

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return os.fstat(self._file).st_size

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the place and the text of each complete line."""
        place = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield place, line
                place += len(line)

    def rest(self, start: int) -> bytes:
        """Return the bytes from ``start`` on."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read()

    def truncate(self, length: int) -> None:
        """Remove what follows the first ``length`` bytes."""
        os.ftruncate(self._file, length)

    def append(self, line: bytes) -> None:
        """Write a line durably: it is kept even if this process is killed afterwards.

        Raises:
            RunError: if it cannot be written. The file is then unchanged.
        """
        reason: str | None = None
        try:
            written = os.write(self._file, line)
            if written < len(line):  # the disk is full
                os.ftruncate(self._file, os.lseek(self._file, 0, os.SEEK_CUR) - written)
                reason = os.strerror(errno.ENOSPC)
        except OSError as error:
            reason = error.strerror
        if reason is not None:
            raise RunError(
                f"cannot write {self.path}: {reason}; its records are kept; run the same command "
                "again to continue once the file can be written"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: object = None, *_: object) -> None:
        if error is not None and self._is_new and not self.size:
            self.path.unlink(missing_ok=True)
        os.close(self._file)
