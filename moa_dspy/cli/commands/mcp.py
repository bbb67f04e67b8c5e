"""``moa-dspy mcp``: programs as tools of an MCP server."""

from __future__ import annotations

import asyncio

from moa_dspy.cli.options import Mcp
from moa_dspy.cli.programs import served_programs
from moa_dspy.errors import ConfigurationError
from moa_dspy.extras import MCP, why_missing

__all__ = ["run"]


def run(options: Mcp) -> None:
    """Serve the programs until standard input ends."""
    if options.json:
        raise ConfigurationError("--json prints a result, but this command speaks MCP on standard output; leave it out")
    if problem := why_missing(MCP, "moa-dspy mcp"):
        raise ConfigurationError(problem)
    from moa_dspy.serve.mcp_server import serve_tools  # only now: the package may be missing

    asyncio.run(serve_tools(served_programs(options)))
