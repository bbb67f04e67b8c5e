"""Programs as one JSON file: architecture, task, prompts, demos, versions and provenance.

A file contains no code, key, endpoint or pickle. Any file that is not a program of a known format is rejected with a
one-line error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import dspy
import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

import moa_dspy
from moa_dspy._dspy import FIELD_KIND, get_dependency_versions
from moa_dspy.agents import SAMPLING_OPTIONS, Agent, check_model
from moa_dspy.architecture import AgentSpec, Architecture
from moa_dspy.errors import ConfigurationError, MoAError, ProgramFileError
from moa_dspy.files.addresses import check_model_name, check_options
from moa_dspy.files.atomic_write import replace_file
from moa_dspy.files.limits import check_size
from moa_dspy.files.provenance import Provenance
from moa_dspy.files.types import decode_type, encode_type
from moa_dspy.identity import server_of
from moa_dspy.runtime.knn_demos import Nearest
from moa_dspy.signatures import TaskSignature

if TYPE_CHECKING:
    from moa_dspy.program import AttentionMoA

__all__ = ["FORMAT", "FORMAT_VERSION", "SavedProgram", "digest_of", "save"]

FORMAT: Final = "moa-dspy-program"
FORMAT_VERSION: Final = 1

# The parts of a dspy.Predict that are saved. Nothing else is read back: a file must not set options such as the address
# to which a key is sent.
_SAVED: Final = ("demos", "signature", "fields")


def save(program: AttentionMoA, path: str | Path) -> None:
    """Write ``program`` to ``path``. An existing file is replaced atomically.

    Raises:
        ConfigurationError: if the program has custom objects, a type or a value cannot be written as JSON, or the file
            cannot be written.
    """
    _refuse_code(program)
    try:
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "versions": {"moa-dspy": moa_dspy.__version__, **get_dependency_versions()},
            **({} if program.provenance is None else {"provenance": program.provenance.model_dump(mode="json")}),
            **_parts(program),
        }
        if own := _self_hosted(program):
            content["self_hosted"] = own
        check_size(content)
        _check_names(program.architecture)
        encoded = (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()
    except MoAError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the program cannot be written to {path}: {_one_line(error)}") from error
    try:
        replace_file(Path(path), encoded)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from error


def digest_of(program: AttentionMoA) -> str:
    """Return a digest of architecture, task, prompts and demos."""
    return _digest(json.loads(json.dumps(_parts(program))))


@dataclass(frozen=True)
class SavedProgram:
    """The content of a program file, with its format and layout checked."""

    path: str | Path
    content: Mapping[str, Any]
    architecture: Architecture
    task: TaskSignature
    provenance: Provenance | None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a program file.

        Raises:
            ProgramFileError: if the file is missing, damaged, not a program file, or of a newer format.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
            json.dumps(content, ensure_ascii=False).encode()  # raises on lone surrogates
        except OSError as error:
            raise ProgramFileError(f"cannot read {path}: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:
            raise ProgramFileError(f"{path} is damaged or not JSON: {_one_line(error)}") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ProgramFileError(f"{path} is not a moa-dspy program; write one with program.save(...)")
        version = content.get("format_version")
        if type(version) is not int or version < 1:
            raise ProgramFileError(f"{path} is damaged: format_version={version!r} must be a number from 1")
        if version > FORMAT_VERSION:
            raise ProgramFileError(
                f"{path} has format {version}, this moa-dspy {moa_dspy.__version__} reads up to {FORMAT_VERSION}; "
                "upgrade"
            )
        with _refusing_damage(path):
            check_size(content)
            checked = _Content.model_validate(content)
        try:
            _check_names(checked.architecture)
            for name, state in checked.predictors.items():
                if state.nearest is not None:
                    check_model_name(state.nearest.vectorizer, f"the demos of {name[:80]}")
        except ConfigurationError as error:
            raise ProgramFileError(f"{path} is refused: {_one_line(error)}") from None
        with _refusing_damage(path):
            return cls(path, content, checked.architecture, _task(content["task"]), checked.provenance)

    @property
    def digest(self) -> str:
        """Return the same digest as ``digest_of`` for the program."""
        return _digest(self.content)

    def agents(self, lms: Mapping[str, dspy.BaseLM], modules: Collection[str] = ()) -> tuple[list[Agent], Agent | None]:
        """Return the agents and the aggregator. Each uses the LM that ``lms`` has for its name or model.

        They may use only the modules at the places in ``modules``.

        Raises:
            ConfigurationError: if ``lms`` is no mapping or names an agent or model that the program does not have, or
                an agent uses another module.
            ProgramFileError: if an agent is damaged.
        """
        shape = self.architecture
        specs = _specs(shape)
        if not isinstance(lms, Mapping):
            raise ConfigurationError(f"lms={lms!r:.200} is no mapping; give lms={{'agent or model': dspy.LM(...)}}")
        unknown = sorted(map(str, lms.keys() - {name for spec in specs for name in (spec.name, spec.model)}))
        if unknown:
            names = ", ".join(f"{spec.name} ({spec.model})" if spec.model else spec.name for spec in specs)
            raise ConfigurationError(f"{self.path} has no agent or model {', '.join(unknown)}; it has: {names}")
        for spec in specs:
            if spec.module is not None and spec.module not in modules:
                raise ConfigurationError(
                    f"agent {spec.name!r} of {self.path} uses the module {spec.module!r:.200}, whose code would be "
                    f"imported; give modules=[{spec.module!r:.200}] to allow it"
                )
        agents = [self._agent(spec, lms) for spec in specs]
        aggregator = None if shape.aggregator is None else agents.pop()
        return agents, aggregator

    def _agent(self, spec: AgentSpec, lms: Mapping[str, dspy.BaseLM]) -> Agent:
        lm = lms.get(spec.name) or (lms.get(spec.model) if spec.model is not None else None)
        if isinstance(lm, dspy.BaseLM) and spec.options:
            lm = lm.copy(**spec.options)  # the connection of the caller, the sampling of the program
        try:
            agent = Agent.of_spec(spec, lm)
        except MoAError as error:
            if lm is not None or spec.model is None:
                raise
            how = f"give lms={{{spec.model!r}: LM}} if it is an LM of your own"
            raise type(error)(f"agent {spec.name!r} of {self.path}: {error}; {how}") from error
        except Exception as error:
            raise ConfigurationError(
                f"agent {spec.name!r} of {self.path} cannot be set up: {_one_line(error)}"
            ) from error
        if lm is None and spec.name in self.content.get("self_hosted", ()) and server_of(agent.lm) is None:
            raise ConfigurationError(
                f"agent {spec.name!r} of {self.path} ran on a server of its own, and program files hold no addresses; "
                f"give lms={{{spec.name!r}: dspy.LM({spec.model!r}, api_base=...)}}, or on the command line a --config "
                "file with an agent of that name or model and its api_base"
            )
        return agent

    @property
    def embedding_models(self) -> dict[str, str]:
        """Return the embedding model that chooses the demos of a predictor, by the predictor's name."""
        states = self.content["predictors"]
        found = {name: Nearest.of_content(state["nearest"]) for name, state in states.items() if state.get("nearest")}
        return {name: model for name, nearest in found.items() if (model := nearest.embedding_model) is not None}

    def set_prompts(self, program: AttentionMoA, vectorizers: Collection[str] = ()) -> None:
        """Set all prompts and demos of ``program`` to those of the file. On an error, none is set.

        Only the embedding models in ``vectorizers`` may be asked.

        Raises:
            ConfigurationError: if the file asks for another embedding model.
            ProgramFileError: if the fields of the task or the predictors differ between file and program.
        """
        for name, model in self.embedding_models.items():
            if model not in vectorizers:
                raise ConfigurationError(
                    f"{self.path} chooses the demos of {name} by the embedding model {model!r}, which gets the inputs "
                    f"and is paid for each question; give vectorizers=[{model!r}] to allow it"
                )
            check_model(model)
        fields, ours = self.content["task"], program.task
        for kind, names in (("inputs", list(ours.input_fields)), ("outputs", list(ours.output_fields))):
            if list(fields[kind]) != names:
                raise ProgramFileError(
                    f"{self.path} is for another task: its {kind} are {', '.join(fields[kind])}, those of this program "
                    f"{', '.join(names)}; use moa_dspy.load"
                )
        states, predictors = self.content["predictors"], dict(program.named_predictors())
        if states.keys() != predictors.keys():
            saved, own = ", ".join(states) or "none", ", ".join(predictors)
            raise ProgramFileError(
                f"{self.path} has other predictors ({saved}) than this program ({own}); use moa_dspy.load"
            )
        with self.refusing_damage():
            checked = {name: _checked_state(name, states[name], predictor) for name, predictor in predictors.items()}
            for name, predictor in program.deepcopy().named_predictors():
                predictor.load_state(checked[name][0])
            for name, predictor in predictors.items():
                lm = predictor.lm  # not part of a file
                state, nearest = checked[name]
                predictor.load_state(state)
                predictor.lm = lm
                Nearest.set_on(predictor, nearest)

    def refusing_damage(self) -> contextlib.AbstractContextManager[None]:
        """Convert every error inside the block into a one-line ``ProgramFileError`` about the file."""
        return _refusing_damage(self.path)


def _specs(shape: Architecture) -> list[AgentSpec]:
    return [*shape.agents, *([] if shape.aggregator is None else [shape.aggregator])]


def _check_names(shape: Architecture) -> None:
    """Raise ConfigurationError if a model or an option of an agent holds an address."""
    for spec in _specs(shape):
        owner = f"agent {spec.name!r:.80}"
        foreign = sorted(spec.options.keys() - SAMPLING_OPTIONS)
        if foreign:
            raise ConfigurationError(f"{owner} has unknown options {', '.join(foreign)[:200]}")
        check_options(spec.options, owner)
        if spec.model is not None:
            check_model_name(spec.model, owner)


@contextlib.contextmanager
def _refusing_damage(path: str | Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 (damaged content can fail in any way)
        raise ProgramFileError(f"{path} is damaged: {_damage(error)}") from None


def _damage(error: Exception) -> str:
    """Return what is wrong in a file, with its place if the layout is wrong."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if not isinstance(error, pydantic.ValidationError):
        return _one_line(error)
    problem = error.errors(include_url=False)[0]
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{place} is missing"
    message = re.sub(r"^value error, | or instance of \w+| after validation", "", problem["msg"], flags=re.IGNORECASE)
    return f"{place}: {message[:1].lower()}{message[1:]}".replace("dictionary", "object")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps([content[part] for part in ("architecture", "task", "predictors")], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# Writing


def _refuse_code(program: AttentionMoA) -> None:
    objects = [str(agent.name) for agent in program.named_agents if not isinstance(agent.module, str | None)]
    if objects:
        raise ConfigurationError(
            f"program files contain no code, but the module of {', '.join(objects)} is an object; put it into a file "
            "of yours and give the agent its place: module='package.module:name'"
        )
    if program.architecture.custom_parts:
        raise ConfigurationError(
            f"program files contain no code, but {', '.join(program.architecture.custom_parts)} is a custom object; "
            "save a program with a built-in variant, and replace it after loading"
        )


def _self_hosted(program: AttentionMoA) -> list[str]:
    """Return the names of the agents whose model has an address of its own, which a file does not hold."""
    agents = [*program.named_agents, *([] if program.aggregator is None else [program.aggregator])]
    specs = _specs(program.architecture)
    options = (getattr(agent.lm, "kwargs", None) or {} for agent in agents)
    return [
        spec.name
        for spec, own in zip(specs, options, strict=True)
        if own.get("api_base") is not None or own.get("base_url") is not None
    ]


def _parts(program: AttentionMoA) -> dict[str, Any]:
    task = program.task
    return {
        "architecture": program.architecture.model_dump(mode="json"),
        "task": {
            "name": task.__name__,
            "instructions": task.instructions,
            "inputs": {name: _field_content(field) for name, field in task.input_fields.items()},
            "outputs": {name: _field_content(field) for name, field in task.output_fields.items()},
        },
        "predictors": {name: _predictor_content(predictor) for name, predictor in program.named_predictors()},
    }


def _field_content(field: FieldInfo) -> dict[str, Any]:
    settings: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    extra = {key: value for key, value in settings.items() if key != FIELD_KIND}
    entry = {"is": encode_type(field.rebuild_annotation()), "extra": extra}
    if field.default is not PydanticUndefined:
        entry["default"] = to_jsonable_python(field.default)
    return entry


def _predictor_content(predictor: dspy.Predict) -> dict[str, Any]:
    state = predictor.dump_state()
    content = {key: _plain(state[key]) for key in _SAVED if key in state and key != "demos"}
    signature: Any = predictor.signature  # declared as an instance, but it is a class
    content["demos"] = [_demo(demo, signature.fields) for demo in state["demos"]]
    nearest = Nearest.of(predictor) if "nearest" in vars(predictor) else None  # most have none
    if nearest is None:
        return content
    if nearest.embedding_model is not None:
        check_model_name(nearest.embedding_model, "the demos")
    return {**content, "nearest": nearest.content()}


def _demo(demo: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Return a demo without what is no field of the task and cannot be written, such as an object beside the row."""
    content = {}
    for name, value in demo.items():
        try:
            content[name] = _plain(value)
        except (TypeError, ValueError):
            if name in fields:
                raise
    return content


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers and arrays of NumPy as plain ones, and no lone surrogates."""
    text = json.dumps(to_jsonable_python(value, fallback=_from_numpy), ensure_ascii=False)
    return json.loads(text.encode("utf-8", "replace"))


def _from_numpy(value: Any) -> Any:
    if type(value).__module__.partition(".")[0] != "numpy":
        raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")
    return value.tolist()


# Reading


def _task(content: Mapping[str, Any]) -> TaskSignature:
    fields: dict[str, tuple[Any, FieldInfo]] = {}
    for part, make in (("inputs", dspy.InputField), ("outputs", dspy.OutputField)):
        for name, entry in content[part].items():
            kind = decode_type(entry["is"])
            field = make(**({"default": _default(kind, entry["default"])} if "default" in entry else {}))
            field.json_schema_extra.update({key: part for key, part in entry["extra"].items() if key != FIELD_KIND})
            fields[name] = (kind, field)
    return dspy.make_signature(fields, content["instructions"], content["name"])


def _default(kind: Any, value: Any) -> Any:
    """Return a default as a value of its type, or unchanged if it does not match the type."""
    try:
        return pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError:
        return value


def _checked_state(
    name: str, state: Mapping[str, Any], predictor: dspy.Predict
) -> tuple[dict[str, Any], Nearest | None]:
    """Return the part of ``state`` that ``predictor`` may load. dspy.Predict itself would set any attribute."""
    signature: Any = predictor.signature  # declared as an instance, used as the class it is
    fields = state["signature"]["fields"]
    if len(fields) != len(signature.fields):
        raise ValueError(f"the prompt of {name} has {len(fields)} fields, not {len(signature.fields)}")
    nearest = Nearest.of_content(state["nearest"]) if state.get("nearest") is not None else None
    return {"lm": None, **{key: state[key] for key in _SAVED if key in state}}, nearest


# The layout of a file, so that an error names the place of the damage.


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, defer_build=True)


class _FieldSettings(_Part):
    prefix: str
    desc: str


class _Field(_Part):
    type: dict[str, Any] = pydantic.Field(alias="is")
    extra: _FieldSettings


class _Task(_Part):
    name: str
    instructions: str
    inputs: dict[str, _Field] = pydantic.Field(min_length=1)
    outputs: dict[str, _Field] = pydantic.Field(min_length=1)


class _PromptField(_Part):
    prefix: str
    description: str


class _Prompt(_Part):
    instructions: str
    fields: list[_PromptField]


class _Nearest(_Part):
    k: int
    fields: list[str]
    vectorizer: str


class _Predictor(_Part):
    demos: list[dict[str, Any]]
    signature: _Prompt
    nearest: _Nearest | None = None


class _Content(_Part):
    self_hosted: list[str] = pydantic.Field(default_factory=list)
    versions: dict[str, str] = pydantic.Field(default_factory=dict)
    architecture: Architecture
    task: _Task
    predictors: dict[str, _Predictor]
    provenance: Provenance | None = None
