"""The benchmarks by name."""

from __future__ import annotations

import importlib
import pkgutil

from moa_dspy.data.benchmark import Benchmark, key_of, registered
from moa_dspy.errors import ConfigurationError

__all__ = ["benchmarks", "get_benchmark"]

_PACKAGES = ("moa_dspy.data", "moa_dspy.data.benchmarks")


def benchmarks() -> list[str]:
    """Return the names of all benchmarks, sorted."""
    for package in _PACKAGES:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")
    return sorted(benchmark.name for benchmark in registered().values())


def get_benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name. Case, `-` and `_` are ignored.

    Raises:
        ConfigurationError: if there is no benchmark of that name.
    """
    key = key_of(name)
    if key not in registered() and key not in map(key_of, names := benchmarks()):
        raise ConfigurationError(f"no benchmark named {name!r}; there are: {', '.join(names)}")
    return registered()[key]()
