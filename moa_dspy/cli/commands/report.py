"""``moa-dspy report``: searches, tunings, measurements, evaluations, traces and programs as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moa_dspy.cli.options import Report
from moa_dspy.cli.output import check_files, note, write_file, write_json
from moa_dspy.cli.views.program import described, sections
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.files.program_file import SavedProgram
from moa_dspy.optimizers.report.page import render
from moa_dspy.optimizers.report.records import DamagedRecord, parse
from moa_dspy.optimizers.report.sources import is_program, is_storage, records_of_file

__all__ = ["run"]


def run(options: Report) -> None:
    """Read the sources, and write the page."""
    out = Path(options.out).resolve()
    if out in {Path(source).resolve() for source in options.sources}:
        raise ConfigurationError(f"--out {options.out} is also a source; give the page another name")
    check_files({"--out": options.out}, replace=options.force)
    if options.study_name is not None and not any(map(is_storage, options.sources)):
        raise ConfigurationError(f"--study-name {options.study_name}: no source is an Optuna storage, such as study.db")
    records = [parse(record, source) for source in options.sources for record in _records(source, options.study_name)]
    write_file(options.out, render(records, options.title))
    damaged = [str(record) for record in records if isinstance(record, DamagedRecord)]
    if options.json:
        write_json({"page": options.out, "records": len(records), "damaged": damaged})
    if damaged:
        raise RunError(
            f"{options.out} is written without {len(damaged)} of {len(records)} records; {'; '.join(damaged)}"
        )
    note(f"written to {options.out}: {len(records)} record{'' if len(records) == 1 else 's'}")


def _records(source: str, study: str | None) -> list[Mapping[str, Any]]:
    if is_storage(source):
        from moa_dspy.optimizers.report import studies  # only now: Optuna takes half a second to load

        return [studies.study_record(studies.study_in(source, study))]
    return [_program(source)] if is_program(source) else records_of_file(source)


def _program(path: str) -> dict[str, Any]:
    """Return the record of a program: what ``moa-dspy show`` prints, with prompts and demos in full."""
    saved, name = SavedProgram.read(path), Path(path).name
    about, *others = sections(saved, prompts=False)
    parts = [section._asdict() for section in (about._replace(title=name), *others)]
    return {"kind": "program", "name": name, "sections": parts, "predictors": described(saved)["predictors"]}
