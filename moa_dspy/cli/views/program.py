"""A program file as JSON values, and as sections of readable text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from moa_dspy._dspy import get_annotation_name
from moa_dspy.architecture import AgentSpec
from moa_dspy.cli.output import printable, table
from moa_dspy.files.program_file import SavedProgram
from moa_dspy.model_limits import takes_temperature
from moa_dspy.runtime.formats import most_calls
from moa_dspy.signatures import derive_roles

__all__ = ["Section", "described", "rendered", "sections"]

_SHOWN_DEMOS: Final = 3
_SHOWN_LENGTH: Final = 100
_INDENT: Final = (0, 0, 0, 2)


class Section(NamedTuple):
    """A titled section of the text: rows of name and value, or paragraphs."""

    title: str
    rows: Sequence[tuple[str, str]] = ()
    text: str = ""


def described(saved: SavedProgram) -> dict[str, Any]:
    """Return the content of a program file as JSON values, with every prompt and demo in full.

    Raises:
        ProgramFileError: if the file is damaged.
    """
    content, task, shape, record = saved.content, saved.task, saved.architecture, saved.provenance
    roles = derive_roles(task, reasoning=shape.reasoning)
    return {
        "file": str(saved.path),
        "format_version": content["format_version"],
        "versions": content.get("versions", {}),
        "instructions": task.instructions,
        "inputs": _fields(task.input_fields),
        "outputs": _fields(task.output_fields),
        "architecture": shape.model_dump(mode="json"),
        "critiques": shape.critique_count,
        "max_calls": shape.max_calls,
        "most_calls": most_calls(shape, roles),
        "embedding_models": sorted(set(saved.embedding_models.values())),
        "depth": shape.depth,
        "predictors": {
            name: {
                "instructions": state["signature"]["instructions"],
                "demos": state["demos"],
                "nearest": state.get("nearest"),
            }
            for name, state in content["predictors"].items()
        },
        "provenance": None if record is None else record.model_dump(mode="json"),
        "changed": record is not None and record.program not in (None, saved.digest),
    }


def _fields(fields: Mapping[str, Any]) -> list[dict[str, str | None]]:
    found = []
    for name, field in fields.items():
        written = field.json_schema_extra["desc"]
        description = None if written in ("", f"${{{name}}}") else written
        found.append({"name": name, "type": get_annotation_name(field.annotation), "description": description})
    return found


def sections(saved: SavedProgram, *, prompts: bool = True) -> list[Section]:
    """Return the content of a program file as readable sections, most important first.

    With ``prompts``, each predictor has its instructions and its first demos, shortened.

    Raises:
        ProgramFileError: if the file is damaged.
    """
    view, shape = described(saved), saved.architecture
    agents = [(spec.name, _agent(spec)) for spec in shape.agents]
    if shape.aggregator is not None:
        agents.append((f"{shape.aggregator.name} (aggregates)", _agent(shape.aggregator)))
    elif shape.aggregates:
        agents.append(("aggregator", f"the model of {shape.agents[0].name}, without its persona"))
    fields = [
        (kind, f"{field['name']}: {field['type']}{_after_comma(field['description'])}")
        for kind, group in (("input", view["inputs"]), ("output", view["outputs"]))
        for field in group
    ]
    versions = ", ".join(f"{name} {version}" for name, version in view["versions"].items())
    return [
        Section(view["file"], [("format", str(view["format_version"])), ("written by", versions or "unknown")]),
        *_provenance_sections(saved, changed=view["changed"]),
        Section("Task", fields, view["instructions"]),
        Section("Agents", agents),
        Section("Architecture", [*shape.rows(view["most_calls"]).items(), *_embedding_rows(saved.embedding_models)]),
        *(_prompt_section(name, state) for name, state in (view["predictors"].items() if prompts else ())),
    ]


def rendered(parts: Iterable[Section]) -> Iterator[RenderableType]:
    """Yield the sections for ``write_parts``."""
    for section in parts:
        yield Text(printable(section.title), style="bold cyan")
        if section.text:
            yield Padding(Text(printable(section.text)), _INDENT, expand=False)
        if section.rows:
            yield Padding(table(section.rows, left=(0, 1), header=False), _INDENT, expand=False)
        yield ""


def _provenance_sections(saved: SavedProgram, *, changed: bool) -> Iterator[Section]:
    record, title = saved.provenance, "Provenance"
    text = "The program has been changed since these figures were measured." if changed else ""
    while record is not None:
        yield Section(title, list(record.rows()), text)
        record, title, text = record.earlier, "Provenance, before that", ""


def _agent(spec: AgentSpec) -> str:
    settings = {"temperature": spec.temperature, "max_tokens": spec.max_tokens, **spec.options}
    parts = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in settings.items()
        if value is not None
    ]
    if spec.temperature is not None and not takes_temperature(spec.model):
        parts.append("(the model takes no temperature: it is not sent)")
    persona = [f"persona {_shortened(spec.persona)!r}"] if spec.persona else []
    return ", ".join([spec.model or "the model DSPy is configured with", *parts, *persona])


def _embedding_rows(models: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for model in dict.fromkeys(models.values()):
        names = ", ".join(name for name, own in models.items() if own == model)
        what = f"{model} gets the inputs and chooses the demos of {names}: paid calls, at most one for each new text"
        yield "further calls", f"{what}; they must be allowed"


def _prompt_section(name: str, state: Mapping[str, Any]) -> Section:
    demos = state["demos"]
    rows = [(f"demo {number}", _demo(demo)) for number, demo in enumerate(demos[:_SHOWN_DEMOS], 1)]
    if len(demos) > _SHOWN_DEMOS:
        rows.append(("", f"and {len(demos) - _SHOWN_DEMOS} more (all are in --json)"))
    if state["nearest"] is not None:
        choice = state["nearest"]
        fields = ", ".join(choice["fields"])
        rows.append(("shown", f"the {choice['k']} nearest by {fields}, compared by {choice['vectorizer']}"))
    count = f"{len(demos)} demo{'s' if len(demos) != 1 else ''}" if demos else "no demos"
    return Section(f"Prompt: {name} ({count})", rows, state["instructions"])


def _demo(demo: Mapping[str, Any]) -> str:
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in demo.items()
        if name != "augmented"
    }
    return "; ".join(f"{name}: {_shortened(text)}" for name, text in texts.items())


def _after_comma(description: str | None) -> str:
    return f", {_shortened(description)}" if description else ""


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_LENGTH else f"{line[: _SHOWN_LENGTH - 1]}…"
