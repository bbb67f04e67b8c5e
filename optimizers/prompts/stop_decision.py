"""The prompt method that fits the stop decision to the metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dspy
from dspy.teleprompt.reanchor import ReAnchor

from moa_dspy._dspy import reanchor_candidates
from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.prompts.method import BuiltInMethod, PromptJob
from moa_dspy.program import AttentionMoA

__all__ = ["Reanchor"]


@dataclass(frozen=True)
class Reanchor(BuiltInMethod):
    """Fits the probability threshold at which a run continues with a new layer (DSPy's ReAnchor).

    The residual synthesis is asked for the probability that its layer improves the answer, instead of yes or no. The
    run continues if the probability reaches the threshold. DSPy keeps the threshold only if it beats plain yes or no on
    held-out parts of the training set.

    Attributes:
        require_cache: reject models whose answers are not cached. Up to 40 thresholds are tried on every example.
    """

    require_cache: bool = True

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the student with a threshold, or unchanged."""
        optimizer = ReAnchor(job.score, num_threads=job.concurrency, require_cache=False)
        return optimizer.compile(_StopDecision(job.student), trainset=job.shuffled()).program

    def check(self, program: AttentionMoA, *, final: bool = True) -> None:
        """Raise if there is no stop decision, or if every threshold would repeat all runs.

        Raises:
            ConfigurationError: if the final program has no stop decision, or if a model's answers are not cached.
        """
        architecture = program.architecture
        if final and not (architecture.synthesizes and architecture.early_stop):
            raise ConfigurationError(
                "method 'reanchor' fits the stop decision, and this program has none; "
                "it needs layers=2 or more, residual='synthesis' and early_stop=True"
            )
        lms = [agent.lm or dspy.settings.lm for agent in program.agents] + [program.get_lm()]
        uncached = sorted({str(getattr(lm, "model", lm)) for lm in lms if not getattr(lm, "cache", True)})
        if self.require_cache and uncached:
            raise ConfigurationError(
                f"the answers of {', '.join(uncached)} are not cached, so every threshold that is tried would pay for "
                "all runs again; switch the cache on, or pass require_cache=False"
            )

    def most_runs(self, job: PromptJob) -> int:
        """Return the maximum number of scored answers: with yes or no, with a probability, and for each threshold."""
        return (3 + reanchor_candidates()) * len(job.trainset)


class _StopDecision(dspy.Module):
    """A program that shows an optimizer only its stop decision, and no decisions among the task's outputs."""

    def __init__(self, program: AttentionMoA) -> None:
        super().__init__()
        self.program = program

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Return only the synthesis."""
        return [("synthesize", self.program.synthesize)]

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program."""
        return self.program(**inputs)
