"""Build the program from the options, and check that its models have keys."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from typing import Final

import dspy
import pydantic

from moa_dspy._dspy import missing_native_keys, native_route
from moa_dspy.agents import Agent, remarks_of
from moa_dspy.cli.options import LimitOptions, ProgramOptions, ServingOptions
from moa_dspy.cli.output import note, warning
from moa_dspy.config import AgentConfig, Config, load_config
from moa_dspy.cost.budget import Budget
from moa_dspy.errors import ConfigurationError
from moa_dspy.files.program_file import SavedProgram
from moa_dspy.gate import gate_of
from moa_dspy.program import AttentionMoA, load
from moa_dspy.serve.programs import load_programs, warning_of

__all__ = [
    "DEFAULT_AGENTS",
    "budget_of",
    "build_program",
    "check_keys",
    "check_lms",
    "model_named",
    "note_default_agents",
    "refuse_beside",
    "served_programs",
    "uses_default_agents",
]

DEFAULT_AGENTS: Final = tuple(
    AgentConfig(model="local", temperature=temperature, max_tokens=128, options={"frequency_penalty": 0.5})
    for temperature in (0.0, 0.4, 0.8)
)
"""The default agents: three samples of the embedded model.

A model of this size often repeats itself. The penalty and the limit shorten such output.
"""

_SETTLED_BY_PROGRAM: Final = ("agent", "layers", "attention", "critiques", "gate", "dissent", "aggregator", "signature")

# A model's own name may contain @, as in model@20240229 or model@latest. Only a plausible temperature is split off.
_WITH_TEMPERATURE: Final = re.compile(r"(?P<model>.+)@(?P<temperature>-?\d{1,2}(\.\d*)?|\.\d+)")

# Providers that accept only a key as credential. Cloud platforms have several kinds of credentials.
_KEY_POLICIES: Final = ("key", "oauth-unless-explicit")


def build_program(options: ProgramOptions) -> AttentionMoA:
    """Return the program: from a saved file, a configuration, the options alone, or with the default agents.

    No LM is called.

    Raises:
        ConfigurationError: if an option does not fit.
    """
    config = None if options.config is None else load_config(options.config)
    if options.program is not None:
        refuse_beside("a saved program", options, _SETTLED_BY_PROGRAM)
        return _from_file(options.program, config, options.vectorizer or (), options.module or ())
    for name, allowed in (("vectorizer", options.vectorizer), ("module", options.module)):
        if allowed:
            raise ConfigurationError(f"--{name} {allowed[0]} allows what a saved program asks for; name one")
    if not uses_default_agents(options):
        return _overridden(config or Config(), options).program()
    config = _overridden(Config(agents=DEFAULT_AGENTS), options)
    try:
        return config.program()
    except ConfigurationError as error:
        if any(agent.model == "local" for agent in config.agents) and "installed" in str(error):
            raise ConfigurationError(f"{error}; or name models of a provider with --agent") from error
        raise


def served_programs(options: ServingOptions) -> dict[str, AttentionMoA]:
    """Return the programs that a server offers, by name, with keys checked. Warn of those that lost a comparison."""
    budget = budget_of(options)
    if not options.programs:
        note("no program is named: three agents on the embedded model are served as moa/local")
        program = Config(agents=DEFAULT_AGENTS).program()
        program.budget = program.budget.within(budget)
        return {"local": program}
    programs = load_programs(
        options.programs, budget=budget, vectorizers=options.vectorizer or (), modules=options.module or ()
    )
    for name, program in programs.items():
        check_keys(program)
        if (problem := warning_of(program)) is not None:
            warning(f"{name}: {problem}")
    return programs


def refuse_beside(what: str, options: ProgramOptions, names: Iterable[str]) -> None:
    """Raise ConfigurationError if one of the named options is given, because ``what`` settles them."""
    given = [name for name in names if getattr(options, name) not in (None, [], False)]
    if given:
        listed = ", ".join("PROGRAM" if name == "program" else f"--{name}" for name in given)
        raise ConfigurationError(f"{listed} cannot go with {what}, which settles it; leave one of them out")


def uses_default_agents(options: ProgramOptions) -> bool:
    """Return whether no agent is named, so that the embedded model is used."""
    return options.config is None and options.program is None and not options.agent


def note_default_agents(options: ProgramOptions, doing: str) -> None:
    """Write a note that the embedded model is used, if no agent is named."""
    if uses_default_agents(options):
        note(f"no agent is named: {doing} three on the embedded model 'local'; --agent names others")


def budget_of(options: LimitOptions) -> Budget | None:
    """Return the budget of a command, or None without any limit.

    Raises:
        ConfigurationError: if a limit is too small.
    """
    limits = (options.max_calls, options.max_tokens, options.max_usd, options.max_seconds)
    return None if limits == (None, None, None, None) else Budget(*limits)


def model_named(text: str, option: str) -> AgentConfig:
    """Return the agent of ``model`` or ``model@temperature``.

    Raises:
        ConfigurationError: if the model is missing, or the temperature is out of range.
    """
    match = _WITH_TEMPERATURE.fullmatch(text)
    model, temperature = (match["model"], float(match["temperature"])) if match else (text, None)
    name, at, warmth = model.rpartition("@")
    if at and "/" not in text:  # only names with a provider may have a version after @
        raise ConfigurationError(
            f"{option} {text}: {warmth!r} is no temperature; write {name or 'model'}@0.7, from 0 to 2"
        )
    if not model.strip():
        raise ConfigurationError(f"{option} {text!r} names no model; write it as provider/model, or 'local'")
    try:
        return AgentConfig(model=model, temperature=temperature)
    except pydantic.ValidationError:
        raise ConfigurationError(f"{option} {text}: a temperature is from 0 to 2, not {temperature}") from None


def check_keys(program: AttentionMoA) -> None:
    """Check that every agent has a model and a key for it. Note which settings are not sent.

    Raises:
        ConfigurationError: if one is missing. The message names the agent, or the model and the environment variable
            for its key.
    """
    agents = [*program.named_agents, *([] if program.aggregator is None else [program.aggregator])]
    for agent in agents:
        if not isinstance(agent.lm, dspy.BaseLM):
            raise ConfigurationError(
                f"agent {agent.name or 'aggregator'!r} has no model; give it one in a --config file, under the same "
                "name"
            )
    check_lms((agent.lm for agent in agents), "or name another one (api_key_env) in a --config file")
    for remark in remarks_of(program.named_agents):
        note(remark)


def check_lms(lms: Iterable[Agent | dspy.BaseLM | str | None], hint: str = "") -> None:
    """Raise ConfigurationError if a model has no key. The message names models and environment variables."""
    needs: dict[str, str] = {}
    for lm in lms:
        if isinstance(lm, dspy.BaseLM) and (variables := _missing_variables(lm)):
            needs.setdefault(" or ".join(variables), lm.model)
    if needs:
        each = " and ".join(f"{variables} (for {model})" for variables, model in needs.items())
        raise ConfigurationError(f"no API key: set the environment variable {each}{', ' if hint else ''}{hint}")


def _overridden(config: Config, options: ProgramOptions) -> Config:
    attention = options.attention
    shape = {
        "layers": options.layers,
        "attention": int(attention) if attention is not None and attention.isdecimal() else attention,
        "critiques": options.critiques,
        "dissent": options.dissent or None,
        "gate": None if options.gate is None else gate_of(options.gate),
    }
    changes = {name: value for name, value in shape.items() if value is not None}
    return config.overridden(
        agents=tuple(model_named(text, "--agent") for text in options.agent or ()) or None,
        aggregator=None if options.aggregator is None else model_named(options.aggregator, "--aggregator"),
        task=None if options.signature is None else config.task.model_copy(update={"signature": options.signature}),
        architecture={**config.architecture, **changes} if changes else None,
    )


def _from_file(
    path: str, config: Config | None, vectorizers: Collection[str], modules: Collection[str]
) -> AttentionMoA:
    if config is None:
        return load(path, vectorizers=vectorizers, modules=modules)
    names_agents = bool(config.agents) or config.aggregator is not None
    lms = _connections(path, config) if names_agents or not config.has_limits else None
    program = load(path, lms=lms, vectorizers=vectorizers, modules=modules)
    config.limit(program)
    return program


def _connections(path: str, config: Config) -> dict[str, dspy.BaseLM]:
    """Return the LMs of the saved agents that the configuration also names, matched by name, else by model."""
    shape = SavedProgram.read(path).architecture
    specs = [spec for spec in (*shape.agents, shape.aggregator) if spec is not None]
    agents = [agent for agent in (*config.agents, config.aggregator) if agent is not None]
    named = {agent.name: agent for agent in reversed(agents) if agent.name is not None}
    by_model = {agent.model: agent for agent in reversed(agents)}  # of several, the first counts
    pairs = [(spec, named.get(spec.name) or by_model.get(spec.model or "")) for spec in specs]
    lms = {spec.name: agent.lm_for(spec) for spec, agent in pairs if agent is not None}
    if not lms:
        raise ConfigurationError(
            f"{config.source} has a connection for none of the agents of {path} "
            f"({', '.join(f'{spec.name}: {spec.model}' for spec in specs)}); name or model must be the same"
        )
    return lms


def _missing_variables(lm: dspy.BaseLM) -> tuple[str, ...]:
    """Return the environment variables that may hold the LM's missing key; empty if no key is missing."""
    if not isinstance(lm, dspy.LM) or not isinstance(lm.engine, str) or lm.kwargs.get("api_key"):
        return ()
    provider, has_key = native_route(lm)
    blank = {name: value for name, value in os.environ.items() if not value.strip()}
    for name in blank:  # spaces are not a key
        del os.environ[name]
    try:
        if provider is None:
            return _missing_in_litellm(lm)
        return () if has_key else missing_native_keys(provider, _KEY_POLICIES)
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
