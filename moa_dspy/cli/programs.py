"""Build the program from the options, and check that its models have keys."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import dspy
import pydantic

from moa_dspy._dspy import missing_native_keys, native_route
from moa_dspy.agents import Agent
from moa_dspy.architecture import AgentSpec
from moa_dspy.cli.console import note
from moa_dspy.cli.options import ProgramOptions
from moa_dspy.config import AgentConfig, Config, load_config
from moa_dspy.errors import ConfigurationError
from moa_dspy.files.program_file import SavedProgram
from moa_dspy.program import AttentionMoA, load

__all__ = [
    "DEFAULT_AGENTS",
    "build_program",
    "check_keys",
    "check_lms",
    "model_named",
    "note_default_agents",
    "uses_default_agents",
]

DEFAULT_AGENTS: Final = tuple(
    AgentConfig(model="local", temperature=temperature, max_tokens=128, options={"frequency_penalty": 0.5})
    for temperature in (0.0, 0.4, 0.8)
)
"""The default agents: three samples of the embedded model.

A model of this size often repeats itself. The penalty and the limit shorten such output.
"""

# A model's own name may contain @, as in model@20240229 or model@latest. Only a plausible temperature is split off.
_WITH_TEMPERATURE: Final = re.compile(r"(?P<model>.+)@(?P<temperature>-?\d{1,2}(\.\d*)?|\.\d+)")

# Providers that accept only a key as credential. Cloud platforms have several kinds of credentials.
_KEY_POLICIES: Final = ("key", "oauth-unless-explicit")


def build_program(options: ProgramOptions, saved: str | None) -> AttentionMoA:
    """Return the program: from a saved file, a configuration, the options alone, or with the default agents.

    No LM is called.

    Raises:
        ConfigurationError: if an option does not fit.
    """
    config = None if options.config is None else load_config(options.config)
    if saved is not None:
        _refuse_shape_of_saved(options)
        return _from_file(saved, config)
    if not uses_default_agents(options, saved):
        return _overridden(config or Config(), options).program()
    config = _overridden(Config(agents=DEFAULT_AGENTS), options)
    try:
        return config.program()
    except ConfigurationError as error:
        if any(agent.model == "local" for agent in config.agents) and "installed" in str(error):
            raise ConfigurationError(f"{error}; or name models of a provider with --agent") from error
        raise


def uses_default_agents(options: ProgramOptions, saved: str | None) -> bool:
    """Return whether no agent is named, so that the embedded model is used."""
    return options.config is None and saved is None and not options.agent


def note_default_agents(options: ProgramOptions, saved: str | None, doing: str) -> None:
    """Write a note that the embedded model is used, if no agent is named."""
    if uses_default_agents(options, saved):
        note(f"no agent is named: {doing} three on the embedded model 'local'; --agent names others")


def model_named(text: str, option: str) -> AgentConfig:
    """Return the agent of ``model`` or ``model@temperature``.

    Args:
        text: the user's text.
        option: the option, for the message.

    Raises:
        ConfigurationError: if the model is missing, or the temperature is out of range.
    """
    match = _WITH_TEMPERATURE.fullmatch(text)
    model, temperature = (match["model"], float(match["temperature"])) if match else (text, None)
    if not model.strip():
        raise ConfigurationError(f"{option} {text!r} names no model; write it as provider/model, or 'local'")
    try:
        return AgentConfig(model=model, temperature=temperature)
    except pydantic.ValidationError:
        raise ConfigurationError(f"{option} {text}: a temperature is from 0 to 2, not {temperature}") from None


def check_keys(program: AttentionMoA) -> None:
    """Check that every agent has a model and a key for it.

    Raises:
        ConfigurationError: if one is missing. The message names the agent, or the model and the environment variable
            for its key.
    """
    agents = dict(zip((spec.name for spec in program.architecture.agents), program.agents, strict=True))
    if program.aggregator is not None:
        agents[program.aggregator.name or "aggregator"] = program.aggregator
    for name, agent in agents.items():
        if not isinstance(agent.lm, dspy.BaseLM):
            raise ConfigurationError(
                f"agent {name!r} has no model; give it one in a --config file, under the same name"
            )
    check_lms((agent.lm for agent in agents.values()), "or name another one (api_key_env) in a --config file")


def check_lms(lms: Iterable[Agent | dspy.BaseLM | str | None], hint: str = "") -> None:
    """Check that every model has a key.

    Raises:
        ConfigurationError: if a key is missing. The message names the models and the environment variables.
    """
    needs: dict[str, str] = {}
    for lm in lms:
        if isinstance(lm, dspy.BaseLM) and (variables := _missing_variables(lm)):
            needs.setdefault(" or ".join(variables), lm.model)
    if needs:
        each = " and ".join(f"{variables} (for {model})" for variables, model in needs.items())
        raise ConfigurationError(f"no API key: set the environment variable {each}{', ' if hint else ''}{hint}")


def _refuse_shape_of_saved(options: ProgramOptions) -> None:
    names = ("agent", "layers", "attention", "aggregator", "signature")
    given = [f"--{name}" for name in names if getattr(options, name) not in (None, [])]
    if given:
        raise ConfigurationError(
            f"{', '.join(given)} cannot go with --program: the saved program settles it; leave one of them out"
        )


def _overridden(config: Config, options: ProgramOptions) -> Config:
    """Return the configuration, overridden by the options."""
    agents = tuple(model_named(text, "--agent") for text in options.agent or ()) or None
    aggregator = None if options.aggregator is None else model_named(options.aggregator, "--aggregator")
    shape: dict[str, Any] = {"layers": options.layers, "attention": _attention(options.attention)}
    changes = {name: value for name, value in shape.items() if value is not None}
    return config.overridden(
        agents=agents,
        aggregator=aggregator,
        task=config.task.model_copy(update={"signature": options.signature}) if options.signature is not None else None,
        architecture={**config.architecture, **changes} if changes else None,
    )


def _attention(text: str | None) -> str | int | None:
    return int(text) if text is not None and text.isdecimal() else text


def _from_file(path: str, config: Config | None) -> AttentionMoA:
    if config is None:
        return load(path)
    names_agents = bool(config.agents) or config.aggregator is not None
    program = load(path, lms=_connections(path, config) if names_agents or not config.has_limits else None)
    config.limit(program)
    return program


def _connections(path: str, config: Config) -> dict[str, dspy.BaseLM]:
    """Return the LMs of the saved agents that the configuration also names, matched by name, else by model."""
    specs = _specs(path)
    pairs = [(spec, _match(spec, config)) for spec in specs]
    lms = {spec.name: agent.lm_for(spec) for spec, agent in pairs if agent is not None}
    if not lms:
        raise ConfigurationError(
            f"{config.source} has a connection for none of the agents of {path} "
            f"({', '.join(f'{spec.name}: {spec.model}' for spec in specs)}); name or model must be the same"
        )
    return lms


def _match(spec: AgentSpec, config: Config) -> AgentConfig | None:
    candidates = [*config.agents, *([config.aggregator] if config.aggregator is not None else [])]
    by_name = (agent for agent in candidates if agent.name is not None and agent.name == spec.name)
    by_model = (agent for agent in candidates if agent.model == spec.model)
    return next(by_name, None) or next(by_model, None)


def _specs(path: str) -> list[AgentSpec]:
    shape = SavedProgram.read(path).architecture
    return [*shape.agents, *([shape.aggregator] if shape.aggregator is not None else [])]


def _missing_variables(lm: dspy.BaseLM) -> tuple[str, ...]:
    """Return the environment variables that may hold the LM's missing key; empty if no key is missing."""
    if not isinstance(lm, dspy.LM) or not isinstance(lm.engine, str) or lm.kwargs.get("api_key"):
        return ()
    provider, has_key = native_route(lm)
    with _blank_is_unset():
        if provider is not None:
            return () if has_key else missing_native_keys(provider, _KEY_POLICIES)
        return _missing_in_litellm(lm)


@contextmanager
def _blank_is_unset() -> Iterator[None]:
    """Unset environment variables that hold only spaces within the block, because they are not keys."""
    blank = {name: value for name, value in os.environ.items() if not value.strip()}
    for name in blank:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(blank)


def _missing_in_litellm(lm: dspy.LM) -> tuple[str, ...]:
    """Return LiteLLM's missing key variables. It names one of several, so any key of the provider counts."""
    import litellm  # takes seconds to import

    missing = litellm.validate_environment(lm.model, api_base=lm.kwargs.get("api_base"))["missing_keys"]
    keys = tuple(name for name in missing if name.endswith("_API_KEY"))
    stem = re.split(r"[^a-z]", lm.model.lower())[0].upper()
    stems = (stem, "HF") if stem == "HUGGINGFACE" else (stem,)
    others = (name for name in os.environ if name.endswith(("KEY", "TOKEN")))
    return () if any(name.startswith(stems) for name in others) else keys
