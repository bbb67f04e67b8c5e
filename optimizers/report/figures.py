"""The charts of records: searches, depth curves, scores and gains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from markupsafe import Markup

from moa_dspy.cost.usage import Price
from moa_dspy.evaluation.statistics import Gain, Score
from moa_dspy.optimizers.report.charts import Bar, Line, Look, PlotMark, bars, plot
from moa_dspy.optimizers.report.records import (
    CategoryRow,
    CompareRecord,
    ContributionsRecord,
    DepthPoint,
    GateRecord,
    ProfileRecord,
    SearchRecord,
    TrialRow,
)
from moa_dspy.optimizers.report.text import as_text

__all__ = ["contenders", "contributions", "depth", "front", "gains", "gates", "history", "scores"]

_LOOKS: Final[dict[str, Look]] = {"complete": "plain", "pruned": "pruned", "fail": "failed"}
_UNITS: Final = {"usd": "dollars", "tokens": "tokens", "calls": "LM calls"}
_INTERVALS: Final = "Bars are means, whiskers their intervals."
_HISTORY: Final = (
    "Filled: the trial ran all examples. Hollow: it was pruned, so its score rests on fewer examples. "
    "Cross: it failed or did not run. Line: the best score so far."
)
_FRONT: Final = (
    "Numbered: the front. No program that ran all examples scores more at the same or a lower price. "
    "Whiskers are intervals. Faint: all trials, each with its own stop rule."
)
_DEPTH: Final = "Filled: all layers run. Hollow: the program may stop early. Whiskers are intervals."
_GATES: Final = "Filled: certified gates. Whiskers end at the upper bound of the loss. The line is the allowed loss."


def history(record: SearchRecord) -> Markup:
    """Return the score of each trial, and the best so far."""
    best = None if record.best is None else record.best.trial
    marks = [_trial(trial, best) for trial in record.trials if trial.state != "running"]
    points = [(point.get("trial"), point.get("best")) for point in record.history]
    line = Line([(trial, score) for trial, score in points if trial is not None and score is not None], steps=True)
    empty = "There is no history: no trial has ended."
    return plot("Score of each trial", "trial", "score", marks, [line], legend=_HISTORY, whole=True, empty=empty)


def _trial(trial: TrialRow, best: int | None) -> PlotMark:
    look = "best" if trial.number == best else _LOOKS.get(trial.state, "faint")
    title = f"trial {trial.number}, {trial.state}: {trial.result or trial.reason or 'no score'}"
    low, high = (None, None) if trial.interval is None else (trial.interval.low, trial.interval.high)
    return PlotMark(trial.number, trial.score, title, look, low, high)


def front(record: SearchRecord) -> Markup:
    """Return score against price, with the front numbered. Prices are calls if the unit is unknown for a trial."""
    unit = "calls" if record.objective is None else record.objective.unit
    if any(_amount(point.price, unit) is None for point in record.pareto):
        unit = "calls"
    marks = []
    for trial in record.trials:
        price = _amount(trial.price, unit)
        if price is not None and trial.score is not None:
            marks.append(PlotMark(price, trial.score, f"trial {trial.number}: {trial.result}", "faint"))
    best = []
    for number, point in enumerate(record.pareto, 1):
        price, score = _amount(point.price, unit), point.score
        if price is not None and score is not None:
            title = f"{number}: {as_text(score)} at {price:g} {unit}"
            best.append(PlotMark(price, score.value, title, "best", score.low, score.high, str(number)))
    line = Line([(mark.x, mark.y) for mark in best if mark.y is not None], steps=True)
    across = f"{_UNITS[unit]} per example, nothing cached"
    return plot("Score against price", across, "score", [*marks, *best], [line], legend=_FRONT)


def _amount(price: Price | None, unit: str) -> float | None:
    return None if price is None else getattr(price, unit)


def depth(points: Sequence[DepthPoint], chosen: str | None) -> Markup:
    """Return the score of each stop rule by depth; ``chosen`` is the rule in words."""
    marks: list[PlotMark] = []
    lines: dict[Look, list[tuple[float, float]]] = {}
    for point in points:
        if point.score is None:
            continue
        look, offset = _series(point)
        is_chosen = point.rule == chosen
        title = f"{point.rule}{' (chosen)' if is_chosen else ''}: {as_text(point.score)}"
        x, y, low, high = point.layers + offset, point.score.value, point.score.low, point.score.high
        marks.append(PlotMark(x, y, title, "best" if is_chosen else look, low, high, "chosen" if is_chosen else ""))
        if look != "third":
            lines.setdefault(look, []).append((x, y))
    curves = [Line(sorted(spots), look) for look, spots in lines.items()]
    return plot("Score by depth", "layers", "score", marks, curves, legend=_DEPTH, whole=True)


def gates(record: GateRecord) -> Markup:
    """Return the loss of each gate with its upper bound, against the calls it saves."""
    marks = []
    for point in record.curve:
        chosen = point.gate == record.gate
        title = (
            f"{point.gate}: saves {point.saved:.0%} of the calls, loses {point.loss:+.4f}, at most {point.bound:.4f}"
        )
        look: Look = "best" if chosen else "plain" if point.certified else "pruned"
        label = "chosen" if chosen else ""
        marks.append(PlotMark(100 * point.saved, point.loss, title, look, point.loss, point.bound, label))
    ends = [min((mark.x for mark in marks), default=0.0), max((mark.x for mark in marks), default=0.0)]
    allowed = [] if record.max_loss is None or not marks else [Line([(end, record.max_loss) for end in ends])]
    return plot(
        "Loss against savings", "percent of the calls saved", "loss of the score", marks, allowed, legend=_GATES
    )


def _series(point: DepthPoint) -> tuple[Look, float]:
    """Return look and offset of a rule's points; the offset keeps intervals apart."""
    if not point.early_stop:
        return "plain", 0.0
    return ("second", 0.06) if point.threshold is None else ("third", 0.12)


def scores(
    label: str,
    rows: Iterable[tuple[str, Score | Gain | None] | CategoryRow],
    *,
    about: str = "",
    empty: str = "No score is on record.",
) -> Markup:
    """Return scores or gains as bars; rows without a value are left out."""
    drawn = [Bar(name, one.value, one.low, one.high, as_text(one)) for name, one, *_ in rows if one is not None]
    return bars(label, drawn, legend=f"{about}{_INTERVALS}", empty=empty)


def gains(record: ProfileRecord) -> Markup:
    """Return the gain of each stage."""
    return scores(
        "Gain of each stage",
        [(f"layer {row.layer}, {row.stage}", row.gain) for row in record.rows or () if row.agent is None],
        about="What a stage adds to the answers that it starts from. ",
        empty="No stage started from an answer, so there is no gain to draw.",
    )


def contributions(record: ContributionsRecord) -> Markup:
    """Return the contribution of each agent."""
    return scores(
        "What each agent adds to the score",
        [(row.agent, row.adds) for row in record.rows or ()],
        about="The whole program's score less that without the agent. ",
        empty="No agent's contribution is on record.",
    )


def contenders(record: CompareRecord) -> Markup:
    """Return the score of each contender with its relative spend."""
    rows = []
    for row in record.contenders or ():
        name = f"{row.name} (to use)" if row.name == record.use else row.name
        figures = f"{as_text(row.score)} x{row.ratio:.2f}"
        rows.append(Bar(name, row.score.value, row.score.low, row.score.high, figures))
    return bars("Score of each contender", rows, legend=_INTERVALS, empty="No contender is on record.")
