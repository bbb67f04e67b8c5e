"""``moa-dspy report``: searches, tunings, measurements and programs as one HTML page."""

from __future__ import annotations

import json
import os
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
            metavar="SOURCE...",
            help="JSON files with reports, saved programs, Optuna storages (FILE.db, sqlite:///, journal:///, ...).",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The page.")] = "report.html",
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Of the page.")] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which study of a storage that holds several.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write one HTML page that shows what optimizers have found: history, front, stages, depth, agents, prompts.

    The page needs no network. No model is called, and nothing is written to a study, which may still be running.
    """
    place = _place(out, sources, force=force)
    with quiet_libraries():
        from moa_dspy.optimizers.report.page import render
        from moa_dspy.optimizers.report.study import is_storage

        if study is not None and not any(map(is_storage, sources)):
            raise ConfigurationError(f"--study {study}: no source is an Optuna storage, such as study.db")
        records = [record for source in sources for record in _records(source, study)]
        page = render(records, title)
    write_page(place, page)
    note(f"written to {out}: {len(records)} record{'' if len(records) == 1 else 's'}")


def _place(out: str, sources: list[str], *, force: bool) -> Path:
    """Where the page goes, looked at before anything is read."""
    path = Path(os.path.realpath(out))
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigurationError(f"--out {out}: it is a folder, or its folder is not there or cannot be written to")
    if path in {Path(os.path.realpath(source)) for source in sources}:
        raise ConfigurationError(f"--out {out} is a source as well; give the page a name of its own")
    if path.exists() and not force:
        raise ConfigurationError(f"{out} is there already; use --force to replace it, or --out for another name")
    return path


def _records(source: str, study: str | None) -> list[Any]:
    from moa_dspy.optimizers.report.study import is_storage, study_in, study_record

    if is_storage(source):
        return [study_record(study_in(source, study))]
    content = _content(source)
    return [_program(source)] if isinstance(content, dict) and "format" in content else _found(source, content)


def _content(source: str) -> Any:
    try:
        return json.loads(Path(source).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {source}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{source} is damaged or not JSON: {error}") from None


def _found(source: str, content: Any) -> list[Any]:
    from moa_dspy.optimizers.report.page import KINDS, records_in

    records = records_in(content)
    if not records:
        raise ConfigurationError(
            f"{source} holds no record that a report can show; write one as JSON from a result's .report, or with "
            f"--json (kinds: {', '.join(KINDS)})"
        )
    return records


def _program(source: str) -> dict[str, Any]:
    """What ``moa-dspy show`` says of a program, with its prompts and demos in full."""
    from moa_dspy.cli.views.program import described, sections

    view = described(source).model_copy(update={"file": Path(source).name})
    shown = sections(view.model_copy(update={"predictors": {}}))
    predictors = view.model_dump(mode="json")["predictors"]
    return {
        "kind": "program",
        "name": view.file,
        "sections": [asdict(section) for section in shown],
        "predictors": predictors,
    }


def write_page(path: Path, page: str) -> None:
    """Put a page into its place in one step.

    Raises:
        RunError: the disk is full, or the like.
    """
    try:
        replace_file(path, page.encode())
    except OSError as error:
        raise RunError(f"the page could not be written to {path}: {error.strerror or error}") from None
