"""The program that the options describe: from a program file, a configuration, the options alone, or the default."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import dspy
import pydantic

from moa_dspy.architecture import AgentSpec
from moa_dspy.config import AgentConfig, Config, load_config
from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from moa_dspy.cli.options import Options
    from moa_dspy.program import AttentionMoA

__all__ = ["DEFAULT_AGENTS", "agent_config", "build_program", "uses_default_agents"]

DEFAULT_AGENTS: Final = tuple(
    AgentConfig(model="local", temperature=temperature, max_tokens=128, options={"frequency_penalty": 0.5})
    for temperature in (0.0, 0.4, 0.8)
)
"""Who answers where nobody is named: the embedded model as it is, and two samples of it that dare more.

A model as small as this one often repeats itself until it is stopped; the penalty and the limit keep that short.
"""

# Models are named model@20240229 or model@latest too: only what can be meant as a temperature is taken as one.
_WITH_TEMPERATURE: Final = re.compile(r"(?P<model>.+)@(?P<temperature>-?\d{1,2}(\.\d*)?|\.\d+)")


def build_program(options: Options) -> AttentionMoA:
    """Return the program to run.

    Raises:
        ConfigurationError: something does not fit; nothing was called.
    """
    config = None if options.config is None else load_config(options.config)
    if options.program is not None:
        return _from_file(options.program, config)
    if uses_default_agents(options):
        return _default(options)
    return _overridden(config or Config(), options).program()


def uses_default_agents(options: Options) -> bool:
    """Return whether nothing names an agent, so that the embedded model is asked."""
    return options.config is None and options.program is None and not options.agents


def agent_config(text: str, option: str = "--agent") -> AgentConfig:
    """Return the agent of ``model`` or ``model@temperature``.

    Args:
        text: what the user wrote.
        option: where, for the message.

    Raises:
        ConfigurationError: there is no model, or the temperature is out of range.
    """
    found = _WITH_TEMPERATURE.fullmatch(text)
    model, temperature = (found["model"], float(found["temperature"])) if found else (text, None)
    if not model.strip():
        raise ConfigurationError(f"{option} {text!r} names no model; write it as provider/model, or 'local'")
    try:
        return AgentConfig(model=model, temperature=temperature)
    except pydantic.ValidationError:
        raise ConfigurationError(f"{option} {text}: a temperature is from 0 to 2, not {temperature}") from None


def _default(options: Options) -> AttentionMoA:
    config = _overridden(Config(agents=DEFAULT_AGENTS), options)
    try:
        return config.program()
    except ConfigurationError as error:
        if any(agent.model == "local" for agent in config.agents) and "installed" in str(error):
            raise ConfigurationError(f"{error}; or name models of a provider with --agent") from error
        raise


def _overridden(config: Config, options: Options) -> Config:
    """Return the configuration with what the options say instead."""
    agents = tuple(agent_config(text) for text in options.agents) or None
    aggregator = None if options.aggregator is None else agent_config(options.aggregator, "--aggregator")
    shape = {
        name: value
        for name, value in (("layers", options.layers), ("attention", options.attention))
        if value is not None
    }
    return config.overridden(
        agents=agents,
        aggregator=aggregator,
        task=config.task.model_copy(update={"signature": options.signature}) if options.signature is not None else None,
        architecture=config.architecture.model_copy(update=shape) if shape else None,
    )


def _from_file(path: str, config: Config | None) -> AttentionMoA:
    from moa_dspy.program import load

    if config is None:
        return load(path)
    names_agents = bool(config.agents) or config.aggregator is not None
    limits_runs = bool(config.budget.given() or config.tolerance.given())
    program = load(path, lms=_connections(path, config) if names_agents or not limits_runs else None)
    config.limit(program)
    return program


def _connections(path: str, config: Config) -> dict[str, dspy.BaseLM]:
    """Return the LM of every agent of the program file that the configuration also names, by name or else by model."""
    lms: dict[str, dspy.BaseLM] = {}
    for spec in _specs(path):
        agent = _match(spec, config)
        if agent is not None:
            lms[spec.name] = agent.lm_for(spec)
    if not lms:
        raise ConfigurationError(
            f"{config.source} has a connection for none of the agents of {path} "
            f"({', '.join(f'{spec.name}: {spec.model}' for spec in _specs(path))}); name or model must be the same"
        )
    return lms


def _match(spec: AgentSpec, config: Config) -> AgentConfig | None:
    candidates = [*config.agents, *([config.aggregator] if config.aggregator is not None else [])]
    by_name = (agent for agent in candidates if agent.name is not None and agent.name == spec.name)
    by_model = (agent for agent in candidates if agent.model == spec.model)
    return next(by_name, None) or next(by_model, None)


def _specs(path: str) -> list[AgentSpec]:
    from moa_dspy.files.program_file import SavedProgram

    shape = SavedProgram.read(path).architecture
    return [*shape.agents, *([shape.aggregator] if shape.aggregator is not None else [])]
