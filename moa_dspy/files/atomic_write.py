"""Atomic file writes."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

__all__ = ["check_writable", "replace_file"]


def replace_file(path: Path, content: bytes) -> None:
    """Write a new file beside ``path`` and rename it to ``path``. The permissions stay the same.

    The target of a link is replaced, not the link. A pipe or a device is written to directly.

    Raises:
        OSError: if the file cannot be written. The old file is then unchanged.
    """
    if _is_special(path):
        path.write_bytes(content)
        return
    path = Path(os.path.realpath(path))
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Raise an error unless ``replace_file`` can write to ``path``. Nothing is changed.

    Raises:
        OSError: if the file cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if not _is_special(path):
        temporary = _beside(Path(os.path.realpath(path)))
        temporary.open("xb").close()
        temporary.unlink()


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}")
