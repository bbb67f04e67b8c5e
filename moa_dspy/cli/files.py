"""Check the output files of a command before any cost occurs, and write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.files.atomic_write import check_writable, replace_file

__all__ = ["check_new_files", "check_place", "check_writable_file", "write_file"]


def check_place(path: str | None, option: str) -> None:
    """Check that the path can be a file: it is not a folder, and its folder exists.

    Raises:
        ConfigurationError: if the path is a folder, or its folder does not exist. The message names the option.
    """
    if path is not None and (Path(path).is_dir() or not Path(path).resolve().parent.is_dir()):
        raise ConfigurationError(f"{option} {path}: it is a folder, or its folder does not exist")


def check_new_files(files: Mapping[str, str | None], *, force: bool) -> None:
    """Check that the paths are new, different files.

    Args:
        files: the paths, by option.
        force: whether existing files may be replaced.

    Raises:
        ConfigurationError: if two paths are the same, a path cannot be a file, or a file exists without ``force``. The
            message names the option.
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
    """Check that the file can be written, by trying.

    Raises:
        ConfigurationError: if it cannot. The message names the option and the system's reason.
    """
    if path is None:
        return
    try:
        check_writable(Path(path))
    except OSError as error:
        raise ConfigurationError(f"{option} {path} cannot be written: {error.strerror or error}") from None


def write_file(path: str | None, text: str) -> None:
    """Write a file atomically. Do nothing without a path.

    Raises:
        RunError: if it cannot be written.
    """
    if path is None:
        return
    try:
        replace_file(Path(path), text.encode())
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}") from None
