"""The answer of a program: the task's outputs, and the trace of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from moa_dspy.display import Displayed, Table
from moa_dspy.trace import Trace

__all__ = ["Prediction"]


class Prediction(Displayed, dspy.Prediction):
    """The task's outputs, as from any DSPy program, and the trace of the run. ``str`` shows the outputs in full.

    Attributes:
        trace: the run's ``Trace``. It is not an output, so keys, comparisons and exports do not include it.
    """

    trace: Trace

    def __init__(self, *args: Any, trace: Trace | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        trace = trace or getattr(kwargs.get("base"), "trace", None)
        if trace is not None:
            object.__setattr__(self, "trace", trace)

    def __str__(self) -> str:
        return dspy.Prediction.__repr__(self)

    def _facts(self) -> Mapping[str, Any]:
        return dict(self.items())

    def _tables(self) -> Sequence[Table]:
        trace: Trace | None = getattr(self, "trace", None)
        if trace is None:
            return []
        return [Table("trace", ("", ""), list(trace._facts().items())), *trace._tables()]
