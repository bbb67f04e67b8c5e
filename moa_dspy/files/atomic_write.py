"""Files that are never half written."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

__all__ = ["check_writable", "replace_file"]


def replace_file(path: Path, content: bytes) -> None:
    """Write a new file beside ``path``, with the rights that the one there has, and put it in its place.

    A link stays, and what it points to is replaced. What is no file, such as a pipe, is written to as it is.

    Raises:
        OSError: it could not be written; what was there before is as it was.
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
    """Find out whether ``replace_file`` can write to ``path``, and leave everything as it is.

    Raises:
        OSError: it cannot.
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
