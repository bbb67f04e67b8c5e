"""``moa-dspy show``: the content of a saved program."""

from __future__ import annotations

from moa_dspy.cli.options import Show
from moa_dspy.cli.output import write_json, write_parts
from moa_dspy.cli.views.program import described, rendered, sections
from moa_dspy.files.program_file import SavedProgram

__all__ = ["run"]


def run(options: Show) -> None:
    """Write the content of the file."""
    saved = SavedProgram.read(options.program)
    if options.json:
        write_json(described(saved))
    else:
        write_parts(*rendered(sections(saved)))
