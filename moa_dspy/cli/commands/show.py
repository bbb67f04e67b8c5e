"""``moa-dspy show``: what is in a program file, for a reader."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from moa_dspy.cli.console import is_terminal, printable, quiet_libraries, write_result

__all__ = ["show"]


def show(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="A file that AttentionMoA.save wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with every demo in full.")] = False,
) -> None:
    """Show a saved program: its task, its agents, its architecture, its prompts.

    Nothing is called, and no model need be reachable.
    """
    with quiet_libraries():
        from moa_dspy.cli.views.program import described, sections, styled

        view = described(program)
        if as_json:
            write_result(json.dumps(view.model_dump(mode="json"), ensure_ascii=False, indent=2))
        elif is_terminal(sys.stdout):
            styled(sections(view))
        else:
            write_result(printable("\n\n".join(section.plain() for section in sections(view))))
