"""Missing API keys, found before the first call."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import dspy
from dspy._vendor.lm15.doctor import explain_auth
from dspy._vendor.lm15.registry import lookup
from dspy.clients.backend_selection import select_backend

from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from moa_dspy.agents import Agent
    from moa_dspy.program import AttentionMoA

__all__ = ["check_keys", "missing_variables"]

# Where a key is the only way in; the cloud providers' chains of identities are left to them.
_KEY_POLICIES: Final = ("key", "oauth-unless-explicit")


def check_keys(program: AttentionMoA) -> None:
    """Refuse a program of which an agent has no model, or no key for it.

    Raises:
        ConfigurationError: names the agent's model and the environment variable that should hold the key.
    """
    needs: dict[str, str] = {}
    for name, agent in _named_agents(program):
        if not isinstance(agent.lm, dspy.BaseLM):
            raise ConfigurationError(
                f"agent {name!r} has no model; give it one in a --config file, under the same name"
            )
        variables = missing_variables(agent.lm)
        if variables:
            needs.setdefault(" or ".join(variables), agent.lm.model)
    if needs:
        each = " and ".join(f"{variables} (for {model})" for variables, model in needs.items())
        raise ConfigurationError(
            f"no API key: set the environment variable {each}, or name another one (api_key_env) in a --config file"
        )


def missing_variables(lm: dspy.BaseLM) -> tuple[str, ...]:
    """Return the environment variables of which one should hold the LM's key; none where it has a key or needs none."""
    if not isinstance(lm, dspy.LM) or not isinstance(lm.engine, str) or lm.kwargs.get("api_key"):
        return ()
    selection = select_backend(lm)
    with _blank_is_unset():
        if selection.native and selection.resolution is not None:
            return () if "api_key" in selection.clients else _missing_natively(selection.resolution.provider)
        return _missing_in_litellm(lm)


@contextmanager
def _blank_is_unset() -> Iterator[None]:
    """Take away the variables that hold nothing but space: no key is one of them."""
    blank = {name: value for name, value in os.environ.items() if not value.strip()}
    for name in blank:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(blank)


def _missing_natively(provider: str) -> tuple[str, ...]:
    definition = lookup(provider)
    if definition is None or definition.credential_policy not in _KEY_POLICIES or definition.hosted:
        return ()
    return () if explain_auth(provider).configured else tuple(definition.env_keys)


def _missing_in_litellm(lm: dspy.LM) -> tuple[str, ...]:
    """Ask LiteLLM, which names one variable where it reads several: any key of that provider's counts as there."""
    import litellm

    missing = litellm.validate_environment(lm.model, api_base=lm.kwargs.get("api_base"))["missing_keys"]
    keys = tuple(name for name in missing if name.endswith("_API_KEY"))
    stem = re.split(r"[^a-z]", lm.model.lower())[0].upper()
    stems = (stem, "HF") if stem == "HUGGINGFACE" else (stem,)
    others = (name for name in os.environ if name.endswith(("KEY", "TOKEN")))
    return () if any(name.startswith(stems) for name in others) else keys


def _named_agents(program: AttentionMoA) -> Iterator[tuple[str, Agent]]:
    for spec, agent in zip(program.architecture.agents, program.agents, strict=True):
        yield spec.name, agent
    if program.aggregator is not None:
        yield program.aggregator.name or "aggregator", program.aggregator
