"""Writing down where a program comes from, as ``moa_dspy.files.provenance`` records it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

import dspy
from pydantic_core import to_jsonable_python

import moa_dspy
from moa_dspy._dspy import get_dependency_versions
from moa_dspy.cost.usage import Usage
from moa_dspy.evaluation.statistics import Gain, Score
from moa_dspy.files.program_file import digest_of
from moa_dspy.files.provenance import CostRecord, DataRecord, Provenance, ScoreRecord
from moa_dspy.optimizers.comparison.acceptance import Acceptance
from moa_dspy.optimizers.comparison.compare import Comparison
from moa_dspy.optimizers.comparison.reuse import set_digest
from moa_dspy.optimizers.measuring import Metric, metric_name
from moa_dspy.program import AttentionMoA

__all__ = ["Provenance", "provenance_of", "stamp"]

_DECIDES: Final = ("held-out", "comparison", "test")


def provenance_of(
    program: AttentionMoA,
    method: str,
    *,
    metric: Metric | str | None = None,
    data: Mapping[str, Sequence[dspy.Example]] | None = None,
    seeds: Mapping[str, int] | None = None,
    settings: Mapping[str, Any] | None = None,
    scores: Mapping[str, Score | Gain] | None = None,
    outcome: Acceptance | Comparison | None = None,
    cost: Usage | None = None,
    names: Mapping[str, str] | None = None,
) -> Provenance:
    """Return the record of a program's origin.

    Args:
        program: the program in its present state.
        method: how it was made or chosen, such as ``gepa`` or ``search``.
        metric: the metric, or its name.
        data: the examples by use: ``train``, ``validation``, ``held-out``, ``test``.
        seeds: the seeds by use.
        settings: further settings of the method, by name.
        scores: scores and gains, by what they are of.
        outcome: the result of ``accept`` or ``compare``. Its verdict and scores are added.
        cost: of this call; default: the cost of the outcome.
        names: names of the data, by use.
    """
    figures = {**(scores or {}), **_figures_of(outcome)}
    spent = outcome.cost if cost is None and outcome is not None else cost
    names = names or {}
    return Provenance(
        method=method,
        metric=metric if metric is None or isinstance(metric, str) else metric_name(metric),
        data=tuple(
            DataRecord(
                use=use,
                name=names.get(use),
                examples=len(examples),
                digest=set_digest(examples),
                decisions=None if outcome is None or use not in _DECIDES else outcome.reused,
            )
            for use, examples in (data or {}).items()
        ),
        seeds=dict(seeds or {}),
        settings=to_jsonable_python(dict(settings or {}), fallback=str),
        scores=tuple(ScoreRecord(what=what, **value.model_dump()) for what, value in figures.items()),
        verdict=None if outcome is None else outcome.reason if isinstance(outcome, Acceptance) else outcome.verdict,
        cost=None
        if spent is None
        else CostRecord(calls=spent.paid_calls, tokens=spent.tokens.total, usd=spent.cost_usd, seconds=spent.seconds),
        versions={"moa-dspy": moa_dspy.__version__, **get_dependency_versions()},
        date=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        program=digest_of(program),
    )


def stamp(program: AttentionMoA, record: Provenance) -> AttentionMoA:
    """Return a copy of the program with the record as its provenance. Its earlier record is kept within."""
    copy: AttentionMoA = program.deepcopy()
    copy.provenance = record.model_copy(update={"earlier": program.provenance}) if program.provenance else record
    return copy


def _figures_of(outcome: Acceptance | Comparison | None) -> dict[str, Score | Gain]:
    if outcome is None:
        return {}
    if isinstance(outcome, Acceptance):
        gain = outcome.gain.model_copy(update={"p": outcome.p})
        return {"baseline, held-out": outcome.before, "candidate, held-out": outcome.after, "their difference": gain}
    figures: dict[str, Score | Gain] = {one.what: one.score for one in outcome.contenders}
    for one in outcome.contenders:
        if one.gain is not None:
            figures[f"the program - {one.what}"] = one.gain.model_copy(update={"p": one.p})
    return figures
