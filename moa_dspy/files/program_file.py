"""Programs as one JSON file: architecture, task, prompts, demos, versions, and where it all comes from.

A file holds no code, key, endpoint or pickle. It is read strictly: whatever is not a program of a known format is
refused with one line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dspy
import pydantic
from dspy.signatures.signature import make_signature
from dspy.utils.saving import get_dependency_versions
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

import moa_dspy
from moa_dspy.agents import SAMPLING_OPTIONS, Agent
from moa_dspy.architecture import AgentSpec, Architecture, validated
from moa_dspy.errors import ConfigurationError, MoAError, ProgramFileError
from moa_dspy.files.atomic_write import replace_file
from moa_dspy.files.layout import damage_in
from moa_dspy.files.provenance import Provenance
from moa_dspy.files.types import decode_type, encode_type
from moa_dspy.run.knn_demos import Nearest
from moa_dspy.signatures import TaskSignature

if TYPE_CHECKING:
    from moa_dspy.program import AttentionMoA

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "digest_of",
    "digest_of_content",
    "load",
    "load_prompts",
    "provenance_in",
    "read",
    "save",
]

FORMAT: Final = "moa-dspy-program"
FORMAT_VERSION: Final = 1

# What of a dspy.Predict is in a file; its LM and the like are runtime state. Nothing else is read back either: a file
# from elsewhere must not bring options of its own, such as an address to send the user's key to.
_SAVED: Final = ("demos", "signature", "fields")
_NEAREST: Final = "nearest"
_PROVENANCE: Final = "provenance"
_FIELD_KIND: Final = "__dspy_field_type"


def save(program: AttentionMoA, path: str | Path) -> None:
    """Write ``program`` to ``path``, replacing a file there in one step.

    Raises:
        ConfigurationError: a field's type or a demo's value cannot be written, or the file cannot.
    """
    try:
        text = json.dumps(_content(program), ensure_ascii=False, indent=2) + "\n"
        encoded = text.encode("utf-8")
    except MoAError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the program cannot be written to {path}: {_one_line(error)}") from error
    try:
        replace_file(Path(path), encoded)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from error


def load(path: str | Path, lms: Mapping[str, dspy.BaseLM] | None = None) -> AttentionMoA:
    """Rebuild a program in a process that knows nothing of it.

    Args:
        path: a file that ``AttentionMoA.save`` wrote.
        lms: LMs with the connection (address, key) to use, by agent name or by model string. Agents not named get the
            model that the file names, with the provider's usual environment variables.

    Raises:
        ProgramFileError: the file is missing, damaged, foreign or of a newer format.
        ConfigurationError: ``lms`` names an agent or model that the program does not have.
    """
    from moa_dspy.program import AttentionMoA

    content = read(path)
    with _refusing(path):
        shape = validated(Architecture, content["architecture"])
        task = _task(content["task"])
    lms = dict(lms or {})
    specs = [*shape.agents, *([] if shape.aggregator is None else [shape.aggregator])]
    unknown = sorted(str(name) for name in lms.keys() - {name for spec in specs for name in (spec.name, spec.model)})
    if unknown:
        names = ", ".join(f"{spec.name} ({spec.model})" if spec.model else spec.name for spec in specs)
        raise ConfigurationError(f"{path} has no agent or model {', '.join(unknown)}; it has: {names}")
    agents = [_agent(spec, lms, path) for spec in shape.agents]
    aggregator = None if shape.aggregator is None else _agent(shape.aggregator, lms, path)
    options = {name: getattr(shape, name) for name in Architecture.model_fields if name not in ("agents", "aggregator")}
    with _refusing(path):
        program = AttentionMoA(task, agents, aggregator=aggregator, **options)
    _apply(program, content, path)
    with _refusing(path):
        program.provenance = provenance_in(content)
    return program


def load_prompts(program: AttentionMoA, path: str | Path) -> None:
    """Set the prompts and demos of ``program`` to those in the file.

    Raises:
        ProgramFileError: the file cannot be read, or its task's fields or its predictors are not the program's.
    """
    content = read(path)
    theirs, ours = content["task"], program.task
    for kind, fields in (("inputs", ours.input_fields), ("outputs", ours.output_fields)):
        if list(theirs[kind]) != list(fields):
            raise ProgramFileError(
                f"{path} is for another task: its {kind} are {', '.join(theirs[kind])}, those of this program "
                f"{', '.join(fields)}; use moa_dspy.load"
            )
    _apply(program, content, path)


def read(path: str | Path) -> dict[str, Any]:
    """Return the content of a program file, checked for its format.

    Raises:
        ProgramFileError: see ``load``.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        json.dumps(content, ensure_ascii=False).encode()  # refuses escapes of half a character
    except OSError as error:
        raise ProgramFileError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ProgramFileError(f"{path} is damaged or not JSON: {_one_line(error)}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ProgramFileError(f"{path} is not a moa-dspy program; write one with program.save(...)")
    version = content.get("format_version")
    if type(version) is not int or version < 1:
        raise ProgramFileError(f"{path} is damaged: {version!r} is no format version")
    if version > FORMAT_VERSION:
        raise ProgramFileError(
            f"{path} has format {version}, this moa-dspy {moa_dspy.__version__} reads up to {FORMAT_VERSION}; upgrade"
        )
    damage = damage_in(content)
    if damage is not None:
        raise ProgramFileError(f"{path} is damaged: {damage}")
    return content


def provenance_in(content: Mapping[str, Any]) -> Provenance | None:
    """Return the record of where a file's program comes from; None where it has none.

    Raises:
        ConfigurationError: it is damaged.
    """
    if content.get(_PROVENANCE) is None:
        return None
    try:
        return Provenance.model_validate(content[_PROVENANCE])
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in (_PROVENANCE, *problem["loc"]))
        raise ConfigurationError(f"{place}: {problem['msg']}") from None


def digest_of(program: AttentionMoA) -> str:
    """Return a digest of what a program is: architecture, task, prompts and demos."""
    return digest_of_content(json.loads(json.dumps(_parts(program))))


def digest_of_content(content: Mapping[str, Any]) -> str:
    """Return the same of a program file's content."""
    text = json.dumps([content[part] for part in ("architecture", "task", "predictors")], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _content(program: AttentionMoA) -> dict[str, Any]:
    record = program.provenance
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": {"moa-dspy": moa_dspy.__version__, **get_dependency_versions()},
        **({} if record is None else {_PROVENANCE: record.model_dump(mode="json")}),
        **_parts(program),
    }


def _parts(program: AttentionMoA) -> dict[str, Any]:
    return {
        "architecture": program.architecture.model_dump(mode="json"),
        "task": _task_content(program.task),
        "predictors": {name: _predictor_content(predictor) for name, predictor in program.named_predictors()},
    }


def _task_content(task: TaskSignature) -> dict[str, Any]:
    return {
        "name": task.__name__,
        "instructions": task.instructions,
        "inputs": {name: _field_content(field) for name, field in task.input_fields.items()},
        "outputs": {name: _field_content(field) for name, field in task.output_fields.items()},
    }


def _field_content(field: FieldInfo) -> dict[str, Any]:
    settings: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    extra = {key: value for key, value in settings.items() if key != _FIELD_KIND}
    entry = {"is": encode_type(field.rebuild_annotation()), "extra": extra}
    if field.default is not PydanticUndefined:
        entry["default"] = to_jsonable_python(field.default)
    return entry


def _predictor_content(predictor: dspy.Predict) -> dict[str, Any]:
    state = predictor.dump_state()
    content = {key: to_jsonable_python(state[key]) for key in _SAVED if key in state}
    nearest = Nearest.of(predictor)
    return content if nearest is None else {**content, _NEAREST: nearest.content()}


def _task(content: Mapping[str, Any]) -> TaskSignature:
    fields: dict[str, tuple[Any, FieldInfo]] = {}
    for part, make in (("inputs", dspy.InputField), ("outputs", dspy.OutputField)):
        for name, entry in content[part].items():
            kind = decode_type(entry["is"])
            field = make(**({"default": _default(kind, entry["default"])} if "default" in entry else {}))
            field.json_schema_extra.update({key: part for key, part in entry["extra"].items() if key != _FIELD_KIND})
            fields[name] = (kind, field)
    return make_signature(fields, content["instructions"], content["name"])


def _default(kind: Any, value: Any) -> Any:
    """The default as the value that it was before it became JSON; one that never fitted its type stays as it is."""
    try:
        return pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError:
        return value


def _agent(spec: AgentSpec, lms: Mapping[str, dspy.BaseLM], path: str | Path) -> Agent:
    foreign = sorted(spec.options.keys() - SAMPLING_OPTIONS)
    if foreign:
        raise ProgramFileError(f"{path} is damaged: agent {spec.name!r} has unknown options {', '.join(foreign)}")
    lm = lms.get(spec.name) or (lms.get(spec.model) if spec.model is not None else None)
    if isinstance(lm, dspy.BaseLM) and spec.options:
        lm = lm.copy(**spec.options)  # the connection is the caller's, the sampling the program's
    try:
        return Agent.of_spec(spec, lm)
    except MoAError:
        raise
    except Exception as error:
        raise ConfigurationError(f"agent {spec.name!r} of {path} cannot be set up: {_one_line(error)}") from error


def _apply(program: AttentionMoA, content: Mapping[str, Any], path: str | Path) -> None:
    """Set the prompts and demos of all predictors, or of none."""
    states, ours = content["predictors"], dict(program.named_predictors())
    if states.keys() != ours.keys():
        theirs, mine = ", ".join(states) or "none", ", ".join(ours)
        raise ProgramFileError(f"{path} has other predictors ({theirs}) than this program ({mine}); use moa_dspy.load")
    with _refusing(path):
        checked = {name: _checked_state(name, states[name], predictor) for name, predictor in ours.items()}
        chosen = {name: _nearest(states[name]) for name in ours}
        for name, predictor in program.deepcopy().named_predictors():
            predictor.load_state(checked[name])
        for name, predictor in ours.items():
            lm = predictor.lm  # a file says nothing of it
            predictor.load_state(checked[name])
            predictor.lm = lm
            Nearest.set_on(predictor, chosen[name])


def _nearest(state: Mapping[str, Any]) -> Nearest | None:
    return Nearest.of_content(state[_NEAREST]) if _NEAREST in state else None


def _checked_state(name: str, state: Mapping[str, Any], predictor: dspy.Predict) -> dict[str, Any]:
    """What ``predictor`` may load of ``state``; dspy.Predict itself sets whatever it is given."""
    signature: Any = predictor.signature  # declared as an instance, used as the class it is
    fields = state["signature"]["fields"]
    if len(fields) != len(signature.fields):
        raise ValueError(f"the prompt of {name} has {len(fields)} fields, not {len(signature.fields)}")
    return {"lm": None, **{key: state[key] for key in _SAVED if key in state}}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


class _refusing:  # noqa: N801 (reads as a statement)
    """Turns whatever goes wrong inside into one line about the file."""

    def __init__(self, path: str | Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            what = f"{error} is missing" if isinstance(error, KeyError) else _one_line(error)
            raise ProgramFileError(f"{self._path} is damaged: {what}") from None
