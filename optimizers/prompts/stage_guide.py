"""Guides GEPA by the scores of stages: which predictor it works on next, and which proposals it keeps.

The answer of a run is one score. Its stages have one for every answer that was written on the way, so they show sooner
where a run loses, and whether a new prompt helps the step that it was written for.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from moa_dspy.evaluation.scoring import Metric
from moa_dspy.optimizers.analysis.stages import StageScore, StageScores, attribute
from moa_dspy.program import AttentionMoA
from moa_dspy.trace import Trace

__all__ = ["StageGuide"]

_LEAST: Final = 0.1
"""The chance of a stage that loses nothing, as a share of one that loses everything. Scores can miss what it does."""
_JUDGED_BY: Final[Mapping[str, tuple[str, bool]]] = {
    "improve": ("propose", True),
    "critique": ("refine", False),
    "self_critique": ("refine", True),
    "joint_critique": ("refine", False),
}
"""The stage whose answers show how good a role's texts are, and whether they are those of the same agent."""


class StageGuide:
    """Chooses predictors (GEPA's ``component_selector``) and judges proposals (its ``acceptance_criterion``).

    A predictor is drawn with a chance that grows with what its stage loses: the score that its step could have reached
    from what it read, minus the score that it reached. A proposal is kept if the runs score more and the stage of the
    changed predictor not less, or if the runs score the same and the stage scores more.
    """

    def __init__(self, metric: Metric, program: AttentionMoA, seed: int) -> None:
        self._metric, self._program = metric, program
        self._random = random.Random(seed)  # noqa: S311 (no secret)
        self._names = [agent.name for agent in program.named_agents]

    def __call__(
        self,
        state: Any,
        trajectories: Sequence[Mapping[str, Any]],
        subsample_scores: Sequence[float],
        candidate_idx: int,
        candidate: Mapping[str, str],
    ) -> list[str]:
        """Return the name of the predictor to work on (called by GEPA)."""
        del state, subsample_scores, candidate_idx
        runs = self._scored(trajectories)
        losses = [
            _mean(_reach(run, one, name) - one.score for run in runs for one in self._judged(name, run))
            for name in candidate
        ]
        return self._random.choices(list(candidate), [_LEAST + max(loss or 0.0, 0.0) for loss in losses])

    def should_accept(self, proposal: Any, state: Any) -> bool:
        """Return whether a proposal is evaluated on all examples, and may become a parent (called by GEPA)."""
        before, after = proposal.eval_before, proposal.eval_after
        change = math.fsum(after.scores) - math.fsum(before.scores)
        parent = state.program_candidates[proposal.parent_program_ids[0]]
        old, new = self._scored(before.trajectories), self._scored(after.trajectories)
        stages = [
            self._reached(name, new) - self._reached(name, old)
            for name, text in proposal.candidate.items()
            if parent.get(name) != text
        ]
        if change or not stages:
            return change > 0 and min(stages, default=0.0) >= 0
        return max(stages) > 0 and min(stages) >= 0

    def _reached(self, name: str, runs: Sequence[StageScores]) -> float:
        return _mean(one.score for run in runs for one in self._judged(name, run)) or 0.0

    def _judged(self, name: str, run: StageScores) -> Iterator[StageScore]:
        """Yield the answers by which a predictor's texts are judged: its own, or those that its critiques led to."""
        role, _, number = name.partition("[")
        stage, is_own = _JUDGED_BY.get(role, (role, True))
        agent = self._names[int(number.removesuffix("]"))] if number and is_own else None
        for one in run.steps:
            is_of_role = stage != "propose" or (one.step.layer > 1) == (role == "improve")
            if one.step.stage == stage and is_of_role and agent in (None, one.step.agent):
                yield one

    def _scored(self, trajectories: Sequence[Mapping[str, Any]] | None) -> list[StageScores]:
        runs = [(getattr(one["prediction"], "trace", None), one["example"]) for one in trajectories or ()]
        return [
            attribute(trace, example, self._metric, self._program)
            for trace, example in runs
            if isinstance(trace, Trace)
        ]


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.fmean(known) if known else None


def _reach(run: StageScores, answer: StageScore, name: str) -> float:
    """Return the score that a step could have reached from what it read. A critique or a proposal may find anything."""
    layer = answer.step.layer
    if name.startswith("refine"):
        return max((one.score for one in run.select(layer, "propose")), default=1.0)
    if name == "aggregate":
        return max((one.score for one in run.candidates(layer)), default=1.0)
    if name == "synthesize":
        return max((*run.layers[: layer - 1], *(one.score for one in run.select(layer, "aggregate"))), default=1.0)
    return 1.0
