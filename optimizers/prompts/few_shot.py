"""Methods that give predictors demos: labelled ones, or runs of the program itself that went well."""

from __future__ import annotations

from dataclasses import dataclass

import dspy
from dspy.teleprompt import BootstrapFewShot, BootstrapFewShotWithRandomSearch, LabeledFewShot

from moa_dspy.optimizers.prompts.jobs import AnyProgram, Job
from moa_dspy.run.knn_demos import WORDS, Nearest, Vectorizer

__all__ = ["Bootstrap", "BootstrapRandom", "Knn", "Labeled"]


@dataclass(frozen=True)
class Labeled(AnyProgram):
    """Training examples as demos (DSPy's LabeledFewShot), for the roles that answer the task from its inputs alone.

    Attributes:
        demos: how many.
    """

    demos: int = 16

    def run(self, job: Job) -> dspy.Module:
        """Return the student with demos."""
        return LabeledFewShot(k=self.demos).compile(job.student, trainset=job.shuffled())

    def most_runs(self, job: Job) -> int:
        """Return how many answers are judged: none."""
        del job
        return 0


@dataclass(frozen=True)
class Bootstrap(AnyProgram):
    """Steps of runs that the metric likes, as demos of every role (DSPy's BootstrapFewShot).

    Attributes:
        bootstrapped_demos: the most runs to take demos from.
        labeled_demos: fill up with so many training examples, where they fit.
        rounds: tries for an example, each with new samples.
        threshold: the score that counts as success; None: any above 0.
    """

    bootstrapped_demos: int = 4
    labeled_demos: int = 16
    rounds: int | None = None
    threshold: float | None = None

    def run(self, job: Job) -> dspy.Module:
        """Return the student with demos."""
        optimizer = BootstrapFewShot(
            metric=job.score,
            metric_threshold=self.threshold,
            max_bootstrapped_demos=self.bootstrapped_demos,
            max_labeled_demos=self.labeled_demos,
            max_rounds=self._rounds(job),
        )
        return optimizer.compile(job.student, trainset=job.shuffled())

    def most_runs(self, job: Job) -> int:
        """Return how many answers are judged, where no example succeeds."""
        return len(job.trainset) * self._rounds(job)

    def _rounds(self, job: Job) -> int:
        return job.by_effort(self.rounds, 1, 2, 4)


@dataclass(frozen=True)
class BootstrapRandom(AnyProgram):
    """The best of several sets of bootstrapped demos (DSPy's BootstrapFewShotWithRandomSearch).

    Attributes:
        candidates: how many sets, beside none, labelled ones and the unshuffled set.
        bootstrapped_demos: the most runs to take demos from.
        labeled_demos: fill up with so many training examples, where they fit.
        rounds: tries for an example, each with new samples.
        threshold: the score that counts as success; None: any above 0.
    """

    candidates: int | None = None
    bootstrapped_demos: int = 4
    labeled_demos: int = 16
    rounds: int = 1
    threshold: float | None = None

    def run(self, job: Job) -> dspy.Module:
        """Return the best candidate on the validation set."""
        optimizer = BootstrapFewShotWithRandomSearch(
            metric=job.score,
            metric_threshold=self.threshold,
            max_bootstrapped_demos=self.bootstrapped_demos,
            max_labeled_demos=self.labeled_demos,
            max_rounds=self.rounds,
            num_candidate_programs=job.by_effort(self.candidates, 3, 8, 16),
            num_threads=job.concurrency,
        )
        return optimizer.compile(job.student, trainset=job.shuffled(), valset=list(job.valset))

    def most_runs(self, job: Job) -> int:
        """Return how many answers are judged: all sets on the validation set, and fruitless bootstrapping."""
        sets = job.by_effort(self.candidates, 3, 8, 16)
        return (sets + 3) * len(job.valset) + (sets + 1) * len(job.trainset) * self.rounds


@dataclass(frozen=True)
class Knn(AnyProgram):
    """Demos nearest to each question (DSPy's KNNFewShot, bootstrapped once; see ``moa_dspy.run.knn_demos``).

    Attributes:
        k: demos shown with a question.
        vectorizer: see ``Nearest``.
        rounds: tries for a training example, each with new samples.
        threshold: the score that counts as success; None: any above 0.
    """

    k: int = 3
    vectorizer: Vectorizer = WORDS
    rounds: int | None = None
    threshold: float | None = None

    def run(self, job: Job) -> dspy.Module:
        """Return the student with demos of the whole training set, of which each call shows the nearest."""
        student, examples = job.student, job.shuffled()
        fields = tuple(name for name, f in student.task.input_fields.items() if f.annotation is not dspy.History)
        nearest = Nearest(self.k, fields, self.vectorizer)
        tuned = Bootstrap(len(examples), 0, self.rounds, self.threshold).run(job)
        for _, predictor in tuned.named_predictors():
            shown = [{name: demo.get(name) for name in fields} for demo in predictor.demos]
            unused = [e for e in examples if {name: e.get(name) for name in fields} not in shown]
            predictor.demos = [*predictor.demos, *unused]
            Nearest.set_on(predictor, nearest)
        return tuned

    def most_runs(self, job: Job) -> int:
        """Return how many answers are judged, where no example succeeds."""
        return Bootstrap(rounds=self.rounds).most_runs(job)
