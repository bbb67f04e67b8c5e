"""The prompt optimizers by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, Literal, TypeAlias, get_args

from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.prompts.few_shot import Bootstrap, BootstrapRandom, Knn, Labeled
from moa_dspy.optimizers.prompts.instructions import Copro, Gepa, Mipro, Simba
from moa_dspy.optimizers.prompts.jobs import Method
from moa_dspy.optimizers.prompts.thresholds import Reanchor

__all__ = ["METHODS", "MethodName", "method_of"]

MethodName: TypeAlias = Literal[
    "labeled", "bootstrap", "bootstrap_random", "knn", "copro", "mipro", "simba", "gepa", "reanchor"
]

METHODS: Final[Mapping[MethodName, type[Any]]] = {
    "labeled": Labeled,
    "bootstrap": Bootstrap,
    "bootstrap_random": BootstrapRandom,
    "knn": Knn,
    "copro": Copro,
    "mipro": Mipro,
    "simba": Simba,
    "gepa": Gepa,
    "reanchor": Reanchor,
}


def method_of(name: str, options: Mapping[str, Any]) -> Method:
    """Return the method of that name with its options.

    Raises:
        ConfigurationError: there is no such method, or it has no such option; the message lists what there is.
    """
    if name not in get_args(MethodName):
        raise ConfigurationError(f"there is no method {name!r}; the methods are {', '.join(METHODS)}")
    kind = METHODS[name]  # type: ignore[index]
    known = [option.name for option in fields(kind)]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigurationError(f"method {name!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    method: Method = kind(**options)
    return method
