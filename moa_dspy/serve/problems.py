"""Errors in OpenAI's format. They say what the client can change, and nothing about providers or other requests."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pydantic
from openai.types.shared import ErrorObject
from starlette.responses import JSONResponse

from moa_dspy.errors import AllProposalsFailedError, ConfigurationError, InputError, RunError
from moa_dspy.redaction import redacted

__all__ = ["Problem", "error_body", "problem_of", "response_of", "tell_operator"]

_log = logging.getLogger(__name__)
_INVALID = "invalid_request_error"
_OURS = "server_error"
_UNEXPECTED = logging.CRITICAL + 1  # above what the command line silences
_MOST_ERRORS = 100  # each is an object, and pydantic has no first one


class Problem(Exception):  # noqa: N818 (an answer to the client, not a failure of this process)
    """A request that gets an error.

    Args:
        message: what is wrong, and what to do.
        status: of HTTP.
        code: stable name of the cause.
        param: the part of the request that is wrong.
        headers: of the response.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, dict(headers or {})


def problem_of(error: BaseException, run: str | None = None) -> Problem:
    """Return the error that a client gets for an exception in a run. An unexpected one is logged."""
    record = f"; the run's record says why: GET /runs/{run}" if run else ""
    match error:
        case Problem():
            return error
        case InputError():
            return Problem(str(error), code="invalid_input")
        case ConfigurationError():
            return Problem(str(error), code="run_refused")
        case AllProposalsFailedError() if all(cause.startswith("budget:") for cause in error.causes.values()):
            return Problem("the budget ended before any agent had answered; raise it", code="budget_exceeded")
        case RunError():
            return Problem("the agents gave no answer" + record, 502, code="no_answer")
    words = f"{type(error).__name__}: {redacted(str(error))}"
    tell_operator(f"a request failed: {words}", error)
    return Problem("the server failed" + record, 500, code="internal_error")


def tell_operator(words: str, error: BaseException | None = None) -> None:
    """Write a line to the server's log, also where the command line silences other lines."""
    _log.log(_UNEXPECTED, "%s", words, exc_info=error if _log.isEnabledFor(logging.ERROR) else None)


def validation_problem(error: pydantic.ValidationError) -> Problem:
    """Return the first of pydantic's errors, without the values, which may be long."""
    if error.error_count() > _MOST_ERRORS:
        return Problem(f"{error.error_count()} parts of the body are wrong or unknown")
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:200]
    return Problem(f"{where or 'the body'}: {first['msg'][:500]}", param=where or None)


def error_body(problem: Problem) -> dict[str, Any]:
    """Return an error in OpenAI's format."""
    kind = _OURS if problem.status >= 500 else _INVALID
    body = ErrorObject(message=str(problem), type=kind, param=problem.param, code=problem.code)
    return {"error": body.to_dict()}


def response_of(problem: Problem) -> JSONResponse:
    """Return the response with an error."""
    return JSONResponse(error_body(problem), problem.status, headers=problem.headers)
