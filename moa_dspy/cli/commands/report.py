"""``moa-dspy report``: searches, tunings, measurements, evaluations, traces and programs as one HTML page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from moa_dspy.cli.console import note, quiet_libraries
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.files.atomic_write import replace_file

__all__ = ["report_command", "write_page"]


def report_command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Reports as JSON, evaluation records, traces, saved programs, or Optuna storages (FILE.db, "
            "sqlite:///, journal:///, ...).",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The page.")] = "report.html",
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Title of the page.")] = None,
    study: Annotated[
        str | None,
        typer.Option("--study-name", metavar="NAME", help="Name of the study in a storage that holds several."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write one HTML page that shows what was found: history, front, depth, stages, agents, prompts, scores, steps.

    The page needs no network. No model is called. A study is only read, and its search may still be running.
    """
    path = _checked_out(out, sources, force=force)
    with quiet_libraries():
        from moa_dspy.optimizers.report.page import DamagedRecord, parse, render
        from moa_dspy.optimizers.report.study import is_storage

        if study is not None and not any(map(is_storage, sources)):
            raise ConfigurationError(f"--study-name {study}: no source is an Optuna storage, such as study.db")
        records = [parse(record, source) for source in sources for record in _records(source, study)]
        page = render(records, title)
    write_page(path, page)
    damaged = [str(record) for record in records if isinstance(record, DamagedRecord)]
    if damaged:
        raise RunError(f"{out} is written without {len(damaged)} of {len(records)} records; {'; '.join(damaged)}")
    note(f"written to {out}: {len(records)} record{'' if len(records) == 1 else 's'}")


def _checked_out(out: str, sources: list[str], *, force: bool) -> Path:
    """Return the page's path, checked before anything is read."""
    path = Path(os.path.realpath(out))
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigurationError(f"--out {out}: it is a folder, or its folder does not exist or cannot be written to")
    if path in {Path(os.path.realpath(source)) for source in sources}:
        raise ConfigurationError(f"--out {out} is also a source; give the page another name")
    if path.exists() and not force:
        raise ConfigurationError(f"{out} exists already; use --force to replace it, or --out for another name")
    return path


def _records(source: str, study: str | None) -> list[Mapping[str, Any]]:
    from moa_dspy.optimizers.report.sources import is_program, records_of_file
    from moa_dspy.optimizers.report.study import is_storage, study_in, study_record

    if is_storage(source):
        return [study_record(study_in(source, study))]
    return [_program(source)] if is_program(source) else records_of_file(source)


def _program(source: str) -> dict[str, Any]:
    """Return the record of a program: what ``moa-dspy show`` prints, with prompts and demos in full."""
    from moa_dspy.cli.views.program import described, sections

    view = described(source).model_copy(update={"file": Path(source).name})
    parts = sections(view.model_copy(update={"predictors": {}}))
    predictors = view.model_dump(mode="json")["predictors"]
    return {"kind": "program", "name": view.file, "sections": [*map(asdict, parts)], "predictors": predictors}


def write_page(path: Path, page: str) -> None:
    """Write a page in one step.

    Raises:
        RunError: if the file cannot be written.
    """
    try:
        replace_file(path, page.encode())
    except OSError as error:
        raise RunError(f"the page could not be written to {path}: {error.strerror or error}") from None
