"""The built-in prompt methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final, Literal, TypeAlias

from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.prompts.demo_methods import Bootstrap, BootstrapRandom, Knn, Labeled
from moa_dspy.optimizers.prompts.instruction_methods import Copro, Gepa, Mipro, Simba
from moa_dspy.optimizers.prompts.method import BuiltInMethod, PromptJob, PromptMethod
from moa_dspy.optimizers.prompts.stop_decision import Reanchor
from moa_dspy.program import AttentionMoA

__all__ = ["METHODS", "MethodName", "check_method", "method_name", "method_options", "most_runs", "resolve_method"]

MethodName: TypeAlias = Literal[
    "labeled", "bootstrap", "bootstrap_random", "knn", "copro", "mipro", "simba", "gepa", "reanchor"
]

METHODS: Final[Mapping[str, type[BuiltInMethod]]] = {
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


def resolve_method(method: str | PromptMethod, options: Mapping[str, Any] | None = None) -> PromptMethod:
    """Return the named method with its options, or the given method.

    Raises:
        ConfigurationError: if the name or an option is unknown, or if the object has no ``tune``.
    """
    options = options or {}
    if not isinstance(method, str):
        if not callable(getattr(method, "tune", None)):
            raise ConfigurationError(f"method={method!r} is neither a name nor an object with a method tune(job)")
        if options:
            raise ConfigurationError(f"options {', '.join(options)} go with a method's name; set them on {method!r}")
        return method
    if method not in METHODS:
        raise ConfigurationError(f"there is no method {method!r}; the methods are {', '.join(METHODS)}")
    known = [option.name for option in fields(METHODS[method])]  # type: ignore[arg-type]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigurationError(f"method {method!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return METHODS[method](**options)


def method_name(method: str | PromptMethod) -> str:
    """Return the key of a built-in method in ``METHODS``, or the class name of another method."""
    if isinstance(method, str):
        return method
    return next((name for name, kind in METHODS.items() if type(method) is kind), type(method).__name__)


def method_options(method: PromptMethod, *, changed_only: bool = False) -> dict[str, Any]:
    """Return the options of a dataclass method; with ``changed_only``, only those that differ from the default."""
    if not is_dataclass(method):
        return {}
    options = {option.name: getattr(method, option.name) for option in fields(method)}
    if not changed_only:
        return options
    defaults = {option.name: option.default for option in fields(method)}
    return {name: value for name, value in options.items() if value not in (defaults[name], None, {})}


def check_method(method: PromptMethod, program: AttentionMoA, *, final: bool = True) -> None:
    """Raise ConfigurationError if a built-in method cannot tune this program; see ``BuiltInMethod.check``."""
    if isinstance(method, BuiltInMethod):
        method.check(program, final=final)


def most_runs(method: PromptMethod, job: PromptJob) -> int:
    """Return an upper bound of the number of answers that a built-in method scores; 0 for other methods."""
    return method.most_runs(job) if isinstance(method, BuiltInMethod) else 0
