"""The method that fits the stop decision to the metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dspy
from dspy.teleprompt.reanchor import ReAnchor
from dspy.teleprompt.reanchor.calibrate import MAX_CANDIDATES

from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.prompts.jobs import Job
from moa_dspy.program import AttentionMoA

__all__ = ["Reanchor", "check_stop_decision"]


@dataclass(frozen=True)
class Reanchor:
    """The threshold from which a new layer counts as an improvement (DSPy's ReAnchor).

    The residual synthesis is then asked for the probability that its layer improves instead of yes or no, and goes on
    where it reaches the threshold. The threshold is kept only where it beats plain yes or no on held-out parts of the
    training set.

    Attributes:
        require_cache: refuse models whose answers are not cached; each of up to 40 thresholds runs every example.
    """

    require_cache: bool = True

    def run(self, job: Job) -> dspy.Module:
        """Return the student with a threshold, or as it was."""
        optimizer = ReAnchor(job.score, num_threads=job.concurrency, require_cache=False)
        return optimizer.compile(_StopDecision(job.student), trainset=job.shuffled()).program

    def check(self, program: AttentionMoA, *, final: bool = True) -> None:
        """Refuse a program that decides nothing, and models that would be paid for anew with every threshold.

        Raises:
            ConfigurationError: says what it needs, or names the models.
        """
        if final:
            check_stop_decision(program)
        lms = [agent.lm or dspy.settings.lm for agent in program.agents] + [program.get_lm()]
        uncached = sorted({str(getattr(lm, "model", lm)) for lm in lms if not getattr(lm, "cache", True)})
        if self.require_cache and uncached:
            raise ConfigurationError(
                f"the answers of {', '.join(uncached)} are not cached, so every threshold that is tried would pay for "
                "all runs again; switch the cache on, or pass require_cache=False"
            )

    def most_runs(self, job: Job) -> int:
        """Return how many answers are judged, at most: with yes or no, with a probability, and for each threshold."""
        return (3 + MAX_CANDIDATES) * len(job.trainset)


class _StopDecision(dspy.Module):
    """A program of which an optimizer sees the stop decision alone, whatever decisions the task's own fields are."""

    def __init__(self, program: AttentionMoA) -> None:
        super().__init__()
        self.program = program

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Return the synthesis."""
        return [("synthesize", self.program.synthesize)]

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program."""
        return self.program(**inputs)


def check_stop_decision(program: AttentionMoA) -> None:
    """Refuse a program that decides nothing.

    Raises:
        ConfigurationError: says what it needs.
    """
    shape = program.architecture
    if not (shape.synthesizes and shape.early_stop):
        raise ConfigurationError(
            "method 'reanchor' fits the stop decision, and this program has none; "
            "it needs layers=2 or more, residual='synthesis' and early_stop=True"
        )
