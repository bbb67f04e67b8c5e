"""The built-in prompt methods, by name: one class per DSPy optimizer, whose fields are its options."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Final, Literal, TypeAlias, cast

import dspy
from dspy import teleprompt
from dspy.teleprompt.reanchor import ReAnchor

from moa_dspy._dspy import gepa_sizes, reanchor_candidates, with_distinct_instructions
from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.prompts.demos import right_demos_only
from moa_dspy.optimizers.prompts.feedback import StageFeedback
from moa_dspy.optimizers.prompts.method import BuiltInMethod, PromptJob, PromptMethod
from moa_dspy.optimizers.prompts.stage_guide import StageGuide
from moa_dspy.optimizers.prompts.student import fits
from moa_dspy.program import AttentionMoA
from moa_dspy.protocols import is_object_of
from moa_dspy.runtime.knn_demos import WORDS, Nearest, Vectorizer

__all__ = [
    "METHODS",
    "Bootstrap",
    "BootstrapRandom",
    "Copro",
    "Gepa",
    "Knn",
    "Labeled",
    "MethodName",
    "Mipro",
    "Reanchor",
    "Simba",
    "check_method",
    "method_name",
    "method_options",
    "most_runs",
    "resolve_method",
]

MethodName: TypeAlias = Literal[
    "labeled", "bootstrap", "bootstrap_random", "knn", "copro", "mipro", "simba", "gepa", "reanchor"
]


@dataclass(frozen=True)
class Labeled(BuiltInMethod):
    """Training examples as demos of the roles that answer the task from its inputs alone (DSPy's LabeledFewShot).

    They must have all fields that these prompts ask for. Without the reasoning, a demo teaches not to think.

    Attributes:
        demos: the number of demos.
    """

    least: ClassVar = {"demos": 0}

    demos: int = 16

    def check(self, program: AttentionMoA, examples: Sequence[dspy.Example], *, final: bool = True) -> None:  # noqa: ARG002
        """Raise ConfigurationError if no example is a whole demo of any role."""
        signatures: list[Any] = [predictor.signature for predictor in program.predictors()]
        if not self.demos or any(fits(signature, example.toDict()) for signature in signatures for example in examples):
            return
        outputs = signatures[0].output_fields  # of a proposal
        lacking = [name for name in outputs if all(example.get(name) is None for example in examples)]
        raise ConfigurationError(
            f"method 'labeled' shows whole examples, and none has {', '.join(lacking) or 'all fields'}, which the "
            "prompts ask for; use 'bootstrap', which makes demos of right answers, add the fields to the examples, or, "
            "for the reasoning, build the program with reasoning=False"
        )

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the student with demos."""
        return teleprompt.LabeledFewShot(k=self.demos).compile(job.student, trainset=job.shuffled())


@dataclass(frozen=True)
class Bootstrap(BuiltInMethod):
    """Right steps of runs that the metric accepts, as demos of every role (DSPy's BootstrapFewShot).

    See ``moa_dspy.optimizers.prompts.demos`` for which steps are right.

    Attributes:
        bootstrapped_demos: maximum number of runs to take demos from.
        labeled_demos: maximum number of demos of a predictor; training examples that have all its fields fill up the
            bootstrapped demos.
        rounds: attempts per example, each with new samples; None: by effort.
        threshold: minimum score at which a run is accepted; None: any score above 0.
    """

    efforts: ClassVar = {"rounds": (1, 2, 4)}
    least: ClassVar = {"bootstrapped_demos": 0, "labeled_demos": 0, "rounds": 1}

    bootstrapped_demos: int = 4
    labeled_demos: int = 16
    rounds: int | None = None
    threshold: float | None = None

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the student with demos."""
        optimizer = teleprompt.BootstrapFewShot(
            metric=job.demo_score(self.threshold),
            metric_threshold=self.threshold,
            max_bootstrapped_demos=self.bootstrapped_demos,
            max_labeled_demos=self.labeled_demos,
            max_rounds=self.number("rounds", job),
        )
        return optimizer.compile(job.student, trainset=job.shuffled())

    def most_runs(self, job: PromptJob) -> int:
        """Return the answers scored if no run is accepted."""
        return len(job.trainset) * self.number("rounds", job)


@dataclass(frozen=True)
class BootstrapRandom(BuiltInMethod):
    """The best of several sets of bootstrapped demos (DSPy's BootstrapFewShotWithRandomSearch).

    Attributes:
        candidates: the number of sets, besides no demos, labelled demos and the unshuffled set; None: by effort.
        bootstrapped_demos, labeled_demos, rounds, threshold: as in ``Bootstrap``.
    """

    efforts: ClassVar = {"candidates": (3, 8, 16)}
    least: ClassVar = {"candidates": 0, "bootstrapped_demos": 1, "labeled_demos": 0, "rounds": 1}

    candidates: int | None = None
    bootstrapped_demos: int = 4
    labeled_demos: int = 16
    rounds: int = 1
    threshold: float | None = None

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the best candidate on the validation set."""
        optimizer = teleprompt.BootstrapFewShotWithRandomSearch(
            metric=job.demo_score(self.threshold),
            metric_threshold=self.threshold,
            max_bootstrapped_demos=self.bootstrapped_demos,
            max_labeled_demos=self.labeled_demos,
            max_rounds=self.rounds,
            num_candidate_programs=self.number("candidates", job),
            num_threads=job.concurrency,
        )
        return optimizer.compile(job.student, trainset=job.shuffled(), valset=list(job.valset))

    def most_runs(self, job: PromptJob) -> int:
        """Return the answers scored if no run is accepted, and of all sets on the validation set."""
        sets = self.number("candidates", job)
        return (sets + 3) * len(job.valset) + (sets + 1) * len(job.trainset) * self.rounds


@dataclass(frozen=True)
class Knn(BuiltInMethod):
    """The demos nearest to each question (DSPy's KNNFewShot, bootstrapped once; see ``moa_dspy.runtime.knn_demos``).

    Attributes:
        k: the number of demos shown with a question.
        vectorizer: how questions are compared; see ``Nearest``.
        rounds, threshold: as in ``Bootstrap``.
    """

    least: ClassVar = {"k": 1, "rounds": 1}

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


@dataclass(frozen=True)
class Copro(BuiltInMethod):
    """Coordinate ascent over instructions, one predictor at a time (DSPy's COPRO).

    Every candidate of every predictor and round is scored on the training set.

    Attributes:
        breadth: candidates of a predictor in a round, at least 2; None: by effort.
        depth: the number of rounds; None: by effort.
        temperature: the temperature of the model that writes instructions.
    """

    efforts: ClassVar = {"breadth": (4, 7, 10), "depth": (1, 2, 3)}
    least: ClassVar = {"breadth": 2, "depth": 1}

    breadth: int | None = None
    depth: int | None = None
    temperature: float = 1.4

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the best candidate on the training set."""
        optimizer = teleprompt.COPRO(
            prompt_model=job.prompt_lm,
            metric=job.score,
            breadth=self.number("breadth", job),
            depth=self.number("depth", job),
            init_temperature=self.temperature,
        )
        kwargs = {"num_threads": job.concurrency, "display_progress": False}
        return optimizer.compile(job.student, trainset=job.shuffled(), eval_kwargs=kwargs)

    def most_runs(self, job: PromptJob) -> int:
        """Return the maximum number of scored answers: every candidate on the training set."""
        candidates = self.number("breadth", job) * self.number("depth", job)
        return candidates * len(job.student.predictors()) * len(job.trainset)


@dataclass(frozen=True)
class Mipro(BuiltInMethod):
    """Instructions and demos together, by Bayesian optimization (DSPy's MIPROv2).

    Attributes:
        candidates: instructions and sets of demos to choose from, at least 3; None: by effort.
        trials: combinations to try; None: by DSPy's rule, from the number of candidates and predictors.
        bootstrapped_demos, labeled_demos: as in ``Bootstrap``. If both are 0, only instructions are tuned.
        minibatch: examples on which a trial is scored first; None: 35 if the validation set has more than 50, else all.
        temperature: the temperature at which instructions are written.
        threshold: as in ``Bootstrap``.
    """

    efforts: ClassVar = {"candidates": (6, 12, 18)}
    least: ClassVar = {"candidates": 3, "trials": 1, "bootstrapped_demos": 0, "labeled_demos": 0, "minibatch": 1}

    candidates: int | None = None
    trials: int | None = None
    bootstrapped_demos: int = 4
    labeled_demos: int = 4
    minibatch: int | None = None
    temperature: float = 1.0
    threshold: float | None = None

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the best combination on the validation set."""
        candidates, trials, batch = self._sizes(job)
        optimizer = teleprompt.MIPROv2(
            metric=job.demo_score(self.threshold),
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
        return with_distinct_instructions(optimizer).compile(
            job.student,
            trainset=list(job.trainset),
            valset=list(job.valset),
            num_trials=trials,
            minibatch=batch < len(job.valset),
            minibatch_size=batch,
        )

    def most_runs(self, job: PromptJob) -> int:
        """Return the maximum number of scored answers: trials, full evaluations of the best, and bootstrapping."""
        candidates, trials, batch = self._sizes(job)
        looks = trials * batch + (2 + trials // 5) * len(job.valset)
        return looks + candidates * len(job.trainset)

    def _sizes(self, job: PromptJob) -> tuple[int, int, int]:
        """Return the numbers of candidates and of trials, and the examples of a mini-batch."""
        candidates, everything = self.number("candidates", job), len(job.valset)
        variables = len(job.student.predictors()) * (2 if self.bootstrapped_demos or self.labeled_demos else 1)
        trials = self.trials or int(max(2 * variables * math.log2(candidates), 1.5 * candidates))
        batch = self.minibatch or (35 if everything > 50 else everything)
        return candidates, trials, min(batch, everything)


@dataclass(frozen=True)
class Simba(BuiltInMethod):
    """Demos and rules from the examples whose samples differ most (DSPy's SIMBA).

    Attributes:
        steps: the number of mini-batches; None: by effort.
        batch: examples in a mini-batch; None: up to 32.
        candidates: samples of an example, and new programs in a step; None: by effort.
        demos: maximum number of demos of a predictor; 0: only rules are added.
    """

    efforts: ClassVar = {"steps": (4, 8, 12), "candidates": (4, 6, 6)}
    least: ClassVar = {"steps": 1, "batch": 1, "candidates": 1, "demos": 0}

    steps: int | None = None
    batch: int | None = None
    candidates: int | None = None
    demos: int = 4

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the best program on the training set."""
        optimizer = teleprompt.SIMBA(
            metric=job.score,
            bsize=min(self.batch or 32, len(job.trainset)),
            num_candidates=self.number("candidates", job),
            max_steps=self.number("steps", job),
            max_demos=self.demos,
            prompt_model=cast("Any", job.prompt_lm),  # declared as dspy.LM, used as any model
            num_threads=job.concurrency,
        )
        optimizer.strategies = [right_demos_only(one, job.metric, job.student) for one in optimizer.strategies]
        return optimizer.compile(job.student, trainset=list(job.trainset), seed=job.seed)

    def most_runs(self, job: PromptJob) -> int:
        """Return the maximum number of scored answers: samples and programs of every step, and the final evaluation."""
        batch, candidates = min(self.batch or 32, len(job.trainset)), self.number("candidates", job)
        return 2 * self.number("steps", job) * batch * candidates + (candidates + 1) * len(job.trainset)


@dataclass(frozen=True)
class Gepa(BuiltInMethod):
    """Instructions by reflection on single runs (DSPy's GEPA). The feedback describes every stage of a run.

    Attributes:
        runs: maximum number of runs, at least one pass over the validation set; None: by effort.
        minibatch: number of runs per reflection.
        merge: whether instructions of different candidates are also combined.
        perfect: the best possible score.
        guide: ``"stages"``: the scores of stages choose the predictor to work on, and guard which proposals are kept.
            ``"text"``: the feedback is text alone; predictors take turns.
        more: further options of ``gepa.optimize``.
    """

    least: ClassVar = {"runs": 1, "minibatch": 1}

    runs: int | None = None
    minibatch: int = 3
    merge: bool = True
    perfect: float = 1.0
    guide: Literal["stages", "text"] = "stages"
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guide not in ("text", "stages"):
            raise ConfigurationError(f"guide={self.guide!r} is unknown; use 'stages' or 'text'")

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the best candidate on the validation set."""
        return self._optimizer(job).compile(job.student, trainset=list(job.trainset), valset=list(job.valset))

    def most_runs(self, job: PromptJob) -> int:
        """Return the maximum number of scored answers."""
        if self.runs is not None:
            return self.runs
        candidates = gepa_sizes()[job.effort]["n"]
        return int(self._optimizer(job).auto_budget(len(job.student.predictors()), candidates, len(job.valset)))

    def _optimizer(self, job: PromptJob) -> Any:
        from dspy.teleprompt.gepa import InstructionProposer  # GEPA is slow to import

        budget: dict[str, Any] = {"auto": job.effort} if self.runs is None else {"max_metric_calls": self.runs}
        stages = StageGuide(job.metric, job.student, job.seed) if self.guide == "stages" else None
        guided = {} if stages is None else {"acceptance_criterion": stages}
        return teleprompt.GEPA(
            metric=StageFeedback(job.metric, job.student, job.note),
            reflection_lm=cast("Any", job.prompt_lm),
            reflection_minibatch_size=self.minibatch,
            use_merge=self.merge,
            perfect_score=self.perfect,
            num_threads=job.concurrency,
            warn_on_score_mismatch=False,
            seed=job.seed,
            instruction_proposer=InstructionProposer(adapter=job.adapter(dspy.JSONAdapter())),
            component_selector=cast("Any", stages or "round_robin"),
            gepa_kwargs={"stop_callbacks": [lambda _: job.budget_ends()], **guided, **self.more},
            **budget,
        )


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

    def check(self, program: AttentionMoA, examples: Sequence[dspy.Example], *, final: bool = True) -> None:  # noqa: ARG002
        """Raise ConfigurationError if there is no stop decision, or if a model's answers are not cached."""
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


METHODS: Final[Mapping[str, type[BuiltInMethod]]] = {
    "labeled": Labeled,
    "bootstrap": Bootstrap,
    "bootstrap_random": BootstrapRandom,
    "knn": Knn,
    "copro": Copro,
    "mipro": Mipro,
    "simba": Simba,
    "gepa": Gepa,
    "reanchor": Reanchor,
}


def resolve_method(method: str | PromptMethod, options: Mapping[str, Any] | None = None) -> PromptMethod:
    """Return the named method with its options, or the given one. Raise ConfigurationError if something is unknown."""
    options = options or {}
    if not isinstance(method, str):
        if not is_object_of(method, PromptMethod):
            raise ConfigurationError(f"method={method!r} is neither a name nor an object with a method tune(job)")
        if options:
            raise ConfigurationError(f"options {', '.join(options)} go with a method's name; set them on {method!r}")
        return method
    if method not in METHODS:
        raise ConfigurationError(f"method={method!r} is unknown; use one of {', '.join(METHODS)}")
    known = [option.name for option in fields(METHODS[method])]  # type: ignore[arg-type]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigurationError(f"method {method!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return METHODS[method](**options)


def method_name(method: str | PromptMethod) -> str:
    """Return the key of a built-in method in ``METHODS``, or the class name of another method."""
    if isinstance(method, str):
        return method
    return next((name for name, kind in METHODS.items() if type(method) is kind), type(method).__name__)


def method_options(method: PromptMethod, *, changed_only: bool = False) -> dict[str, Any]:
    """Return the options of a dataclass method; with ``changed_only``, only those that differ from the default."""
    if not is_dataclass(method):
        return {}
    options = {option.name: getattr(method, option.name) for option in fields(method)}
    if not changed_only:
        return options
    defaults = {option.name: option.default for option in fields(method)}
    return {name: value for name, value in options.items() if value not in (defaults[name], None, {})}


def check_method(
    method: PromptMethod, program: AttentionMoA, examples: Sequence[dspy.Example], *, final: bool = True
) -> None:
    """Raise ConfigurationError if a built-in method cannot tune this program; see ``BuiltInMethod.check``."""
    if isinstance(method, BuiltInMethod):
        method.check(program, examples, final=final)


def most_runs(method: PromptMethod, job: PromptJob) -> int:
    """Return an upper bound of the number of answers that a built-in method scores; 0 for other methods."""
    return method.most_runs(job) if isinstance(method, BuiltInMethod) else 0
