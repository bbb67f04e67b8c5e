"""The routes of the server."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from openai.types import Model
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from moa_dspy._dspy import few_replies_in_memory
from moa_dspy.program import AttentionMoA
from moa_dspy.run_view import event_data, run_page, visible_signs
from moa_dspy.serve.chat import SECONDS_BETWEEN_COMMENTS, streamed, whole
from moa_dspy.serve.guard import BodyLimits, Guard, read_body
from moa_dspy.serve.problems import Problem, problem_of, response_of
from moa_dspy.serve.programs import facts_of
from moa_dspy.serve.requests import ChatRequest, check_format, inputs_of
from moa_dspy.serve.runs import Runs, ServedRun
from moa_dspy.serve.usage_file import UsageFile
from moa_dspy.trace import Trace

__all__ = ["ServeOptions", "create_app"]

_PAGES: Final = Environment(loader=PackageLoader("moa_dspy.serve", "."), autoescape=True, undefined=StrictUndefined)

_IN_MEMORY: Final = 10_000  # replies of DSPy's response cache

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class ServeOptions:
    """Settings of a server.

    Attributes:
        key: what clients must send; None if no key is needed.
        concurrency: number of runs at once. A request beyond it gets status 429.
        kept_runs: number of runs that have ended, of which the record is kept.
        body: limits of a request's body.
        usage_file: a file to which the usage of each step is appended; None for no file.
    """

    key: str | None = None
    concurrency: int = 64
    kept_runs: int = 100
    body: BodyLimits = field(default_factory=BodyLimits)
    usage_file: str | Path | None = None


def create_app(programs: Mapping[str, AttentionMoA], options: ServeOptions | None = None) -> Starlette:
    """Return the ASGI application that serves programs, by name.

    Raises:
        ConfigurationError: if the usage file cannot be written, or is another kind of file.
    """
    options = options or ServeOptions()
    usage_file = None if options.usage_file is None else UsageFile(options.usage_file)
    server = _Server(programs, Runs(options.concurrency, options.kept_runs, usage_file=usage_file), options)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with few_replies_in_memory(_IN_MEMORY):
            yield
            await server.runs.close()

    app = Starlette(
        routes=[
            Route("/", _told(server.page)),
            Route("/health", _told(server.health)),
            Route("/v1/models", _told(server.models)),
            Route("/v1/models/{model:path}", _told(server.model)),
            Route("/v1/chat/completions", _told(server.chat), methods=["POST"]),
            Route("/usage", _told(server.usage)),
            Route("/runs", _told(server.list_runs)),
            Route("/runs", _told(server.start), methods=["POST"]),
            Route("/runs/{run}", _told(server.trace)),
            Route("/runs/{run}/page", _told(server.run_page)),
            Route("/runs/{run}/events", _told(server.events)),
            Route("/runs/{run}/stop", _told(server.stop), methods=["POST"]),
        ],
        middleware=[Middleware(Guard, key=options.key)],
        exception_handlers={HTTPException: _wrong_address},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect is no error in OpenAI's format
    app.state.runs = server.runs
    return app


def _told(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint whose errors are in OpenAI's format."""

    async def told(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as error:  # noqa: BLE001 (the client gets no traceback)
            return response_of(problem_of(error))

    return told


async def _wrong_address(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: "there is no such address", 405: f"{request.method:.20} is not allowed here"}.get(status, "refused")
    headers = getattr(error, "headers", None)
    return response_of(Problem(f"{words}; see /v1/models and /v1/chat/completions", status, headers=headers))


class _Server:
    def __init__(self, programs: Mapping[str, AttentionMoA], runs: Runs, options: ServeOptions) -> None:
        self.programs, self.runs, self.options = programs, runs, options
        self._created = int(time.time())
        self._facts: dict[str, dict[str, Any]] = {}

    async def chat(self, request: Request) -> Response:
        """Answer a question."""
        wished = ChatRequest.read(await read_body(request, self.options.body))
        run = self._started(wished)
        return streamed(run, wished) if wished.stream else await whole(request, run, wished)

    def _started(self, wished: ChatRequest) -> ServedRun:
        name = self._name_of(wished.model)
        program = self.programs[name]
        check_format(wished, program.task)
        return self.runs.start(name, program, inputs_of(wished, program), wished.budget)

    def _name_of(self, model: str) -> str:
        """Return the name of the program that is a model, with or without ``moa/``."""
        name = model.removeprefix("moa/")
        if name not in self.programs:
            known = ", ".join(f"moa/{each}" for each in self.programs)
            raise Problem(f"there is no model {model[:100]!r}; there are: {known}", 404, code="model_not_found")
        return name

    async def _model(self, name: str) -> dict[str, Any]:
        """Return a program as a model in OpenAI's format, with what is known about it."""
        if name not in self._facts:
            self._facts[name] = await asyncio.to_thread(facts_of, self.programs[name])
        facts = self._facts[name]
        return Model(id=f"moa/{name}", created=self._created, object="model", owned_by="moa-dspy", **facts).to_dict()

    async def _models(self) -> list[dict[str, Any]]:
        return [await self._model(name) for name in self.programs]

    async def models(self, _: Request) -> Response:
        """List the programs."""
        return JSONResponse({"object": "list", "data": await self._models()})

    async def model(self, request: Request) -> Response:
        """Describe one program."""
        return JSONResponse(await self._model(self._name_of(request.path_params["model"])))

    async def health(self, _: Request) -> Response:
        """Report that the server answers."""
        return JSONResponse({"status": "ok", "running": len(self.runs.running)})

    async def usage(self, _: Request) -> Response:
        """Return the usage of all runs that have ended, and of earlier servers with the same usage file."""
        return JSONResponse(self.runs.total.model_dump(mode="json"))

    async def page(self, _: Request) -> Response:
        """Show programs and runs to people, who can ask a question there."""
        nonce = secrets.token_urlsafe(16)
        page = _PAGES.get_template("models.html.j2").render(
            models=await self._models(), runs=self._newest(), nonce=nonce
        )
        policy = (
            f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(visible_signs(page), headers={"Content-Security-Policy": policy})

    async def start(self, request: Request) -> Response:
        """Start a run that continues without its client. Its page follows it."""
        run = self._started(ChatRequest.read(await read_body(request, self.options.body)))
        return JSONResponse(_summary(run), 201)

    async def run_page(self, request: Request) -> Response:
        """Show a run to people: live while it is under way."""
        run = self.runs.find(request.path_params["run"])
        if run.status != "running":
            return HTMLResponse(run_page(_record_of(run)))
        address = f"/runs/{run.id}"
        return HTMLResponse(run_page(events=f"{address}/events", stop=f"{address}/stop", title=run.title))

    async def list_runs(self, _: Request) -> Response:
        """List the runs under way and the last ones that ended, newest first."""
        return JSONResponse({"object": "list", "data": self._newest()})

    def _newest(self) -> list[dict[str, Any]]:
        return [_summary(run) for run in [*self.runs.ended.values(), *self.runs.running.values()][::-1]]

    async def trace(self, request: Request) -> Response:
        """Return the record of a run that has ended."""
        run = self.runs.find(request.path_params["run"])
        if run.status == "running":
            raise Problem(f"the run has not ended; GET /runs/{run.id}/events follows it", 409, code="run_under_way")
        return Response(_record_of(run).to_json(), media_type="application/json")

    async def events(self, request: Request) -> Response:
        """Follow a run from the beginning: its steps, its trace at the end, and parts of its answer as ``text``."""
        run = self.runs.find(request.path_params["run"])

        async def lines() -> AsyncIterator[ServerSentEvent]:
            async for event in run.events():
                if isinstance(event, str):
                    yield ServerSentEvent(event="text", data=json.dumps(event))
                else:
                    yield ServerSentEvent(data=event_data(event))

        return EventSourceResponse(lines(), ping=SECONDS_BETWEEN_COMMENTS, sep="\n")

    async def stop(self, request: Request) -> Response:
        """Stop a run: its calls are cancelled."""
        run = self.runs.find(request.path_params["run"])
        run.stop()
        return JSONResponse(_summary(run))


def _record_of(run: ServedRun) -> Trace:
    if run.trace is None:
        raise Problem("the run was refused before it began, so there is no record", 404, code="run_not_found")
    return run.trace


def _summary(run: ServedRun) -> dict[str, Any]:
    figures = {} if run.trace is None else run.trace.figures
    about = {"id": run.id, "model": f"moa/{run.model}", "title": run.title, "created": run.created}
    return {**about, "status": run.status, "page": f"/runs/{run.id}/page", **figures}
