"""Methods that give predictors demos: labelled examples, or steps of runs that scored well."""

from __future__ import annotations

from dataclasses import dataclass

import dspy
from dspy.teleprompt import BootstrapFewShot, BootstrapFewShotWithRandomSearch, LabeledFewShot

from moa_dspy.optimizers.prompts.method import BuiltInMethod, PromptJob
from moa_dspy.run.knn_demos import WORDS, Nearest, Vectorizer

__all__ = ["Bootstrap", "BootstrapRandom", "Knn", "Labeled"]


@dataclass(frozen=True)
class Labeled(BuiltInMethod):
    """Training examples as demos of the roles that answer the task from its inputs alone (DSPy's LabeledFewShot).

    Attributes:
        demos: the number of demos.
    """

    demos: int = 16

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the student with demos."""
        return LabeledFewShot(k=self.demos).compile(job.student, trainset=job.shuffled())

    def most_runs(self, job: PromptJob) -> int:
        """Return 0: no answer is scored."""
        del job
        return 0


@dataclass(frozen=True)
class Bootstrap(BuiltInMethod):
    """Steps of runs that the metric accepts, as demos of every role (DSPy's BootstrapFewShot).

    Attributes:
        bootstrapped_demos: maximum number of runs to take demos from.
        labeled_demos: maximum number of demos of a predictor; training examples fill up the bootstrapped demos.
        rounds: attempts per example, each with new samples; None: by effort.
        threshold: minimum score at which a run is accepted; None: any score above 0.
    """

    bootstrapped_demos: int = 4
    labeled_demos: int = 16
    rounds: int | None = None
    threshold: float | None = None

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the student with demos."""
        optimizer = BootstrapFewShot(
            metric=job.score,
            metric_threshold=self.threshold,
            max_bootstrapped_demos=self.bootstrapped_demos,
            max_labeled_demos=self.labeled_demos,
            max_rounds=self._rounds(job),
        )
        return optimizer.compile(job.student, trainset=job.shuffled())

    def most_runs(self, job: PromptJob) -> int:
        """Return the answers scored if no run is accepted."""
        return len(job.trainset) * self._rounds(job)

    def _rounds(self, job: PromptJob) -> int:
        return job.by_effort(self.rounds, 1, 2, 4)


@dataclass(frozen=True)
class BootstrapRandom(BuiltInMethod):
    """The best of several sets of bootstrapped demos (DSPy's BootstrapFewShotWithRandomSearch).

    Attributes:
        candidates: the number of sets, besides no demos, labelled demos and the unshuffled set; None: by effort.
        bootstrapped_demos: as in ``Bootstrap``.
        labeled_demos: as in ``Bootstrap``.
        rounds: as in ``Bootstrap``.
        threshold: as in ``Bootstrap``.
    """

    candidates: int | None = None
    bootstrapped_demos: int = 4
    labeled_demos: int = 16
    rounds: int = 1
    threshold: float | None = None

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the best candidate on the validation set."""
        optimizer = BootstrapFewShotWithRandomSearch(
            metric=job.score,
            metric_threshold=self.threshold,
            max_bootstrapped_demos=self.bootstrapped_demos,
            max_labeled_demos=self.labeled_demos,
            max_rounds=self.rounds,
            num_candidate_programs=self._candidates(job),
            num_threads=job.concurrency,
        )
        return optimizer.compile(job.student, trainset=job.shuffled(), valset=list(job.valset))

    def most_runs(self, job: PromptJob) -> int:
        """Return the answers scored if no run is accepted, and of all sets on the validation set."""
        sets = self._candidates(job)
        return (sets + 3) * len(job.valset) + (sets + 1) * len(job.trainset) * self.rounds

    def _candidates(self, job: PromptJob) -> int:
        return job.by_effort(self.candidates, 3, 8, 16)


@dataclass(frozen=True)
class Knn(BuiltInMethod):
    """The demos nearest to each question (DSPy's KNNFewShot, bootstrapped once; see ``moa_dspy.run.knn_demos``).

    Attributes:
        k: the number of demos shown with a question.
        vectorizer: how questions are compared; see ``Nearest``.
        rounds: as in ``Bootstrap``.
        threshold: as in ``Bootstrap``.
    """

    k: int = 3
    vectorizer: Vectorizer = WORDS
    rounds: int | None = None
    threshold: float | None = None

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the student with demos of the whole training set. Each call shows the nearest ones."""
        student, examples = job.student, job.shuffled()
        fields = tuple(name for name, f in student.task.input_fields.items() if f.annotation is not dspy.History)
        nearest = Nearest(self.k, fields, self.vectorizer)
        tuned = Bootstrap(len(examples), 0, self.rounds, self.threshold).tune(job)
        for _, predictor in tuned.named_predictors():
            used = [{name: demo.get(name) for name in fields} for demo in predictor.demos]
            unused = [e for e in examples if {name: e.get(name) for name in fields} not in used]
            predictor.demos = [*predictor.demos, *unused]
            Nearest.set_on(predictor, nearest)
        return tuned

    def most_runs(self, job: PromptJob) -> int:
        """Return the answers scored if no run is accepted."""
        return Bootstrap(rounds=self.rounds).most_runs(job)
