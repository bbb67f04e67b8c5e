"""``moa-dspy doctor``: whether every agent answers, and what it lacks."""

from __future__ import annotations

from collections.abc import Sequence

from moa_dspy.checkup import Checkup, check_agents
from moa_dspy.cli.options import Doctor
from moa_dspy.cli.output import note, table, write_json, write_parts
from moa_dspy.cli.programs import budget_of, build_program, note_default_agents
from moa_dspy.cli.views.failures import brief, remedy_of
from moa_dspy.cli.views.progress import dollars
from moa_dspy.errors import RunError

__all__ = ["run"]

_HEAD = ("agent", "model", "answers", "seconds", "$/M prompt", "$/M completion", "context", "lacks")


def run(options: Doctor) -> None:
    """Ask every agent one small question, and write what it showed."""
    program = build_program(options)
    note_default_agents(options, "checking")
    agents = program.named_agents
    if program.aggregator is not None:
        agents.append(program.aggregator)
    checkups = check_agents(agents, budget=budget_of(options))
    if options.json:
        write_json([checkup.model_dump(mode="json") for checkup in checkups])
    else:
        write_parts(table([_HEAD, *map(_row, checkups)], left=(0, 1, 2, 7)), *_advice(checkups))
    costs = [checkup.cost_usd for checkup in checkups]
    paid = "cost unknown" if None in costs else dollars(sum(cost or 0.0 for cost in costs))
    note(f"{sum(checkup.calls for checkup in checkups)} calls, {sum(one.tokens for one in checkups)} tokens, {paid}")
    failed = [checkup.agent for checkup in checkups if checkup.failure is not None]
    if failed:
        raise RunError(f"{len(failed)} of {len(checkups)} agents did not answer: {', '.join(failed)}")


def _row(checkup: Checkup) -> tuple[str, ...]:
    price = checkup.price
    prices = ("unknown", "unknown") if price is None else (f"{price.input:g}", f"{price.output:g}")
    lacks = [name for name, support in checkup.features.items() if support == "no"]
    unknown = [f"{name}?" for name, support in checkup.features.items() if support == "unknown"]
    return (
        checkup.agent,
        f"{checkup.model}{f' at {checkup.server}' if checkup.server else ''}",
        "no" if checkup.failure is not None else "yes",
        f"{checkup.seconds:.1f}",
        *prices,
        "unknown" if checkup.context is None else f"{checkup.context:,}",
        ", ".join([*lacks, *unknown]) or "nothing",
    )


def _advice(checkups: Sequence[Checkup]) -> list[str]:
    lines = [""]
    for checkup in checkups:
        if checkup.failure is not None:
            remedy = remedy_of(checkup.failure)
            lines.append(f"{checkup.agent}: {brief(checkup.failure)}{f'; {remedy}' if remedy else ''}")
        lines += [f"{checkup.agent}: {remedy}" for remedy in checkup.remedies]
    return lines
