"""The files that a command writes, checked before anything is paid for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.files.atomic_write import check_writable, replace_file

__all__ = ["check_new_files", "check_place", "check_writable_file", "write_file"]


def check_place(path: str | None, option: str) -> None:
    """Refuse a path that is a folder or lies in no folder.

    Raises:
        ConfigurationError: names the option.
    """
    if path is not None and (Path(path).is_dir() or not Path(path).resolve().parent.is_dir()):
        raise ConfigurationError(f"{option} {path}: it is a folder, or its folder does not exist")


def check_new_files(files: Mapping[str, str | None], *, force: bool) -> None:
    """Refuse files that cannot be written, are the same, or exist.

    Args:
        files: the paths, by option.
        force: whether files that exist may be replaced.

    Raises:
        ConfigurationError: names the option.
    """
    wanted = {option: path for option, path in files.items() if path is not None}
    resolved = [Path(path).resolve() for path in wanted.values()]
    for option, path in wanted.items():
        check_place(path, option)
        if resolved.count(Path(path).resolve()) > 1:
            raise ConfigurationError(f"{option} {path} is named by another option too; give each a file of its own")
        if Path(path).exists() and not force:
            raise ConfigurationError(f"{option} {path} exists already; name another file, or add --force")


def check_writable_file(path: str | None, option: str) -> None:
    """Refuse a file that cannot be written, by trying.

    Raises:
        ConfigurationError: names the option and the system's reason.
    """
    if path is None:
        return
    try:
        check_writable(Path(path))
    except OSError as error:
        raise ConfigurationError(f"{option} {path} cannot be written: {error.strerror or error}") from None


def write_file(path: str | None, text: str) -> None:
    """Write a file in one step, so that it is replaced completely or not at all. Do nothing without a path.

    Raises:
        RunError: if it cannot be written.
    """
    if path is None:
        return
    try:
        replace_file(Path(path), text.encode())
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}") from None
