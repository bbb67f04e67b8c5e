"""What was measured, on the page: acceptance, tuned prompts, stages, agents' contributions, comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from moa_dspy.evaluation.statistics import Gain, Score
from moa_dspy.optimizers.analysis.contributions import Contribution
from moa_dspy.optimizers.analysis.profile import StageRow
from moa_dspy.optimizers.comparison.compare import Contender
from moa_dspy.optimizers.report.blocks import Cell, Section, facts, missing, part, table
from moa_dspy.optimizers.report.charts import Bar, bars
from moa_dspy.optimizers.report.markup import Child, Node, el
from moa_dspy.optimizers.report.prompts import changes_of, prompt_changes
from moa_dspy.optimizers.report.values import (
    UNKNOWN,
    Model,
    Record,
    cost_text,
    given,
    inner,
    listed,
    number_text,
    p_text,
    price_cells,
    reading,
    with_interval,
)
from moa_dspy.optimizers.results import Cost
from moa_dspy.optimizers.stopping.depth import Price

__all__ = [
    "acceptance_nodes",
    "acceptance_section",
    "compare_section",
    "compile_section",
    "contributions_section",
    "profile_section",
]

_INTERVALS: Final = "Bars are means, whiskers their intervals."


def acceptance_section(record: Record, title: str = "Held-out acceptance") -> Section:
    """Return the section of a held-out acceptance."""
    return Section(title, acceptance_nodes(record))


def acceptance_nodes(record: Record) -> list[Child]:
    """Return the verdict, and the scores that it rests on."""
    before, after = reading(Score, record.get("before")), reading(Score, record.get("after"))
    gain = reading(Gain, record.get("gain"))
    examples = given(None if after is None else after.examples)
    rows: list[tuple[str, Cell]] = [
        ("before", with_interval(before)),
        ("after", with_interval(after)),
        ("gain", with_interval(gain)),
        ("p", f"{p_text(record.get('p'))}, one-sided; accepted if at most {number_text(record.get('alpha'), 'g')}"),
        ("held-out examples", f"{examples}: {given(record.get('won'))} won, {given(record.get('lost'))} lost"),
        ("examples needed", _needed(record)),
        (
            "compared with",
            f"{given(record.get('checked'))} examples that were tuned on, to be sure that none is held out",
        ),
        ("failed runs", _failed(record.get("failed"))),
        ("paid", cost_text(reading(Cost, record.get("cost")))),
    ]
    accepted = record.get("accepted")
    look = "verdict" if accepted is None else "verdict good" if accepted else "verdict kept"
    scores = [("before (baseline)", before), ("after (candidate)", after)]
    return [
        el("p", given(record.get("reason")), cls=look),
        _score_bars("Held-out score before and after", scores),
        facts(rows),
    ]


def compile_section(record: Record, title: str = "") -> Section:
    """Return the section of a tuning of prompts."""
    scores, examples = inner(record, "score"), inner(record, "examples")
    before, after = reading(Score, scores.get("before")), reading(Score, scores.get("after"))
    gain = reading(Gain, scores.get("gain"))
    errors = inner(record, "errors")
    rows: list[tuple[str, Cell]] = [
        ("method", f"{given(record.get('method'))}, effort {given(record.get('effort'))}"),
        ("options", given(record.get("options"))),
        ("prompts written by", given(record.get("prompt_lm"))),
        ("before", with_interval(before)),
        ("after", f"{with_interval(after)}, on examples that methods may choose by"),
        ("gain", with_interval(gain) if gain is None else f"{with_interval(gain)}, p = {p_text(gain.p)}"),
        ("examples", f"{given(examples.get('trainset'))} to learn from, {given(examples.get('valset'))} to measure"),
        ("failed runs and metrics", _errors(errors)),
        ("paid", cost_text(reading(Cost, record.get("cost")))),
        ("seed", given(record.get("seed"))),
    ]
    return Section(
        title or f"Prompts: {given(record.get('method'))}",
        [
            facts(rows),
            _score_bars("Validation score before and after", [("before", before), ("after", after)]),
            *part("What changed", *prompt_changes(changes_of(record))),
        ],
    )


def profile_section(record: Record, title: str = "Stage profile") -> Section:
    """Return the section of a profile: what each stage gains and what it costs."""
    rows, lost = _rows(StageRow, record, "rows")
    shares = given(record.get("shares_of"))
    stages = [row for row in rows if row.agent is None]
    gains = [Bar(_stage(row), *_interval(row.gain), with_interval(row.gain)) for row in stages if row.gain is not None]
    legend = f"What a stage adds to the answers that it started from. {_INTERVALS}"
    head = ("layer", "stage", "score", "gain on the stage before", "lost", "won", "calls", "tokens", shares)
    score, cost = reading(Score, record.get("score")), reading(Cost, record.get("cost"))
    whole: list[tuple[str, Cell]] = [
        ("answers", f"{with_interval(score)} over {given(record.get('examples'))} examples"),
        ("failed runs", f"{given(record.get('failed'))}, which the stages leave out"),
        ("paid", cost_text(cost)),
    ]
    empty = "No stage started from an answer, so there is no gain to draw."
    return Section(
        title,
        [
            facts(whole),
            bars("Gain of each stage", gains, legend=legend, empty=empty),
            table(head, [_stage_cells(row) for row in rows], words=2, empty="No stage is on record."),
            lost,
        ],
    )


def contributions_section(record: Record, title: str = "What each agent adds") -> Section:
    """Return the section of agents' contributions."""
    rows, lost = _rows(Contribution, record, "rows")
    adds = [Bar(row.agent, *_interval(row.adds), with_interval(row.adds)) for row in rows]
    head = ("agent", "model", "adds to the score", "p", "score without", "failed", "calls", "tokens", "dollars")
    cells = [_contribution_cells(row) for row in rows]
    if rows:
        whole = reading(Price, record.get("price"))
        score = with_interval(reading(Score, record.get("score")))
        cells.append(["all", "", "", "", score, "", *price_cells(whole)])
    note = (
        f"{given(record.get('examples'))} examples. Each agent is left out in turn; calls, tokens and dollars are what "
        f"it adds to an example where nothing is cached; p is adjusted for {len(rows)} agents (Holm). "
        f"Paid: {cost_text(reading(Cost, record.get('cost')))}."
    )
    legend = f"The whole program's score less that without the agent. {_INTERVALS}"
    return Section(
        title,
        [
            bars(
                "What each agent adds to the score", adds, legend=legend, empty="No agent's contribution is on record."
            ),
            table(head, cells, words=2, empty="There is no row."),
            lost,
            el("p", note),
        ],
    )


def compare_section(record: Record, title: str = "Comparison at matched spend") -> Section:
    """Return the section of a comparison with simpler programs."""
    rows, lost = _rows(Contender, record, "contenders")
    unit = given(record.get("match"))
    use = record.get("use")
    shown = [_contender_bar(row, is_used=row.name == use) for row in rows]
    head = ("", "what", "score", "failed", "calls", "tokens", "dollars", "spend", "program's gain", "p")
    tolerance = number_text(record.get("tolerance"), ".0%")
    legend = (
        f"Bars are intervals. Spend in {unit} for an example is matched: at most {tolerance} more than the program's."
    )
    notes = record.get("notes")
    lines = [el("li", given(note)) for note in notes] if isinstance(notes, (list, tuple)) else []
    rows_below: list[tuple[str, Cell]] = [
        ("test examples", f"{given(record.get('examples'))}, and {given(record.get('pilot'))} others as a pilot"),
        ("rule", given(record.get("rule"))),
        ("level", f"{number_text(record.get('alpha'), 'g')}; p adjusted for {max(len(rows) - 1, 0)} baselines (Holm)"),
        ("paid", cost_text(reading(Cost, record.get("cost")))),
        ("seed", given(record.get("seed"))),
    ]
    return Section(
        title,
        [
            el("p", given(record.get("verdict")), cls="verdict"),
            bars("Score of each contender", shown, legend=legend, empty="No contender is on record."),
            table(head, [_contender_cells(row) for row in rows], words=2, empty="There is no row."),
            lost,
            el("ul", *lines) if lines else None,
            facts(rows_below),
        ],
    )


def _rows(model: type[Model], record: Record, name: str) -> tuple[list[Model], Node | None]:
    """The rows of a record as what they are, and a line on those that are none."""
    values = listed(record, name)
    rows = [row for value in values if (row := reading(model, value)) is not None]
    lost = len(values) - len(rows)
    return rows, missing(f"{lost} of {len(values)} rows are damaged and left out.") if lost else None


def _score_bars(label: str, scores: Sequence[tuple[str, Score | None]]) -> Node:
    rows = [Bar(name, *_interval(score), with_interval(score)) for name, score in scores if score is not None]
    return bars(label, rows, legend=_INTERVALS, empty="No score is on record.")


def _interval(value: Score | Gain) -> tuple[float, float, float]:
    return value.value, value.low, value.high


def _needed(record: Record) -> str:
    needed, power = record.get("needed", UNKNOWN), number_text(record.get("power"), ".0%")
    if needed == UNKNOWN:
        return UNKNOWN
    if needed is None:
        return "no number would do: there is no gain"
    return f"about {given(needed)}, to show a gain of this size {power} of the time"


def _errors(errors: Record) -> str:
    first = errors.get("first")
    told = "; ".join(map(given, first)) if isinstance(first, (list, tuple)) and first else ""
    return f"{given(errors.get('count'))}{f': {told}' if told else ''}"


def _failed(value: Any) -> str:
    match value:
        case [before, after]:
            return f"{given(before)} of the baseline, {given(after)} of the candidate"
        case _:
            return given(value)


def _stage(row: StageRow) -> str:
    return f"layer {row.layer}, {row.stage}"


def _stage_cells(row: StageRow) -> list[Cell]:
    gain = row.gain is not None
    return [
        str(row.layer) if row.agent is None else "",
        row.stage if row.agent is None else el("span", row.agent, cls="within"),
        "" if row.score is None else with_interval(row.score),
        with_interval(row.gain) if gain else "",
        str(row.lost) if gain else "",
        str(row.won) if gain else "",
        f"{row.calls:,}",
        f"{row.tokens:,}",
        f"{row.share:.0%}",
    ]


def _contribution_cells(row: Contribution) -> list[Cell]:
    figures = [with_interval(row.adds), p_text(row.p), with_interval(row.score), str(row.failed)]
    return [row.agent, row.model or "", *figures, *price_cells(row.price, "+")]


def _contender_bar(row: Contender, *, is_used: bool) -> Bar:
    name = f"{row.name} (to use)" if is_used else row.name
    return Bar(name, *_interval(row.score), f"{with_interval(row.score)} x{row.ratio:.2f}")


def _contender_cells(row: Contender) -> list[Cell]:
    gain = "" if row.gain is None else with_interval(row.gain)
    figures = [with_interval(row.score), str(row.failed), *price_cells(row.spent), f"x{row.ratio:.2f}"]
    return [row.name, row.what, *figures, gain, "" if row.p is None else p_text(row.p)]
