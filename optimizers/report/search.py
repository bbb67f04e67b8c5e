"""The search on the page: how it went, the front, the depth curve, and every trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.report.blocks import Cell, Section, facts, fold, missing, part, table
from moa_dspy.optimizers.report.charts import Line, Look, Mark, plot
from moa_dspy.optimizers.report.markup import Child
from moa_dspy.optimizers.report.values import (
    Record,
    architecture_of,
    architecture_rows,
    architecture_text,
    cost_text,
    given,
    inner,
    listed,
    number_text,
    price_cells,
    price_in,
    reading,
    with_interval,
)
from moa_dspy.optimizers.results import Cost
from moa_dspy.optimizers.stopping.depth import Price
from moa_dspy.optimizers.stopping.rules import StopRule

__all__ = ["depth_nodes", "rule_text", "search_section"]

_LOOKS: Final[dict[Any, Look]] = {"complete": "plain", "pruned": "pruned", "fail": "failed"}
_HISTORY: Final = (
    "Filled: a trial that ran all examples. Hollow: given up early, so its score is of fewer examples. "
    "Cross: failed, or not run. Line: the best so far."
)
_FRONT: Final = (
    "Numbered: the front; nothing that ran all examples scores more without costing more. Its bars are intervals. "
    "Faint: the trials, each as it settled on a depth."
)
_CHOSEN_ON: Final = "on the examples that it was chosen on, so expect less on others"


def search_section(record: Record, title: str = "") -> Section:
    """Return the section of a search, or of a study in its storage."""
    title = title or f"Search: {given(record.get('study'))}"
    nodes: list[Child] = [facts(_summary(record))]
    for heading, shown in (
        ("History", _history(record)),
        ("Pareto front", _front(record)),
        ("Depth", depth_nodes(listed(record, "depth_curve"), _chosen(record))),
        ("Trials", _trials(record)),
    ):
        nodes += part(heading, *shown)
    return Section(title, nodes)


def depth_nodes(points: Sequence[Record], chosen: Record) -> list[Child]:
    """Return the depth curve as a chart and a table.

    Args:
        points: stop rules, each with ``score`` and ``price``.
        chosen: the rule that was taken, with the same keys; may be empty.
    """
    if not points:
        return [missing("There is no depth curve: no trial was scored at its depths.")]
    rows, marks = [], []
    lines: dict[Look, list[tuple[float, float]]] = {}
    for point in points:
        score, price = reading(Score, point.get("score")), reading(Price, point.get("price"))
        is_chosen = bool(chosen) and _rule(point) == _rule(chosen)
        rule = f"{rule_text(point)}{' (chosen)' if is_chosen else ''}"
        rows.append([rule, with_interval(score), *price_cells(price)])
        layers = point.get("layers")
        if score is None or not isinstance(layers, int):
            continue
        look, aside = _series(point)
        title = f"{rule}: {with_interval(score)}"
        shown: Look = "best" if is_chosen else look
        label = "chosen" if is_chosen else ""
        marks.append(Mark(layers + aside, score.value, title, shown, score.low, score.high, label))
        if look != "third":
            lines.setdefault(look, []).append((layers + aside, score.value))
    curves = [Line(sorted(spots), look) for look, spots in lines.items()]
    legend = "Filled: all layers are run. Lighter: the program may stop early. Bars are intervals."
    chart = plot("Score by depth", "layers", "score", marks, curves, legend=legend, whole=True)
    head = ("stop rule", "score", "calls", "tokens", "dollars for an example")
    return [chart, table(head, rows)]


def rule_text(point: Record) -> str:
    """Return a stop rule in words."""
    layers, threshold = point.get("layers"), point.get("threshold")
    depth = f"{given(layers)} layer{'' if layers == 1 else 's'}"
    if not point.get("early_stop"):
        return depth
    below = "" if threshold is None else f" below {number_text(threshold, 'g')}"
    return f"{depth}, early stop{below}"


def _summary(record: Record) -> list[tuple[str, Cell]]:
    best, trials = inner(record, "best"), listed(record, "trials")
    states = Counter(given(trial.get("state")) for trial in trials)
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    score = reading(Score, record.get("score"))
    shape = architecture_of(best.get("architecture"))
    rows: list[tuple[str, Cell]] = [
        ("task", given(record.get("task"))),
        ("wanted", _wanted(inner(record, "objective"))),
        ("best", "no trial was scored" if score is None else f"{with_interval(score)}, {_CHOSEN_ON}"),
    ]
    if best:
        rows += [("its trial", given(best.get("trial"))), ("its architecture", _details(shape))]
    rows += [
        ("trials", f"{len(trials)}{f': {counts}' if counts else ''}"),
        ("now", given(record["now"])) if "now" in record else ("ended by", given(record.get("ended_by"))),
        ("paid", cost_text(reading(Cost, record.get("cost")))),
        ("seed", given(record.get("seed"))),
    ]
    return rows


def _details(shape: Any) -> Cell:
    if shape is None:
        return architecture_text(None)
    return fold(architecture_text(shape), facts(architecture_rows(shape)))


def _wanted(objective: Record) -> str:
    wanted, price, unit = objective.get("wanted"), objective.get("price"), given(objective.get("unit"))
    if wanted == "score_at_price":
        return f"the best score at {given(price)} {unit} for an example or less"
    if isinstance(wanted, (list, tuple)):
        return f"a high score and a low price, in {unit}"
    return "the best score" if wanted == "score" else given(wanted)


def _history(record: Record) -> list[Child]:
    best = inner(record, "best").get("trial")
    marks = [_trial_mark(trial, best) for trial in listed(record, "trials") if trial.get("state") != "running"]
    reached = [(entry.get("trial"), entry.get("best")) for entry in listed(record, "history")]
    line = Line([(trial, value) for trial, value in reached if trial is not None and value is not None], steps=True)
    empty = "There is no history: no trial has ended."
    return [plot("Score of each trial", "trial", "score", marks, [line], legend=_HISTORY, whole=True, empty=empty)]


def _trial_mark(trial: Record, best: Any) -> Mark:
    number, score, state = trial.get("number"), trial.get("score"), trial.get("state")
    interval = reading(Score, trial.get("interval"))
    look = "best" if number == best and number is not None else _LOOKS.get(state, "faint")
    figures = _trial_score(trial) if score is not None else given(trial.get("reason") or "no score")
    title = f"trial {given(number)}, {given(state)}: {figures}"
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Mark(float("nan") if number is None else number, score, title, look, low, high)


def _front(record: Record) -> list[Child]:
    front = listed(record, "pareto")
    if not front:
        return [missing("There is no front: no trial has run all examples.")]
    unit = _unit(record, [point.get("price") for point in front])
    trials = [_trial_point(trial, unit) for trial in listed(record, "trials")]
    best = [_front_point(point, number, unit) for number, point in enumerate(front, 1)]
    line = Line([(mark.x, mark.y) for mark in best if mark is not None and mark.y is not None], steps=True)
    across = {"usd": "dollars", "tokens": "tokens"}.get(unit, "LM calls")
    chart = plot(
        "Score against price",
        f"{across} for an example, where nothing is cached",
        "score",
        [mark for mark in (*trials, *best) if mark is not None],
        [line],
        legend=_FRONT,
    )
    head = ("", "architecture", "score", "calls", "tokens", "dollars for an example", "trial")
    return [chart, table(head, [_front_row(point, number) for number, point in enumerate(front, 1)], words=2)]


def _trial_point(trial: Record, unit: str) -> Mark | None:
    price, score = price_in(reading(Price, trial.get("price")), unit), trial.get("score")
    if price is None or score is None:
        return None
    return Mark(price, score, f"trial {given(trial.get('number'))}: {_trial_score(trial)}", "faint")


def _front_point(point: Record, number: int, unit: str) -> Mark | None:
    score, price = reading(Score, point.get("score")), price_in(reading(Price, point.get("price")), unit)
    if price is None or score is None:
        return None
    title = f"{number}: {with_interval(score)} at {price:g} {unit}"
    return Mark(price, score.value, title, "best", score.low, score.high, str(number))


def _front_row(point: Record, number: int) -> list[Cell]:
    shape, score = architecture_of(point.get("architecture")), reading(Score, point.get("score"))
    price = price_cells(reading(Price, point.get("price")))
    return [str(number), architecture_text(shape), with_interval(score), *price, given(point.get("trial"))]


def _unit(record: Record, prices: Sequence[Any]) -> str:
    """The unit of the search, or calls where that is not known for every point."""
    unit = str(inner(record, "objective").get("unit", "calls"))
    known = all(price_in(reading(Price, price), unit) is not None for price in prices)
    return unit if known else "calls"


def _trials(record: Record) -> list[Child]:
    trials = listed(record, "trials")
    if not trials:
        return [missing("There is no trial yet.")]
    names = list(dict.fromkeys(name for trial in trials for name in inner(trial, "params")))
    head = ("trial", "state", *names, "stop rule", "examples", "score", "calls", "tokens", "dollars for an example")
    rows = [_trial_row(trial, names) for trial in trials]
    return [fold(f"{len(trials)} trials, with their parameters", table(head, rows, words=3 + len(names)))]


def _trial_row(trial: Record, names: Sequence[str]) -> list[Cell]:
    params = inner(trial, "params")
    state = given(trial.get("state"))
    reason = trial.get("reason")
    price = trial.get("price")
    return [
        given(trial.get("number")),
        state if reason is None else f"{state}: {given(reason)}",
        *(_param(params, name) for name in names),
        given(trial["rule"]) if trial.get("rule") is not None else "",
        given(trial.get("examples")),
        _trial_score(trial) if trial.get("score") is not None else "",
        *(price_cells(reading(Price, price)) if price is not None else ("", "", "")),
    ]


def _param(params: Record, name: str) -> str:
    if name not in params:
        return ""
    return "its own" if params[name] is None else given(params[name])


def _trial_score(trial: Record) -> str:
    interval = reading(Score, trial.get("interval"))
    if interval is not None:
        return with_interval(interval)
    examples = given(trial.get("examples"))
    return f"{number_text(trial.get('score'), '.3f')} of {examples} examples"


def _chosen(record: Record) -> Record:
    """The stop rule that the best trial has settled on."""
    number = inner(record, "best").get("trial")
    rule = next((trial.get("rule") for trial in listed(record, "trials") if trial.get("number") == number), None)
    try:
        return asdict(StopRule.parse(rule)) if isinstance(rule, str) else {}
    except ValueError:
        return {}


def _rule(point: Record) -> tuple[Any, bool, str]:
    """What tells stop rules apart; thresholds as ``str(StopRule)`` writes them."""
    threshold = point.get("threshold")
    return point.get("layers"), bool(point.get("early_stop")), "" if threshold is None else number_text(threshold, "g")


def _series(point: Record) -> tuple[Look, float]:
    """How points of a rule look, and how far they stand aside, so that intervals do not cover each other."""
    if not point.get("early_stop"):
        return "plain", 0.0
    return ("second", 0.06) if point.get("threshold") is None else ("third", 0.12)
