"""``moa-dspy show``: the content of a saved program, or a recorded run."""

from __future__ import annotations

import json
from pathlib import Path

from moa_dspy.cli.options import Show
from moa_dspy.cli.output import check_files, note, write_file, write_json, write_parts, write_result
from moa_dspy.cli.views.program import described, rendered, sections
from moa_dspy.errors import ConfigurationError
from moa_dspy.files.program_file import SavedProgram
from moa_dspy.json_safe import printable
from moa_dspy.run_view import run_page
from moa_dspy.trace import Trace

__all__ = ["run"]


def run(options: Show) -> None:
    """Write the content of the file."""
    trace = _trace(options.file)
    if trace is not None:
        _show_trace(trace, options)
        return
    saved = SavedProgram.read(options.file)
    if options.html is not None:
        raise ConfigurationError(
            f"--html shows a trace, and {options.file} is a program; moa-dspy report {options.file} makes a page of it"
        )
    if options.json:
        write_json(described(saved))
    else:
        write_parts(*rendered(sections(saved)))


def _show_trace(trace: Trace, options: Show) -> None:
    if options.html is not None:
        if Path(options.html).resolve() == Path(options.file).resolve():
            raise ConfigurationError(f"--html {options.html} is the trace itself; give the page another name")
        check_files({"--html": options.html}, replace=options.force)
        write_file(options.html, run_page(trace))
        note(f"written to {options.html}")
    if options.json:
        write_json(trace.model_dump(mode="json"))
    elif options.html is None:
        lines = [f"dissent of {', '.join(one.agents)}: {' '.join(one.text.split())}" for one in trace.dissent]
        write_result(printable("\n".join([trace.summary(steps=True), *lines])))


def _trace(path: str) -> Trace | None:
    """Return the trace in a file, or None if the file is not a trace."""
    try:
        content = json.loads(text := Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        return None
    if isinstance(content, dict) and isinstance(content.get("kind"), str):
        raise ConfigurationError(
            f"{path} is the record of {content['kind']}, not a program or a run; moa-dspy report {path} makes a page "
            "of it"
        )
    if not isinstance(content, dict) or not content.keys() >= {"steps", "outputs", "stopped_by"}:
        return None
    try:
        return Trace.from_json(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
