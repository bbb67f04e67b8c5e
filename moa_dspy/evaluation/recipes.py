"""The paper's experiments as recipes: a packaged ensemble configuration, a benchmark and a judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moa_dspy.config import Config, load_config
from moa_dspy.errors import ConfigurationError

__all__ = ["ENDPOINT_VARIABLE", "RECIPES", "Recipe", "recipe"]

ENDPOINT_VARIABLE: Final = "HOSTED_VLLM_API_BASE"
"""Environment variable with the address of the small models' server."""

_FOLDER: Final = Path(__file__).resolve().parents[1] / "recipes"

# Of each benchmark: the split that the authors' script runs (FLASK's is the hard set), and the official judge.
_BENCHMARKS: Final = {
    "alpaca_eval": ("eval", "openai/gpt-4-1106-preview"),
    "mt_bench": ("test", "openai/gpt-4-0613"),
    "flask": ("hard", "openai/gpt-4-0613"),
}
_AGGREGATORS: Final = {
    "large": {"alpaca_eval": "claude", "mt_bench": "qwen", "flask": "gpt"},
    "small": {"alpaca_eval": "qwen", "mt_bench": "qwen", "flask": "qwen"},
}
_PUBLISHED: Final[Mapping[tuple[str, str], Mapping[str, float]]] = {
    ("large", "alpaca_eval"): {"length_controlled_win_rate": 91.15},
    ("small", "alpaca_eval"): {"length_controlled_win_rate": 77.36},
    ("small", "mt_bench"): {"average": 8.83},
}


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    Attributes:
        name: such as ``alpaca_eval-large``.
        ensemble: ``large`` or ``small``.
        layers: 1 as in the authors' scripts, or 3, which is our setting.
        judge: the official judge's model.
        aggregator: name of the agent whose model aggregates.
        published: the paper's figures, by the names of the benchmark's official figures.
    """

    name: str
    ensemble: str
    layers: int
    benchmark: str
    split: str
    judge: str
    aggregator: str
    published: Mapping[str, float]

    @property
    def file(self) -> Path:
        """Return the configuration file of the ensemble."""
        return _FOLDER / f"{self.ensemble}{'' if self.layers == 1 else f'-{self.layers}-layers'}.toml"

    @property
    def origin(self) -> str:
        """Return the source of the settings."""
        if self.layers > 1:
            return "ours: three layers"
        return "as in the authors' script" if self.ensemble == "large" else "the authors' settings, aggregator ours"

    def config(self) -> Config:
        """Return the ensemble's configuration with the aggregator of this benchmark."""
        config = load_config(self.file)
        chosen = next(agent for agent in config.agents if agent.name == self.aggregator)
        return config.overridden(aggregator=chosen.model_copy(update={"name": None}))


RECIPES: Final = {
    (name := f"{benchmark}-{ensemble}{suffix}"): Recipe(
        name,
        ensemble,
        layers,
        benchmark,
        *of_benchmark,
        aggregators[benchmark],
        _PUBLISHED.get((ensemble, benchmark), {}),
    )
    for benchmark, of_benchmark in _BENCHMARKS.items()
    for ensemble, aggregators in _AGGREGATORS.items()
    for layers, suffix in ((1, ""), (3, "-3-layers"))
}


def recipe(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
        ConfigurationError: if there is no recipe of that name.
    """
    if name not in RECIPES:
        raise ConfigurationError(f"no recipe named {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
