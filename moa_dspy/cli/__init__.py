"""The command line: ``moa-dspy ask``, ``show`` and the other commands.

A command imports its implementation only when it runs, so ``--help`` loads neither DSPy nor a provider's library.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments without the program's name. Default: those of this process.

    Returns:
        The exit code: 0 ok, 1 the work failed, 2 wrong usage, 130 interrupted.
    """
    from moa_dspy.cli.app import run

    return run(argv)
