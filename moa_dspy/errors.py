"""The errors that this package raises on purpose, in the order of their tree.

A message says what was given, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moa_dspy.redaction import redacted

__all__ = [
    "AllProposalsFailedError",
    "AllRunsFailedError",
    "BudgetExhaustedError",
    "BudgetInterruptError",
    "BudgetTooSmallError",
    "CommandError",
    "ConfigurationError",
    "DeclinedError",
    "InputError",
    "LocalModelError",
    "MetricError",
    "MoAError",
    "ProgramFileError",
    "PromptModelInterruptError",
    "RunError",
    "StepFailedError",
    "UnparsedVerdictError",
]


class MoAError(Exception):
    """Base class of all errors of this package. Their messages contain no credentials.

    Attributes:
        exit_code: the exit code of the command line for this error.
    """

    exit_code: int = 1

    def __init__(self, *args: Any) -> None:
        # Messages quote providers, and a provider may repeat the key that it refuses.
        super().__init__(*(redacted(part) if isinstance(part, str) else part for part in args))


class ConfigurationError(MoAError, ValueError):
    """The request cannot work as written: unknown model, bad option, bad file. Nothing was called or paid for.

    It is also a ``ValueError``, so that callers can catch it without importing this package.
    """

    exit_code = 2


class ProgramFileError(ConfigurationError):
    """A program file cannot be read: it is damaged, not a program, or of a newer format."""


class InputError(ConfigurationError):
    """A call lacks an input field of the task, or has an unknown one."""


class DeclinedError(ConfigurationError):
    """The caller saw the estimate and declined."""


class RunError(MoAError):
    """The work was started and failed."""


class AllProposalsFailedError(RunError):
    """No agent produced an answer.

    Attributes:
        causes: the cause of failure by agent name.
    """

    def __init__(self, causes: dict[str, str]) -> None:
        self.causes = dict(causes)
        lines = "; ".join(f"{agent}: {cause}" for agent, cause in self.causes.items())
        super().__init__(f"no agent answered ({lines})")


class StepFailedError(RunError):
    """A step failed in a strict run.

    Attributes:
        stage: the stage of the step, such as ``propose``.
        agent: the name of the agent.
        kind: the kind of failure, such as ``timeout`` or ``rate_limit``.
    """

    def __init__(self, stage: str, agent: str, kind: str, message: str) -> None:
        self.stage, self.agent, self.kind = stage, agent, kind
        super().__init__(f"{stage} by {agent} failed ({kind}): {message}")


class AllRunsFailedError(RunError):
    """The program failed on every example."""


class BudgetExhaustedError(RunError):
    """The budget does not cover a further run."""

    def __init__(self, message: str = "the budget does not cover a further run") -> None:
        super().__init__(message)


class BudgetTooSmallError(RunError):
    """The budget ended before there was a result to return."""


class MetricError(RunError):
    """The metric returned something that is no score, or it raised on every answer."""


class UnparsedVerdictError(RunError):
    """A judge's reply could not be read, so the item has no score.

    Attributes:
        details: what is known about the item, as in a verdict.
    """

    def __init__(self, message: str, details: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.details = dict(details)


class LocalModelError(RunError):
    """The embedded model could not be started."""


class CommandError(RunError):
    """A command failed with its own exit code.

    Attributes:
        exit_code: the exit code of the command line.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class BudgetInterruptError(BaseException):
    """``BudgetExhaustedError`` for DSPy's optimizers, which take any ``Exception`` for a failed example and go on."""


class PromptModelInterruptError(BaseException):
    """Ends one of DSPy's optimizers, because no proposal of the model that writes prompts can be read."""
