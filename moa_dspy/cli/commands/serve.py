"""``moa-dspy serve``: programs over an OpenAI-compatible API."""

from __future__ import annotations

import os

from moa_dspy.cli.options import Serve
from moa_dspy.cli.output import note, write_json
from moa_dspy.cli.programs import served_programs
from moa_dspy.errors import ConfigurationError
from moa_dspy.extras import SERVE, why_missing

__all__ = ["run"]


def run(options: Serve) -> None:
    """Serve the programs until the process is interrupted."""
    if problem := why_missing(SERVE, "moa-dspy serve"):
        raise ConfigurationError(problem)
    # Only now: the packages may be missing.
    from moa_dspy.serve.app import ServeOptions
    from moa_dspy.serve.server import check_address, serve

    settings = ServeOptions(key=_key(options.key_env), concurrency=options.concurrency, usage_file=options.usage_file)
    check_address(options.host, settings)
    programs = served_programs(options)

    def ready(address: str) -> None:
        names = [f"moa/{name}" for name in programs]
        if options.json:
            write_json({"address": f"{address}/v1", "models": names})
        note(f"{', '.join(names)} at {address}/v1; stop with Ctrl-C")

    serve(programs, host=options.host, port=options.port, options=settings, ready=ready)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigurationError(f"environment variable {variable} (--key-env) is not set; put the clients' key there")
    return key
