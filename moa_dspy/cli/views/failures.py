"""The message of a failed run: each cause once, with its agents and a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from moa_dspy.errors import CommandError, ConfigurationError, RunError
from moa_dspy.trace import Failure, Step

__all__ = ["brief", "failure_of", "grouped", "remedy_of"]

# Causes that repeating the command cannot cure, because the request is wrong.
_USAGE_KINDS: Final = frozenset({"auth", "not_configured", "unsupported_model", "unknown_model", "configuration"})

_REMEDIES: Final = {
    "auth": "check the API key (for a server of your own, name its variable as api_key_env in --config)",
    "not_configured": "set what is missing in the environment, or the address and the key in --config (api_base, "
    "api_key_env)",
    "unsupported_model": "check the model's name and your access to it",
    "invalid_request": "check the model's name and options, and the address (api_base)",
    "billing": "check the account's credit",
    "rate_limit": "wait a moment, or use fewer agents on this provider",
    "timeout": "try again, or give the agent a longer timeout in --config (options)",
    "cancelled": "allow more time (--max-seconds, or [budget] and [tolerance] in --config)",
    "transport": "check the address (api_base) and the network",
    "server": "try again later",
    "context_window_exceeded": "shorten the input, or use a model with a larger context",
    "refusal": "ask differently, or use another model",
    "content_filter": "change the input, or the provider's filter settings",
    "truncated": "raise max_tokens of the agent",
    "adapter_parse_error": "the model did not write the asked-for format; use a larger one, or a text output",
}


def failure_of(steps: Sequence[Step]) -> CommandError:
    """Return the error of a run in which no agent answered: causes, remedies and exit code."""
    failed = [step for step in steps if step.error is not None]
    kinds = {step.error.kind for step in failed if step.error is not None}
    wrong_usage = bool(kinds) and kinds <= _USAGE_KINDS
    exit_code = ConfigurationError.exit_code if wrong_usage else RunError.exit_code
    remedies = dict.fromkeys(_REMEDIES[kind] for kind in sorted(kinds) if kind in _REMEDIES)
    message = f"no agent answered: {grouped(failed)}"
    return CommandError("; ".join([message, *remedies]), exit_code)


def remedy_of(failure: Failure) -> str | None:
    """Return what to do about a failure, or None if that depends on the case."""
    return _REMEDIES.get(failure.kind)


def grouped(steps: Iterable[Step]) -> str:
    """Return each distinct failure of ``steps`` with its agents."""
    agents: dict[str, dict[str, None]] = {}
    for step in steps:
        if step.error is not None:
            agents.setdefault(brief(step.error), {})[step.agent] = None
    return "; ".join(f"{cause} ({', '.join(names)})" for cause, names in agents.items())


def brief(failure: Failure, length: int = 200) -> str:
    """Return a failure in one line, without DSPy's advice for programmers."""
    message = failure.message.partition(" To fix: ")[0].partition(" credential came from: ")[0]
    message = re.sub(r"\A\[\S+\] ", "", message).strip()  # DSPy puts the model first, but the agent is named anyway
    if len(message) > length:
        message = f"{message[: length - 1]}…"
    return f"{failure.kind}: {message}" if message else failure.kind
