"""Programs as tools of an MCP server: the arguments are the task's inputs and a budget."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import pydantic
from mcp import types
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server

import moa_dspy
from moa_dspy.architecture import at_most
from moa_dspy.cost.budget import Budget
from moa_dspy.errors import ConfigurationError, InputError, MoAError
from moa_dspy.program import AttentionMoA
from moa_dspy.serve.inputs import inputs_schema, named_input
from moa_dspy.serve.programs import outputs_of, warning_of

__all__ = ["serve_tools", "tool_server"]

_BUDGET: Final = "budget"
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")


def tool_server(programs: Mapping[str, AttentionMoA]) -> Server[Any]:
    """Return a server with a tool for each program."""
    tools = {_NO_NAME.sub("_", name): program for name, program in programs.items()}

    async def list_tools(_: ServerRequestContext[Any], __: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_tool(name, program) for name, program in tools.items()])

    async def call_tool(_: ServerRequestContext[Any], params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            return await _answer(tools, params.name, params.arguments or {})
        except MoAError as error:
            is_ours = isinstance(error, ConfigurationError)
            words = str(error) if is_ours else "no agent answered; the log of the server says why"
            return types.CallToolResult(content=[types.TextContent(type="text", text=words)], is_error=True)

    version = moa_dspy.__version__
    return Server("moa-dspy", version=version, on_list_tools=list_tools, on_call_tool=call_tool)


async def serve_tools(programs: Mapping[str, AttentionMoA]) -> None:
    """Serve programs as tools on standard input and output, until the input ends."""
    server = tool_server(programs)
    async with stdio_server() as (received, sent):
        await server.run(received, sent, server.create_initialization_options())


async def _answer(tools: Mapping[str, AttentionMoA], name: str, arguments: dict[str, Any]) -> types.CallToolResult:
    program = tools.get(name)
    if program is None:
        raise InputError(f"there is no tool {name!r:.60}; the tools are: {', '.join(tools)}")
    given = dict(arguments)
    budget = _budget(given.pop(_BUDGET, None))
    inputs = {field: named_input(program.task, field, value) for field, value in given.items()}
    prediction: Any = await program.acall(budget=budget, **inputs)
    outputs = outputs_of(program, prediction)
    is_text = len(outputs) == 1 and isinstance(next(iter(outputs.values())), str)
    text = next(iter(outputs.values())) if is_text else json.dumps(outputs, ensure_ascii=False)
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)],
        structured_content={**outputs, "moa": prediction.trace.figures},
    )


def _budget(value: Any) -> Budget | None:
    if value is None:
        return None
    try:
        return pydantic.TypeAdapter(Budget).validate_python(value)
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"budget: {error.errors()[0]['msg'][:300]}") from None


def _tool(name: str, program: AttentionMoA) -> types.Tool:
    inputs = inputs_schema(program.task)
    inputs["properties"][_BUDGET] = {
        "type": "object",
        "description": "Limits of this question: calls, tokens, usd, seconds. They can only lower the server's.",
        "properties": {
            "calls": {"type": "integer"},
            "tokens": {"type": "integer"},
            "usd": {"type": "number"},
            "seconds": {"type": "number"},
        },
    }
    shape, warning = program.architecture, warning_of(program)
    calls = at_most(shape.max_calls, program.most_calls, " model calls")
    text = f"{program.task.instructions}\n\n{len(shape.agents)} agents, {calls}."
    return types.Tool(name=name, description=f"{text} Warning: {warning}" if warning else text, input_schema=inputs)
