"""Where a search starts from: designs that were good for a similar task, tried right after the usual ensembles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import dspy
from optuna import Study

from moa_dspy.architecture import AgentSpec, Architecture
from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.search.designs import BoundSpace, Params
from moa_dspy.optimizers.search.results import finished
from moa_dspy.program import AttentionMoA

__all__ = ["WarmStart", "warm_designs"]

WarmStart: TypeAlias = AttentionMoA | Architecture | Study
"""A program, an architecture, or the study of a search, for a similar task."""

_OF_A_STUDY: Final = 1
"""Designs that a study gives. A second one cost more than it saved, see docs/benchmarks.md."""


def warm_designs(bound: BoundSpace, sources: WarmStart | Sequence[WarmStart]) -> list[Params]:
    """Return the parameters of the sources' designs, as far as the space has them.

    Raise ConfigurationError if a source is something else.
    """
    listed: Sequence[Any] = sources if isinstance(sources, list | tuple) else [sources]
    shapes = [shape for source in listed for shape in _architectures(source)]
    found = [params for params in (_params_of(bound, shape) for shape in shapes) if params is not None]
    fitting = [params for params in (_fitted(bound, params) for params in found) if params is not None]
    return list(bound.unique(fitting).values())


def _architectures(source: Any) -> list[Architecture]:
    if isinstance(source, Architecture):
        return [source]
    if isinstance(source, AttentionMoA):
        return [source.architecture]
    if not isinstance(source, Study):
        raise ConfigurationError(
            f"warm_start={type(source).__name__} is no program, architecture or study; give moa_dspy.load(FILE)"
        )
    best = sorted(finished(source), key=lambda trial: -trial.user_attrs["score"])
    return [Architecture.model_validate(trial.user_attrs["architecture"]) for trial in best[:_OF_A_STUDY]]


def _fitted(bound: BoundSpace, wanted: Params) -> Params | None:
    """Return the parameters that the space asks for; None if it lacks a choice."""
    params = {name: wanted[name] for name in bound.distributions if wanted.get(name) in bound.choices[name]}
    try:
        return bound.suggest(params.__getitem__)
    except KeyError:
        return None


def _params_of(bound: BoundSpace, shape: Architecture) -> Params | None:
    """Return the parameters of an architecture; None if an agent has a model that the space does not have."""
    owners = [_owner(bound, spec) for spec in shape.agents]
    if None in owners:
        return None
    counts = Counter(owners)
    params: Params = {f"samples.{name}": counts[name] for name in bound.names}
    for name, spec in zip(owners, shape.agents, strict=True):
        for key in (f"temperature.{name}", "temperature"):
            if key in bound.choices:
                params.setdefault(key, _nearest(bound.choices[key], spec.temperature))
    aggregator = None if shape.aggregator is None else _owner(bound, shape.aggregator)
    others = {
        "attention": str(shape.attention),
        "critiques": shape.critiques,
        "residual": shape.residual,
        "aggregation": shape.aggregation,
        "aggregator": aggregator or owners[0],
        "shared_prompts": shape.shared_prompts,
    }
    missing = {name: bound.choices[name][0] for name in bound.distributions if name not in params | others}
    return {**params, **others, **missing}


def _owner(bound: BoundSpace, spec: AgentSpec) -> str | None:
    """Return the agent of the space that has the model of ``spec``; of several the one with its name."""
    ambient = dspy.settings.lm
    models = {name: getattr(agent.lm or ambient, "model", None) for name, agent in bound.models.items()}
    same = [name for name, model in models.items() if spec.model is not None and model == spec.model]
    named = [name for name in same if spec.name == name or str(spec.name).startswith(f"{name}-")]
    return next(iter(named or same), None)


def _nearest(choices: Sequence[Any], wanted: float | None) -> Any:
    """Return the temperature among ``choices`` that is nearest to the wanted one."""
    if wanted is None or wanted in choices:
        return wanted if wanted in choices else choices[0]
    return min(choices, key=lambda one: math.inf if one is None else abs(one - wanted))
