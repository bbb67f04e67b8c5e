"""Progress and result of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from moa_dspy.cost.usage import Usage
from moa_dspy.display import Displayed, Table
from moa_dspy.evaluation.progress import cost_so_far

__all__ = ["RunProgress", "RunResult"]


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run.

    Attributes:
        total: number of rows; None if it is unknown.
        done: number of answered rows, those of earlier starts included, and of rows that failed in this start.
        errors: number of rows that failed in this start.
        usage: usage so far, that of earlier starts included.
        seconds: seconds since this start.
        remark: how the last row failed, or what happened to a batch; None if neither.
    """

    total: int | None
    done: int
    errors: int
    usage: Usage
    seconds: float
    remark: str | None = None

    @property
    def status(self) -> str:
        """Return failures and cost so far in one line."""
        return ", ".join([*([f"{self.errors} errors"] if self.errors else []), cost_so_far(self.usage)])


@dataclass(frozen=True, repr=False)
class RunResult(Displayed):
    """The result of ``moa_dspy.run``.

    Attributes:
        program: the program's name.
        answered: number of rows with an answer, those of earlier starts included.
        errors: number of rows that failed. The same run tries them again.
        pending: number of rows that were not run because of the budget; None if the number of rows is unknown.
        ended_by: ``rows`` (all were run) or ``budget``.
        usage: usage of all rows, earlier starts included.
        own_usage: usage of this start.
        seconds: wall time of this start.
        path: the file of answers.
        answers: the answers in the order of the rows, if there is no file.
    """

    program: str
    answered: int
    errors: int
    pending: int | None
    ended_by: Literal["rows", "budget"]
    usage: Usage
    own_usage: Usage
    seconds: float
    path: Path | None = None
    answers: Sequence[Mapping[str, Any]] | None = None

    def _facts(self) -> Mapping[str, Any]:
        return {
            "program": self.program,
            "answered": self.answered,
            "errors": self.errors or None,
            "pending": self.pending or None,
            "ended_by": self.ended_by,
            "cost": cost_so_far(self.own_usage),
            "cost_in_all": None if self.usage == self.own_usage else cost_so_far(self.usage),
            "seconds": round(self.seconds, 2),
            "path": self.path,
        }

    def _tables(self) -> Sequence[Table]:
        if not self.answers:
            return ()
        head = tuple(dict.fromkeys(name for answer in self.answers for name in answer))
        return [Table("answers", head, [tuple(answer.get(name) for name in head) for answer in self.answers])]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values, without the answers."""
        values = {"kind": "run", **vars(self), "seconds": round(self.seconds, 3)}
        content: dict[str, Any] = to_jsonable_python(values, exclude={"answers"})
        return content
