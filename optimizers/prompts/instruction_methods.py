"""Methods in which a model writes instructions and the best-scoring ones are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import dspy
from dspy.teleprompt import COPRO, GEPA, SIMBA, MIPROv2

from moa_dspy._dspy import gepa_sizes
from moa_dspy.optimizers.prompts.feedback import StageFeedback
from moa_dspy.optimizers.prompts.method import BuiltInMethod, PromptJob, check_at_least

__all__ = ["Copro", "Gepa", "Mipro", "Simba"]


@dataclass(frozen=True)
class Copro(BuiltInMethod):
    """Coordinate ascent over instructions, one predictor at a time (DSPy's COPRO).

    Every candidate of every predictor and round is scored on the training set.

    Attributes:
        breadth: candidates of a predictor in a round, at least 2; None: by effort.
        depth: the number of rounds; None: by effort.
        temperature: the temperature of the model that writes instructions.
    """

    breadth: int | None = None
    depth: int | None = None
    temperature: float = 1.4

    def __post_init__(self) -> None:
        check_at_least("breadth", self.breadth, 2)
        check_at_least("depth", self.depth, 1)

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the best candidate on the training set."""
        optimizer = COPRO(
            prompt_model=job.prompt_lm,
            metric=job.score,
            breadth=job.by_effort(self.breadth, 4, 7, 10),
            depth=job.by_effort(self.depth, 1, 2, 3),
            init_temperature=self.temperature,
        )
        kwargs = {"num_threads": job.concurrency, "display_progress": False}
        return optimizer.compile(job.student, trainset=job.shuffled(), eval_kwargs=kwargs)

    def most_runs(self, job: PromptJob) -> int:
        """Return the maximum number of scored answers: every candidate on the training set."""
        candidates = job.by_effort(self.breadth, 4, 7, 10) * job.by_effort(self.depth, 1, 2, 3)
        return candidates * len(job.student.predictors()) * len(job.trainset)


@dataclass(frozen=True)
class Mipro(BuiltInMethod):
    """Instructions and demos together, by Bayesian optimization (DSPy's MIPROv2).

    Attributes:
        candidates: instructions and sets of demos to choose from, at least 3; None: by effort.
        trials: combinations to try; None: by DSPy's rule, from the number of candidates and predictors.
        bootstrapped_demos: as in ``Bootstrap``. If both numbers of demos are 0, only instructions are tuned.
        labeled_demos: as in ``Bootstrap``.
        minibatch: examples on which a trial is scored first; None: 35 if the validation set has more than 50, else all.
        temperature: the temperature at which instructions are written.
        threshold: as in ``Bootstrap``.
    """

    candidates: int | None = None
    trials: int | None = None
    bootstrapped_demos: int = 4
    labeled_demos: int = 4
    minibatch: int | None = None
    temperature: float = 1.0
    threshold: float | None = None

    def __post_init__(self) -> None:
        check_at_least("candidates", self.candidates, 3)
        check_at_least("trials", self.trials, 1)
        check_at_least("minibatch", self.minibatch, 1)

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the best combination on the validation set."""
        candidates = job.by_effort(self.candidates, 6, 12, 18)
        batch = self._batch(job)
        optimizer = MIPROv2(
            metric=job.score,
            prompt_model=job.prompt_lm,
            task_model=job.ambient,
            max_bootstrapped_demos=self.bootstrapped_demos,
            max_labeled_demos=self.labeled_demos,
            auto=None,
            num_candidates=candidates,
            num_threads=job.concurrency,
            seed=job.seed,
            init_temperature=self.temperature,
            track_stats=False,
            metric_threshold=self.threshold,
        )
        return optimizer.compile(
            job.student,
            trainset=list(job.trainset),
            valset=list(job.valset),
            num_trials=self._trials(job, candidates),
            minibatch=batch < len(job.valset),
            minibatch_size=batch,
        )

    def most_runs(self, job: PromptJob) -> int:
        """Return the maximum number of scored answers: trials, full evaluations of the best, and bootstrapping."""
        candidates = job.by_effort(self.candidates, 6, 12, 18)
        trials, batch = self._trials(job, candidates), self._batch(job)
        looks = trials * batch + (2 + trials // 5) * len(job.valset)
        return looks + candidates * len(job.trainset)

    def _batch(self, job: PromptJob) -> int:
        everything = len(job.valset)
        return min(self.minibatch or (35 if everything > 50 else everything), everything)

    def _trials(self, job: PromptJob, candidates: int) -> int:
        if self.trials is not None:
            return self.trials
        variables = len(job.student.predictors()) * (2 if self.bootstrapped_demos or self.labeled_demos else 1)
        return int(max(2 * variables * math.log2(candidates), 1.5 * candidates))


@dataclass(frozen=True)
class Simba(BuiltInMethod):
    """Demos and rules from the examples whose samples differ most (DSPy's SIMBA).

    Attributes:
        steps: the number of mini-batches; None: by effort.
        batch: examples in a mini-batch; None: up to 32.
        candidates: samples of an example, and new programs in a step; None: by effort.
        demos: maximum number of demos of a predictor; 0: only rules are added.
    """

    steps: int | None = None
    batch: int | None = None
    candidates: int | None = None
    demos: int = 4

    def __post_init__(self) -> None:
        check_at_least("steps", self.steps, 1)
        check_at_least("batch", self.batch, 1)
        check_at_least("candidates", self.candidates, 1)

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the best program on the training set."""
        optimizer = SIMBA(
            metric=job.score,
            bsize=min(self.batch or 32, len(job.trainset)),
            num_candidates=job.by_effort(self.candidates, 4, 6, 6),
            max_steps=job.by_effort(self.steps, 4, 8, 12),
            max_demos=self.demos,
            prompt_model=cast("Any", job.prompt_lm),  # declared as dspy.LM, used as any model
            num_threads=job.concurrency,
        )
        return optimizer.compile(job.student, trainset=list(job.trainset), seed=job.seed)

    def most_runs(self, job: PromptJob) -> int:
        """Return the maximum number of scored answers: samples and programs of every step, and the final evaluation."""
        batch, candidates = min(self.batch or 32, len(job.trainset)), job.by_effort(self.candidates, 4, 6, 6)
        return 2 * job.by_effort(self.steps, 4, 8, 12) * batch * candidates + (candidates + 1) * len(job.trainset)


@dataclass(frozen=True)
class Gepa(BuiltInMethod):
    """Instructions by reflection on single runs (DSPy's GEPA). The feedback describes every stage of a run.

    Attributes:
        runs: maximum number of runs, at least one pass over the validation set; None: by effort.
        minibatch: number of runs per reflection.
        merge: whether instructions of different candidates are also combined.
        perfect: the best possible score.
        more: further options of ``gepa.optimize``.
    """

    runs: int | None = None
    minibatch: int = 3
    merge: bool = True
    perfect: float = 1.0
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_at_least("runs", self.runs, 1)
        check_at_least("minibatch", self.minibatch, 1)

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the best candidate on the validation set."""
        return self._optimizer(job).compile(job.student, trainset=list(job.trainset), valset=list(job.valset))

    def most_runs(self, job: PromptJob) -> int:
        """Return the maximum number of scored answers."""
        if self.runs is not None:
            return self.runs
        settings = gepa_sizes()[job.effort]
        runs = self._optimizer(job).auto_budget(len(job.student.predictors()), settings["n"], len(job.valset))
        return int(runs)

    def _optimizer(self, job: PromptJob) -> Any:
        budget: dict[str, Any] = {"auto": job.effort} if self.runs is None else {"max_metric_calls": self.runs}
        return GEPA(
            metric=StageFeedback(job.metric, job.student),
            reflection_lm=cast("Any", job.prompt_lm),
            reflection_minibatch_size=self.minibatch,
            use_merge=self.merge,
            perfect_score=self.perfect,
            num_threads=job.concurrency,
            warn_on_score_mismatch=False,
            seed=job.seed,
            gepa_kwargs=dict(self.more),
            **budget,
        )
