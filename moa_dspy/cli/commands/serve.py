"""``moa-dspy serve``: programs behind an OpenAI-compatible address."""

from __future__ import annotations

import os

from moa_dspy.cli.options import Serve
from moa_dspy.cli.output import note, warning
from moa_dspy.cli.programs import budget_of, check_keys
from moa_dspy.errors import ConfigurationError
from moa_dspy.extras import SERVE, why_missing

__all__ = ["run"]


def run(options: Serve) -> None:
    """Serve the programs until the process is interrupted."""
    if problem := why_missing(SERVE, "moa-dspy serve"):
        raise ConfigurationError(problem)
    # Only now: the packages may be missing.
    from moa_dspy.serve.app import ServeOptions
    from moa_dspy.serve.programs import load_programs, warning_of
    from moa_dspy.serve.server import check_address, serve

    settings = ServeOptions(key=_key(options.key_env), concurrency=options.concurrency)
    check_address(options.host, settings)
    programs = load_programs(options.programs, budget=budget_of(options), vectorizers=options.vectorizer or ())
    for name, program in programs.items():
        check_keys(program)
        if (problem := warning_of(program)) is not None:
            warning(f"moa/{name}: {problem}")
    names = ", ".join(f"moa/{name}" for name in programs)
    serve(
        programs,
        host=options.host,
        port=options.port,
        options=settings,
        ready=lambda address: note(f"{names} at {address}/v1; stop with Ctrl-C"),
    )


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigurationError(f"environment variable {variable} (--key-env) is not set; put the clients' key there")
    return key
