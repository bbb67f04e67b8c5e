"""The cost of a command: shown, and confirmed on a terminal, before anything is paid."""

from __future__ import annotations

from collections.abc import Callable

from moa_dspy.cli.options import CostOptions
from moa_dspy.cli.output import confirmed, note, write_json, write_parts
from moa_dspy.errors import DeclinedError
from moa_dspy.planning import WorkEstimate

__all__ = ["approval", "require_approval"]


def approval(options: CostOptions) -> Callable[[WorkEstimate], bool] | None:
    """Return the ``before`` of ``optimize`` and ``compare``. With ``--quiet`` nothing is estimated or asked."""
    if options.quiet and not options.estimate:
        return None

    def before(cost: WorkEstimate) -> bool:
        if options.estimate:
            write_json(cost.to_dict()) if options.json else write_parts(str(cost))
            return False
        for line in str(cost).splitlines():
            note(line)
        return options.yes or confirmed() is not False

    return before


def require_approval(options: CostOptions, cost: Callable[[], WorkEstimate]) -> None:
    """Show the cost, and ask on a terminal unless ``--yes`` is given.

    Raises:
        DeclinedError: if the user says no, or with ``--estimate``, which ends the command without an error.
    """
    before = approval(options)
    if before is not None and not before(cost()):
        raise DeclinedError("not confirmed; nothing was paid")
