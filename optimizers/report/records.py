"""The JSON records that optimizers write and reports show, as typed values.

A result's ``report`` is the dump of one of these models. Every field may be missing, because records are also written
during the work and by other versions. Unknown fields are ignored. A field of the wrong type is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import pydantic

from moa_dspy.architecture import Architecture
from moa_dspy.cost.usage import Usage
from moa_dspy.evaluation.statistics import Gain, Score
from moa_dspy.optimizers.analysis.contributions import Contribution
from moa_dspy.optimizers.analysis.profile import StageRow
from moa_dspy.optimizers.comparison.compare import Contender
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.optimizers.stop_fitting.rescoring import Price
from moa_dspy.trace import Failure, Trace

__all__ = [
    "KINDS",
    "MODELS",
    "AcceptanceRecord",
    "CompareRecord",
    "CompileRecord",
    "ContributionsRecord",
    "DepthPoint",
    "EvaluationRecord",
    "OptimizeRecord",
    "ProfileRecord",
    "ProgramRecord",
    "ReportRecord",
    "SearchRecord",
    "StopRecord",
    "TraceRecord",
    "TrialRow",
]


class _Value(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", from_attributes=True)


class _Record(_Value):
    @classmethod
    def dump(cls, **fields: Any) -> dict[str, Any]:
        """Return the record with these fields as JSON values.

        Raises:
            pydantic.ValidationError: if a field is unknown or of the wrong type.
        """
        return cls.model_validate(fields, extra="forbid").model_dump(mode="json")


def _without_unknown(value: Any) -> Any:
    known = Architecture.model_fields
    return {name: value[name] for name in known if name in value} or None if isinstance(value, Mapping) else value


_Shape: TypeAlias = Annotated[Architecture | None, pydantic.BeforeValidator(_without_unknown)]


class DepthPoint(_Value):
    """A stop rule with its score and the price of an example."""

    layers: int = pydantic.Field(ge=1, le=10_000)
    early_stop: bool = False
    threshold: float | None = None
    score: Score | None = None
    price: Price | None = None

    @property
    def rule(self) -> str:
        """Return the stop rule in words."""
        depth = f"{self.layers} layer{'' if self.layers == 1 else 's'}"
        if not self.early_stop:
            return depth
        return f"{depth}, early stop{'' if self.threshold is None else f' below {self.threshold:g}'}"


class StopRecord(_Record):
    """The depth and stop rule that were fitted."""

    kind: Literal["stop"] = "stop"
    before: str | None = None
    chosen: DepthPoint | None = None
    graded: bool | None = None
    curve: tuple[DepthPoint, ...] = ()


class Objective(_Value):
    """The objective of a search."""

    wanted: str | tuple[str, ...] | None = None
    price: float | None = None
    unit: Literal["usd", "tokens", "calls"] = "calls"

    def __str__(self) -> str:
        if self.wanted == "score_at_price":
            return f"the best score for at most {self.price} {self.unit} per example"
        if isinstance(self.wanted, tuple):
            return f"a high score and a low price, in {self.unit}"
        return "the best score" if self.wanted == "score" else str(self.wanted)


class _Unjudged(_Value):
    answers: int
    first: str


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
    unjudged: _Unjudged | None = None

    @property
    def result(self) -> str:
        """Return the score with its interval, or with its number of examples."""
        if self.score is None:
            return ""
        return f"{self.score:.3f} of {self.examples} examples" if self.interval is None else str(self.interval)


class _BestTrial(_Value):
    trial: int
    params: dict[str, Any] = {}
    architecture: _Shape = None


class _FrontPoint(_Value):
    architecture: _Shape = None
    score: Score | None = None
    price: Price | None = None
    trial: int | None = None


class _HistoryPoint(_Value):
    trial: int
    best: float | None = None


class SearchRecord(_Record):
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
    pareto: tuple[_FrontPoint, ...] = ()
    best: _BestTrial | None = None
    trials: tuple[TrialRow, ...] = ()
    history: tuple[_HistoryPoint, ...] = ()

    @property
    def chosen_rule(self) -> str | None:
        """Return the stop rule of the best trial in words, if it is on the depth curve."""
        number = None if self.best is None else self.best.trial
        rules = [trial.rule for trial in self.trials if trial.number == number]
        for point in self.depth_curve:
            if str(StopRule(point.layers, point.early_stop, point.threshold)) in rules:
                return point.rule
        return None


class _Instructions(_Value):
    before: str | None = None
    after: str | None = None


class _DemoCounts(_Value):
    before: int = 0
    bootstrapped: int = 0
    labeled: int = 0
    shown: int | None = None


class _PredictorChange(_Value):
    instructions: _Instructions = _Instructions()
    demos: _DemoCounts = _DemoCounts()
    decisions: Any = None


class _CompileScores(_Value):
    before: Score | None = None
    after: Score | None = None
    gain: Gain | None = None


class _SetSizes(_Value):
    trainset: int | None = None
    valset: int | None = None


class _Errors(_Value):
    count: int | None = None
    first: tuple[str, ...] = ()


class CompileRecord(_Record):
    """A tuning of prompts."""

    kind: Literal["compile"] = "compile"
    method: str | None = None
    options: dict[str, Any] | None = None
    effort: str | None = None
    seed: int | None = None
    prompt_lm: str | None = None
    examples: _SetSizes = _SetSizes()
    score: _CompileScores = _CompileScores()
    cost: Usage | None = None
    ended_by: str | None = None
    errors: _Errors = _Errors()
    predictors: dict[str, _PredictorChange] = {}


class AcceptanceRecord(_Record):
    """The paired test of a candidate on held-out examples. ``failed``: runs of the baseline and of the candidate."""

    kind: Literal["acceptance"] = "acceptance"
    accepted: bool | None = None
    reason: str | None = None
    before: Score | None = None
    after: Score | None = None
    gain: Gain | None = None
    p: float | None = None
    alpha: float | None = None
    won: int | None = None
    lost: int | None = None
    needed: int | None = None
    power: float | None = None
    seed: int | None = None
    failed: tuple[int, int] | None = None
    checked: int | None = None
    repeated: int | None = None
    cost: Usage | None = None


class ProfileRecord(_Record):
    """Gain and cost of each stage of a program. ``shares_of``: the unit of ``share``."""

    kind: Literal["profile"] = "profile"
    rows: tuple[StageRow, ...] = ()
    score: Score | None = None
    cost: Usage | None = None
    examples: int | None = None
    failed: int | None = None
    unjudged: int | None = None
    shares_of: str | None = None


class ContributionsRecord(_Record):
    """The contributions of all agents."""

    kind: Literal["contributions"] = "contributions"
    rows: tuple[Contribution, ...] = ()
    score: Score | None = None
    price: Price | None = None
    examples: int | None = None
    cost: Usage | None = None


class CompareRecord(_Record):
    """A comparison with simpler programs at matched spend. ``use``: the name of the contender to use."""

    kind: Literal["compare"] = "compare"
    verdict: str | None = None
    use: str | None = None
    contenders: tuple[Contender, ...] = ()
    match: str | None = None
    tolerance: float | None = None
    margin: float | None = None
    alpha: float | None = None
    seed: int | None = None
    examples: int | None = None
    pilot: int | None = None
    rule: str | None = None
    notes: tuple[str, ...] = ()
    cost: Usage | None = None


class _Round(_Value):
    search: SearchRecord | None = None
    prompts: CompileRecord | None = None
    stop: StopRecord | None = None


class _ProgramSide(_Value):
    architecture: _Shape = None
    prompts: dict[str, str] = {}


class _SpentRow(_Value):
    stage: str
    cost: Usage | None = None


class _DataUse(_Value):
    examples: int | None = None
    digest: str | None = None


class OptimizeRecord(_Record):
    """A whole optimization."""

    kind: Literal["optimize"] = "optimize"
    task: str | None = None
    metric: str | None = None
    method: str | None = None
    settings: dict[str, Any] | None = None
    seed: int | None = None
    verdict: str | None = None
    score: Score | None = None
    data: dict[str, _DataUse] = {}
    rounds: tuple[_Round, ...] = ()
    acceptance: AcceptanceRecord | None = None
    profile: ProfileRecord | None = None
    contributions: ContributionsRecord | None = None
    baseline: _ProgramSide = _ProgramSide()
    candidate: _ProgramSide = _ProgramSide()
    cost: Usage | None = None
    spent: tuple[_SpentRow, ...] = ()
    ended_by: str | None = None
    notes: tuple[str, ...] = ()


class _ProgramPart(_Value):
    title: str
    text: str = ""
    rows: tuple[tuple[str, str], ...] = ()


class _Prompt(_Value):
    instructions: str | None = None
    demos: tuple[dict[str, Any], ...] = ()


class ProgramRecord(_Record):
    """A program file, described as ``moa-dspy show`` does."""

    kind: Literal["program"] = "program"
    name: str | None = None
    sections: tuple[_ProgramPart, ...] = ()
    predictors: dict[str, _Prompt] = {}


class EvaluationItem(_Value):
    """The outcome of one example."""

    id: str
    category: str | None = None
    status: str = ""
    score: float | None = None
    outputs: dict[str, Any] = {}
    error: Failure | None = None
    seconds: float = 0.0


class CategoryRow(_Value):
    """The score of a category; ``score`` is None if no example of it has one."""

    name: str
    score: Score | None = None
    items: int = 0
    errors: int = 0
    unparsed: int = 0


class EvaluationRecord(_Record):
    """The file of records that an evaluation writes. ``categories`` begins with all examples together."""

    kind: Literal["evaluation"] = "evaluation"
    name: str | None = None
    program: str | None = None
    benchmark: str | None = None
    split: str | None = None
    metric: str | None = None
    seed: int | None = None
    categories: tuple[CategoryRow, ...] = ()
    cost: Usage | None = None
    judge_cost: Usage | None = None
    items: tuple[EvaluationItem, ...] = ()


class TraceRecord(_Record):
    """The trace of one run."""

    kind: Literal["trace"] = "trace"
    name: str | None = None
    trace: Trace | None = None


ReportRecord: TypeAlias = (
    OptimizeRecord
    | SearchRecord
    | CompileRecord
    | StopRecord
    | AcceptanceRecord
    | CompareRecord
    | ProfileRecord
    | ContributionsRecord
    | ProgramRecord
    | EvaluationRecord
    | TraceRecord
)

MODELS: Final[Mapping[str, type[ReportRecord]]] = {
    model.model_fields["kind"].default: model for model in get_args(ReportRecord)
}

KINDS: Final = tuple(MODELS)
"""The kinds of records that a page can show."""
