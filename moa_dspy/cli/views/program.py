"""A program file as JSON data, and as sections of readable text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pydantic
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from moa_dspy._dspy import get_annotation_name
from moa_dspy.architecture import AgentSpec, Architecture
from moa_dspy.cli.console import printable
from moa_dspy.errors import ConfigurationError, ProgramFileError
from moa_dspy.files.program_file import SavedProgram
from moa_dspy.files.provenance import Provenance
from moa_dspy.files.types import decode_type

__all__ = ["FieldView", "PredictorView", "ProgramView", "Section", "described", "sections", "styled"]

_SHOWN_DEMOS: Final = 3
_SHOWN_LENGTH: Final = 100
_INDENT: Final = "  "


class FieldView(pydantic.BaseModel):
    """A field of the task: its name, type and description."""

    name: str
    type: str
    description: str | None = None


class PredictorView(pydantic.BaseModel):
    """The prompt of one role: instructions and demos."""

    instructions: str
    demos: list[dict[str, Any]]


class ProgramView(pydantic.BaseModel):
    """The content of a program file.

    Attributes:
        file: its path, as given.
        format_version: version of the file format.
        versions: versions of the libraries that wrote it.
        instructions: instructions of the task.
        inputs: input fields of the task.
        outputs: output fields of the task.
        architecture: the architecture, with all agents.
        critiques: critiques in each layer.
        max_calls: LM calls of a run that does not stop early.
        depth: sequential calls in such a run.
        predictors: prompts by predictor name.
        provenance: the recorded origin of the program, or None.
        changed: whether the program differs from the one that the provenance's figures describe.
    """

    file: str
    format_version: int
    versions: dict[str, str]
    instructions: str
    inputs: list[FieldView]
    outputs: list[FieldView]
    architecture: Architecture
    critiques: int
    max_calls: int
    depth: int
    predictors: dict[str, PredictorView]
    provenance: Provenance | None = None
    changed: bool = False


@dataclass(frozen=True)
class Section:
    """A titled section of the text: rows of name and value, or paragraphs."""

    title: str
    rows: Sequence[tuple[str, str]] = ()
    text: str = ""

    def plain(self) -> str:
        """Return the section as plain text."""
        width = max((len(name) for name, _ in self.rows), default=0)
        rows = (f"{_INDENT}{name:<{width}}  {value}".rstrip() for name, value in self.rows)
        body = [textwrap.indent(self.text, _INDENT)] if self.text else []
        return "\n".join([self.title, *body, *rows])


def described(path: str) -> ProgramView:
    """Return the content of the file at ``path``.

    Raises:
        ProgramFileError: if it cannot be read, see ``SavedProgram.read``.
    """
    saved = SavedProgram.read(path)
    content, shape, record = saved.content, saved.architecture, saved.provenance
    try:
        return ProgramView(
            file=path,
            format_version=content["format_version"],
            versions=content.get("versions", {}),
            instructions=content["task"]["instructions"],
            inputs=_fields(content["task"]["inputs"]),
            outputs=_fields(content["task"]["outputs"]),
            architecture=shape,
            critiques=shape.critiques,
            max_calls=shape.max_calls,
            depth=shape.depth,
            predictors={name: _predictor(state) for name, state in content["predictors"].items()},
            provenance=record,
            changed=record is not None and record.program not in (None, saved.digest),
        )
    except ConfigurationError as error:
        raise ProgramFileError(f"{path} is damaged: {error}") from None


def _fields(content: Mapping[str, Any]) -> list[FieldView]:
    return [
        FieldView(name=name, type=get_annotation_name(decode_type(entry["is"])), description=_description(name, entry))
        for name, entry in content.items()
    ]


def _description(name: str, entry: Mapping[str, Any]) -> str | None:
    written: str = entry["extra"]["desc"]
    return None if written in ("", f"${{{name}}}") else written


def _predictor(state: Mapping[str, Any]) -> PredictorView:
    return PredictorView(instructions=state["signature"]["instructions"], demos=state["demos"])


def sections(view: ProgramView) -> list[Section]:
    """Return the view as readable sections, most important first."""
    shape = view.architecture
    agents = [(spec.name, _agent_line(spec)) for spec in shape.agents]
    if shape.aggregator is not None:
        agents.append((f"{shape.aggregator.name} (aggregates)", _agent_line(shape.aggregator)))
    elif shape.aggregation == "synthesis":
        agents.append(("aggregator", f"the model of {shape.agents[0].name}, without its persona"))
    versions = ", ".join(f"{name} {version}" for name, version in view.versions.items())
    return [
        Section(view.file, [("format", str(view.format_version)), ("written by", versions or "unknown")]),
        *_provenance_sections(view),
        Section("Task", list(_task_rows(view)), view.instructions),
        Section("Agents", agents),
        Section("Architecture", list(_architecture_rows(view))),
        *(_prompt_section(name, predictor) for name, predictor in view.predictors.items()),
    ]


def _provenance_sections(view: ProgramView) -> Iterator[Section]:
    record, title = view.provenance, "Provenance"
    text = "The program has been changed since; these figures are not of what it is now." if view.changed else ""
    while record is not None:
        yield Section(title, list(record.rows()), text)
        record, title, text = record.earlier, "Provenance, before that", ""


def _task_rows(view: ProgramView) -> Iterator[tuple[str, str]]:
    for kind, fields in (("input", view.inputs), ("output", view.outputs)):
        for field in fields:
            description = f", {_shortened(field.description)}" if field.description else ""
            yield kind, f"{field.name}: {field.type}{description}"


def _agent_line(spec: AgentSpec) -> str:
    settings = {"temperature": spec.temperature, "max_tokens": spec.max_tokens, **spec.options}
    parts = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in settings.items()
        if value is not None
    ]
    persona = [f"persona {_shortened(spec.persona)!r}"] if spec.persona else []
    return ", ".join([spec.model or "the model DSPy is configured with", *parts, *persona])


def _architecture_rows(view: ProgramView) -> Iterator[tuple[str, str]]:
    shape = view.architecture
    yield "layers", str(shape.layers)
    yield "attention", f"{shape.attention} ({view.critiques} critiques in each layer)"
    yield "residual", shape.residual
    yield "aggregation", str(shape.aggregation)
    yield "early stop", _yes(bool(shape.early_stop) and shape.synthesizes)
    yield "shared prompts", _yes(shape.shared_prompts)
    yield "reasoning", _yes(shape.reasoning)
    yield "calls", f"at most {view.max_calls}, of which {view.depth} follow one another"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _prompt_section(name: str, predictor: PredictorView) -> Section:
    demos = predictor.demos
    rows = [(f"demo {number}", _demo_line(demo)) for number, demo in enumerate(demos[:_SHOWN_DEMOS], 1)]
    if len(demos) > _SHOWN_DEMOS:
        rows.append(("", f"and {len(demos) - _SHOWN_DEMOS} more (all are in --json)"))
    count = f"{len(demos)} demo{'s' if len(demos) != 1 else ''}" if demos else "no demos"
    return Section(f"Prompt: {name} ({count})", rows, predictor.instructions)


def _demo_line(demo: Mapping[str, Any]) -> str:
    fields = ((name, value) for name, value in demo.items() if name != "augmented")
    return "; ".join(f"{name}: {_shortened(_text(value))}" for name, value in fields)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_LENGTH else f"{line[: _SHOWN_LENGTH - 1]}…"


def styled(parts: Sequence[Section], console: Console | None = None) -> None:
    """Print the sections on a terminal, in colour and wrapped to its width."""
    console = console or Console()
    for section in parts:
        console.print(Text(printable(section.title), style="bold cyan"))
        if section.text:
            console.print(Padding(Text(printable(section.text)), (0, 0, 0, len(_INDENT))))
        if section.rows:
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
            for name, value in section.rows:
                table.add_row(Text(printable(name), style="dim"), escape(printable(value)))
            console.print(Padding(table, (0, 0, 0, len(_INDENT))))
        console.print()
