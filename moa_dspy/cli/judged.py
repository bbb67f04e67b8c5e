"""What a program is judged by, for the commands that run it on examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from moa_dspy.cli.eval_setup import Job

__all__ = ["data_name", "judged"]


def judged(
    program: str | None,
    config: str | None,
    data: str | None,
    fields: str | None = None,
    metric: str | None = None,
    judge: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Job:
    """Return the program, the examples and the metric that the options describe; all is checked, nothing is asked.

    Raises:
        ConfigurationError: something is missing or does not fit.
    """
    from moa_dspy.cli.commands.eval import EvalOptions
    from moa_dspy.cli.eval_setup import check_reach, prepare
    from moa_dspy.evaluation.evaluate import turns_of

    if program is None and config is None:
        raise ConfigurationError("there is no program; name a saved PROGRAM, or give --config FILE")
    if data is None:
        raise ConfigurationError("there are no examples; give --data, a file of your own or the name of a benchmark")
    job = prepare(
        EvalOptions(
            benchmark=data,
            config=config,
            program=program,
            fields=fields,
            metric=metric,
            judge=judge,
            split=split,
            limit=limit,
            seed=seed,
        )
    )
    if turns_of(job.examples) > 1:
        raise ConfigurationError(f"{job.benchmark.name} has conversations of several turns; only eval runs these")
    check_reach(job)
    return job


def data_name(data: str) -> str:
    """Return what data is called where its place on this machine is nobody's business."""
    return Path(data).name
