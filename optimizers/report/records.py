"""The JSON records that optimizers write and reports show, as typed values.

Every field may be missing, because records are also written during the work and by other versions. Unknown fields are
ignored. A field of the wrong type is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, cast, get_args

import pydantic

from moa_dspy.architecture import Architecture
from moa_dspy.cost.usage import Price, Usage
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.records import Record
from moa_dspy.evaluation.statistics import Gain, Score
from moa_dspy.optimizers.analysis.ceiling import Ceiling
from moa_dspy.optimizers.analysis.contributions import Contributions
from moa_dspy.optimizers.analysis.profile import Profile
from moa_dspy.optimizers.comparison.acceptance import Acceptance
from moa_dspy.optimizers.comparison.compare import Comparison
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.trace import Trace

__all__ = [
    "KINDS",
    "MODELS",
    "AcceptanceRecord",
    "CategoryRow",
    "CeilingRecord",
    "CompareRecord",
    "CompileErrors",
    "CompileRecord",
    "CompileScores",
    "ContributionsRecord",
    "DamagedRecord",
    "DepthPoint",
    "EvaluationRecord",
    "FoundArchitecture",
    "GatePoint",
    "GateRecord",
    "OptimizeRecord",
    "OptimizeRound",
    "PredictorChange",
    "ProfileRecord",
    "ProgramPart",
    "ProgramPrompt",
    "ProgramRecord",
    "ProgramSide",
    "ReportRecord",
    "SearchRecord",
    "SpentRow",
    "StopRecord",
    "TraceRecord",
    "TrialRow",
    "parse",
    "records_in",
]

ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)


class _Value(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)


def _partial(model: type[ModelT]) -> type[ModelT]:
    """Return a record of a result: every field except ``kind`` is None if it is missing."""
    lenient = type(
        model.__name__, (model,), {"model_config": pydantic.ConfigDict(extra="ignore"), "__module__": __name__}
    )
    types: dict[str, Any] = {name: field.annotation for name, field in model.model_fields.items() if name != "kind"}
    fields: dict[str, Any] = {name: (annotation | None, None) for name, annotation in types.items()}
    made: Any = pydantic.create_model(
        model.__name__, __base__=lenient, __module__=__name__, __doc__=model.__doc__, **fields
    )
    return cast("type[ModelT]", made)


class DepthPoint(_Value):
    """A stop rule with its score and the price of an example."""

    layers: int = pydantic.Field(ge=1, le=10_000)
    early_stop: bool = False
    threshold: float | None = None
    gate: str = "off"
    score: Score | None = None
    price: Price | None = None

    @property
    def rule(self) -> str:
        """Return the stop rule in words."""
        depth = f"{self.layers} layer{'' if self.layers == 1 else 's'}"
        below = "" if self.threshold is None else f" below {self.threshold:g}"
        stop = f", early stop{below}" if self.early_stop else ""
        return f"{depth}{stop}{'' if self.gate == 'off' else f', gate {self.gate}'}"


class StopRecord(_Value):
    """The depth and stop rule that were fitted."""

    kind: Literal["stop"] = "stop"
    before: str | None = None
    chosen: DepthPoint | None = None
    graded: bool | None = None
    curve: tuple[DepthPoint, ...] = ()


class GatePoint(_Value):
    """A gate, replayed on recorded runs."""

    gate: str
    opened: float
    loss: float
    bound: float
    certified: bool = False
    saved: float
    price: Price | None = None


class GateRecord(_Value):
    """A gate fitted with a bound on its loss, and all gates that were tried."""

    kind: Literal["gate"] = "gate"
    gate: str | None = None
    max_loss: float | None = None
    confidence: float | None = None
    runs: int | None = None
    needed: int | None = None
    full: Price | None = None
    curve: tuple[GatePoint, ...] = ()


class TrialRow(_Value):
    """A trial of a search."""

    number: int
    state: str = ""
    params: dict[str, Any] = {}
    examples: int = 0
    depths: dict[str, Any] = {}
    rule: str | None = None
    score: float | None = None
    interval: Score | None = None
    price: Price | None = None
    retries_of: tuple[int, ...] | None = None
    reason: str | None = None
    unjudged: dict[str, int | str] | None = None

    @property
    def end(self) -> str:
        """Return how it ended. A trial that failed after it had scored examples was cut short."""
        return "cut short" if self.state == "fail" and self.examples else self.state

    @property
    def result(self) -> str:
        """Return the score with its interval, or with its number of examples."""
        if self.score is None:
            return ""
        return f"{self.score:.3f} of {self.examples} examples" if self.interval is None else str(self.interval)


class FoundArchitecture(_Value):
    """An architecture that a search found, with its trial."""

    trial: int | None = None
    params: dict[str, Any] = {}
    architecture: Architecture | None = None
    score: Score | None = None
    price: Price | None = None


class SearchRecord(_Value):
    """A search, finished or running. Trials may be compared if the fields from ``space`` to ``prompts`` are equal."""

    kind: Literal["search"] = "search"
    study: str | None = None
    space: dict[str, Any] | None = None
    agents: tuple[dict[str, Any], ...] | None = None
    options: dict[str, Any] | None = None
    aggregators: tuple[dict[str, Any], ...] | None = None
    prompts: tuple[str, ...] | None = None
    task: str | None = None
    objective: Objective | None = None
    seed: int | None = None
    now: str | None = None
    ended_by: str | None = None
    failure: str | None = None
    score: Score | None = None
    cost: Usage | None = None
    depth_curve: tuple[DepthPoint, ...] = ()
    pareto: tuple[FoundArchitecture, ...] = ()
    best: FoundArchitecture | None = None
    trials: tuple[TrialRow, ...] = ()
    history: tuple[dict[str, float | None], ...] = ()

    @property
    def best_in_words(self) -> str | None:
        """Return the number of the best trial, and whether it ran only a part of the examples."""
        if self.best is None or self.best.trial is None:
            return None
        cut = [trial for trial in self.trials if trial.number == self.best.trial and trial.end == "cut short"]
        return f"{self.best.trial}{f', cut short after {cut[0].examples} examples' if cut else ''}"

    @property
    def chosen_rule(self) -> str | None:
        """Return the stop rule of the best trial in words, if it is on the depth curve."""
        number = None if self.best is None else self.best.trial
        rules = [trial.rule for trial in self.trials if trial.number == number]
        for point in self.depth_curve:
            if str(StopRule(point.layers, point.early_stop, point.threshold, point.gate)) in rules:
                return point.rule
        return None


class PredictorChange(_Value):
    """A predictor before and after: its instructions, its numbers of demos by kind, and its fitted decisions."""

    instructions: dict[str, str | None] = {}
    demos: dict[str, int | None] = {}
    decisions: Any = None


class CompileScores(_Value):
    """Scores on the validation set."""

    before: Score | None = None
    after: Score | None = None
    gain: Gain | None = None


class CompileErrors(_Value):
    """Answers that were not scored, and the first reasons."""

    count: int | None = None
    first: tuple[str, ...] = ()


class CompileRecord(_Value):
    """A tuning of prompts."""

    kind: Literal["compile"] = "compile"
    method: str | None = None
    options: dict[str, Any] | None = None
    effort: str | None = None
    seed: int | None = None
    prompt_lm: str | None = None
    examples: dict[str, int] = {}
    score: CompileScores = CompileScores()
    cost: Usage | None = None
    ended_by: str | None = None
    errors: CompileErrors = CompileErrors()
    predictors: dict[str, PredictorChange] = {}


@_partial
class AcceptanceRecord(Acceptance):
    """The paired test of a candidate on held-out examples."""

    kind: Literal["acceptance"] = "acceptance"


@_partial
class ProfileRecord(Profile):
    """Gain and cost of each stage of a program."""

    kind: Literal["profile"] = "profile"


@_partial
class CeilingRecord(Ceiling):
    """What any selection among a program's agents can reach."""

    kind: Literal["ceiling"] = "ceiling"


@_partial
class ContributionsRecord(Contributions):
    """The contributions of all agents."""

    kind: Literal["contributions"] = "contributions"


@_partial
class CompareRecord(Comparison):
    """A comparison with simpler programs at matched spend."""

    kind: Literal["compare"] = "compare"


class OptimizeRound(_Value):
    """The parts of a round."""

    block: CompileRecord | None = None
    search: SearchRecord | None = None
    prompts: CompileRecord | None = None
    stop: StopRecord | None = None


class ProgramSide(_Value):
    """Architecture and instructions of a program before or after an optimization."""

    architecture: Architecture | None = None
    prompts: dict[str, str] = {}


class SpentRow(_Value):
    """The cost of a part."""

    stage: str
    cost: Usage | None = None


class OptimizeRecord(_Value):
    """A whole optimization."""

    kind: Literal["optimize"] = "optimize"
    task: str | None = None
    metric: str | None = None
    method: str | None = None
    settings: dict[str, Any] | None = None
    seed: int | None = None
    verdict: str | None = None
    score: Score | None = None
    data: dict[str, dict[str, int | str]] = {}
    rounds: tuple[OptimizeRound, ...] = ()
    acceptance: AcceptanceRecord | None = None
    profile: ProfileRecord | None = None
    contributions: ContributionsRecord | None = None
    ceiling: CeilingRecord | None = None
    gate: GateRecord | None = None
    baseline: ProgramSide = ProgramSide()
    candidate: ProgramSide = ProgramSide()
    cost: Usage | None = None
    spent: tuple[SpentRow, ...] = ()
    ended_by: str | None = None
    notes: tuple[str, ...] = ()


class ProgramPart(_Value):
    """A part of a program's description."""

    title: str
    text: str = ""
    rows: tuple[tuple[str, str], ...] = ()


class ProgramPrompt(_Value):
    """Instructions and demos of a predictor."""

    instructions: str | None = None
    demos: tuple[dict[str, Any], ...] = ()


class ProgramRecord(_Value):
    """A program file, described as ``moa-dspy show`` does."""

    kind: Literal["program"] = "program"
    name: str | None = None
    sections: tuple[ProgramPart, ...] = ()
    predictors: dict[str, ProgramPrompt] = {}


class CategoryRow(NamedTuple):
    """The score of a category, None if no example of it has one, and the number of examples by their status."""

    name: str
    score: Score | None
    statuses: Counter[str]


class EvaluationRecord(_Value):
    """The file of records that an evaluation writes. ``items``: the last record of each example."""

    kind: Literal["evaluation"] = "evaluation"
    name: str | None = None
    program: str | None = None
    benchmark: str | None = None
    split: str | None = None
    metric: str | None = None
    seed: int | None = None
    items: tuple[Record, ...] = ()

    @property
    def categories(self) -> list[CategoryRow]:
        """Return all examples together, then each category if there are several."""
        names = sorted({item.category for item in self.items if item.category is not None})
        groups = [(name, [item for item in self.items if item.category == name]) for name in names]
        rows = []
        for name, items in [("all", list(self.items)), *(groups if len(groups) > 1 else [])]:
            scores = [item.score for item in items if item.score is not None]
            score = Score.of(scores) if scores else None
            rows.append(CategoryRow(name, score, Counter(item.status for item in items)))
        return rows

    @property
    def wrong_first(self) -> list[Record]:
        """Return the items: failed ones first, then by score."""
        return sorted(self.items, key=lambda item: -1.0 if item.score is None else item.score)

    @property
    def cost(self) -> Usage:
        """Return the usage of the program's calls."""
        return sum((item.program for item in self.items), start=Usage())

    @property
    def judge_cost(self) -> Usage:
        """Return the usage of the metric's calls."""
        return sum((item.judge for item in self.items), start=Usage())


class TraceRecord(_Value):
    """The trace of one run."""

    kind: Literal["trace"] = "trace"
    name: str | None = None
    trace: Trace | None = None


ReportRecord: TypeAlias = (
    OptimizeRecord
    | SearchRecord
    | CompileRecord
    | StopRecord
    | GateRecord
    | AcceptanceRecord
    | CompareRecord
    | ProfileRecord
    | ContributionsRecord
    | CeilingRecord
    | ProgramRecord
    | EvaluationRecord
    | TraceRecord
)

MODELS: Final[Mapping[str, type[ReportRecord]]] = {
    model.model_fields["kind"].default: model for model in get_args(ReportRecord)
}

KINDS: Final = tuple(MODELS)
"""The kinds of records that a page can show."""


@dataclass(frozen=True)
class DamagedRecord:
    """A record that cannot be shown.

    Attributes:
        kind: kind of the record.
        source: the file that contains it; may be empty.
        problem: the wrong field, and the reason.
    """

    kind: str
    source: str
    problem: str

    def __str__(self) -> str:
        return f"{f'{self.source}: ' if self.source else ''}{self.kind} record: {self.problem}"


def records_in(value: Any) -> list[Mapping[str, Any]]:
    """Return the records in a JSON value, in order: mappings with a ``kind`` that a page can show.

    Records inside a record are part of it and are not returned.
    """
    records, rest = [], [value]
    while rest:
        item = rest.pop()
        if isinstance(item, Mapping):
            if item.get("kind") in KINDS:
                records.append(item)
            else:
                rest.extend(reversed(list(item.values())))
        elif isinstance(item, Sequence) and not isinstance(item, str):
            rest.extend(reversed(item))
    return records


def parse(record: Mapping[str, Any], source: str = "") -> ReportRecord | DamagedRecord:
    """Return a record as a typed value, or a description of its damage. ``source`` names its file.

    Raises:
        ConfigurationError: if a page cannot show records of this kind.
    """
    kind = str(record.get("kind"))
    if kind not in MODELS:
        raise ConfigurationError(f"a report cannot show a record of kind {kind!r}; it shows: {', '.join(KINDS)}")
    try:
        return MODELS[kind].model_validate(record, extra="ignore")
    except pydantic.ValidationError as error:
        first, *others = error.errors(include_url=False)
        field = ".".join(map(str, first["loc"])) or "record"
        return DamagedRecord(kind, source, f"{field}: {first['msg']}{f' (and {len(others)} more)' if others else ''}")
