"""``moa-dspy show``: the content of a saved program."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from moa_dspy.cli.console import is_terminal, printable, write_result
from moa_dspy.cli.options import Json, command

__all__ = ["show"]


@command
def show(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="A saved program.")], as_json: Json = False
) -> None:
    """Show a saved program: its task, its agents, its architecture, its prompts.

    No model is called, and none need be reachable. --json has every demo in full.
    """
    from moa_dspy.cli.views.program import described, sections, styled

    view = described(program)
    if as_json:
        write_result(json.dumps(view.model_dump(mode="json"), ensure_ascii=False, indent=2))
    elif is_terminal(sys.stdout):
        styled(sections(view))
    else:
        write_result(printable("\n\n".join(section.plain() for section in sections(view))))
