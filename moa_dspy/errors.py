"""Every error that this package raises on purpose.

    MoAError
    ├── ConfigurationError       what was asked for cannot be built: unknown model, bad option, bad file (exit code 2)
    │   ├── ProgramFileError     a program file is damaged, foreign, or newer than this version
    │   └── InputError           a call lacks an input field of the task, or names one that it does not have
    └── RunError                 the work itself failed (exit code 1)
        ├── AllProposalsFailedError   no agent answered; lists every cause
        ├── StepFailedError      a step failed in a strict run
        ├── LocalModelError      the embedded model could not be started
        └── UnparsedVerdictError      a judge's reply could not be read, so an item has no score

A message says what was given, what was expected and what to do. ``ConfigurationError`` is also a ``ValueError``,
so code that knows nothing of this package can catch it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "AllProposalsFailedError",
    "ConfigurationError",
    "InputError",
    "LocalModelError",
    "MoAError",
    "ProgramFileError",
    "RunError",
    "StepFailedError",
    "UnparsedVerdictError",
]


class MoAError(Exception):
    """Base of all errors of this package.

    Attributes:
        exit_code: what the command line exits with.
    """

    exit_code: int = 1


class ConfigurationError(MoAError, ValueError):
    """Something the caller wrote cannot work; nothing was called or paid for."""

    exit_code = 2


class ProgramFileError(ConfigurationError):
    """A program file cannot be read: damaged, not a program, or of a newer format."""


class InputError(ConfigurationError):
    """A call does not fit the task's input fields."""


class RunError(MoAError):
    """The work was started and failed."""


class AllProposalsFailedError(RunError):
    """No agent produced an answer.

    Attributes:
        causes: agent name to what went wrong.
    """

    def __init__(self, causes: dict[str, str]) -> None:
        self.causes = dict(causes)
        lines = "; ".join(f"{agent}: {cause}" for agent, cause in self.causes.items())
        super().__init__(f"no agent answered ({lines})")


class StepFailedError(RunError):
    """A step failed, and the run is strict.

    Attributes:
        stage: what was being done.
        agent: who did it.
        kind: stable name of the cause, such as ``timeout`` or ``rate_limit``.
    """

    def __init__(self, stage: str, agent: str, kind: str, message: str) -> None:
        self.stage, self.agent, self.kind = stage, agent, kind
        super().__init__(f"{stage} by {agent} failed ({kind}): {message}")


class LocalModelError(RunError):
    """The embedded model could not be started."""


class UnparsedVerdictError(RunError):
    """A judge's reply could not be read, so there is no score for the item.

    Attributes:
        details: what is known of the item, as in a verdict.
    """

    def __init__(self, message: str, details: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.details = dict(details)
