"""What the user allows a command to spend, and the question whether it may."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from moa_dspy.cli.console import is_terminal

if TYPE_CHECKING:
    from moa_dspy.cost.budget import Budget

__all__ = ["MaxCalls", "MaxMinutes", "MaxTokens", "MaxUsd", "agreed", "budget_of"]

MaxCalls: TypeAlias = Annotated[int | None, typer.Option(min=1, metavar="N", help="End after so many LM calls.")]
MaxTokens: TypeAlias = Annotated[int | None, typer.Option(min=1, metavar="N", help="End after so many tokens.")]
MaxUsd: TypeAlias = Annotated[float | None, typer.Option(metavar="DOLLARS", help="End after so many dollars.")]
MaxMinutes: TypeAlias = Annotated[float | None, typer.Option(metavar="MINUTES", help="End after so much time.")]


def budget_of(calls: int | None, tokens: int | None, usd: float | None, minutes: float | None) -> Budget | None:
    """Return the budget, if there is one.

    Raises:
        ConfigurationError: a limit is too small.
    """
    from moa_dspy.cost.budget import Budget

    limits = (calls, tokens, usd, None if minutes is None else minutes * 60)
    return None if limits == (None, None, None, None) else Budget(*limits)


def agreed() -> bool | None:
    """Ask whether to go on; None where nobody is there to be asked."""
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        return None
    print("run it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
