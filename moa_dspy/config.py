"""The configuration file of the command line: agents, connections, architecture and limits, in TOML.

A file holds the name of the environment variable of a key, never the key. The content is checked when the file is
read. Models are looked up when a program is built.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TypeAlias, get_type_hints

import pydantic
from pydantic_core import core_schema

from moa_dspy.architecture import Aggregation, Architecture
from moa_dspy.attention import PATTERN_NAMES
from moa_dspy.cost.budget import Budget
from moa_dspy.cost.own_price import OwnPrice
from moa_dspy.errors import ConfigurationError
from moa_dspy.runtime.tolerance import Tolerance

if TYPE_CHECKING:
    import dspy

    from moa_dspy.agents import Agent
    from moa_dspy.architecture import AgentSpec
    from moa_dspy.program import AttentionMoA
    from moa_dspy.signatures import TaskSignature

__all__ = ["AgentConfig", "Config", "TaskConfig", "load_config"]

DEFAULT_SIGNATURE: Final = "question -> answer"

_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9_]*")
# A server without keys ignores this value, and a server with keys rejects it. Without it, another provider's key
# might be sent.
_NO_KEY: Final = "no-key"
# Options of the connection. They also apply to agents of a saved program.
_CONNECTION_OPTIONS: Final = frozenset(
    {"api_version", "cache", "engine", "model_type", "num_retries", "organization", "project", "timeout"}
)
# Options of dspy.LM that are the agent's own keys, secrets, or not data.
_OWN_KEYS: Final = frozenset({"model", "temperature", "max_tokens", "api_base", "base_url", "api_key", "rollout_id"})
_SECRET: Final = re.compile(
    r"(^|_)(api_key|secret|password|credentials?|headers?|authorization)($|_)|_token$|access_key"
)


def _variable_name(value: str) -> str:
    if not _VARIABLE.fullmatch(value):  # do not show the value: it may be the key
        raise ValueError("it must be the name of an environment variable in capitals, such as OPENAI_API_KEY")
    return value


def _address(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", value):
        raise ValueError("it must be an address such as http://127.0.0.1:8000/v1, without a user name or password")
    return value


def _pattern(value: object) -> object:
    if value in PATTERN_NAMES or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError(f"it must be {', '.join(PATTERN_NAMES)}, or a number of peers")


def _safe_options(options: dict[str, Any]) -> dict[str, Any]:
    for name in options:
        if name in _OWN_KEYS - {"api_key"}:
            raise ValueError(f"{name} does not belong in options; it is a key of the agent itself, or has no use there")
        if name.endswith(("_cost_per_token", "_cost_per_second")):
            raise ValueError(
                f"{name} does not belong in options; give the agent price = {{ prompt = 0.5, completion = 1.5 }}, "
                "in dollars per million tokens"
            )
        if _SECRET.search(name.lower()):
            raise ValueError(f"{name} may hold a secret, which has no place in this file; use api_key_env for the key")
    return options


_Name: TypeAlias = Annotated[str, pydantic.StringConstraints(min_length=1)]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class AgentConfig(_Section):
    """One agent, or the aggregator.

    Attributes:
        model: a model string, such as ``openai/gpt-4.1`` or ``local``.
        name: unique within the file. Default: the last part of the model's name.
        api_base: address of the server. Default: the provider's.
        api_key_env: name of the environment variable that holds the key. Default: the provider's usual one. A server
            at ``api_base`` gets a key only if this is set.
        temperature: from 0 to 2. Default: the model's.
        max_tokens: longest completion, in tokens. Default: the model's.
        persona: text before the agent's instructions.
        price: the model's price in dollars per million tokens. Default: the price in the lists of DSPy and LiteLLM.
        options: further options of ``dspy.LM``, such as ``top_p``, ``seed``, ``timeout`` or ``num_retries``.
        module: place of the DSPy module that writes the agent's proposals, as ``package.module:name``.
    """

    model: _Name
    name: _Name | None = None
    api_base: Annotated[str, pydantic.AfterValidator(_address)] | None = None
    api_key_env: Annotated[str, pydantic.AfterValidator(_variable_name)] | None = None
    temperature: float | None = pydantic.Field(default=None, ge=0, le=2)
    max_tokens: int | None = pydantic.Field(default=None, ge=1)
    persona: str | None = None
    price: OwnPrice | None = None
    options: Annotated[dict[str, Any], pydantic.AfterValidator(_safe_options)] = pydantic.Field(default_factory=dict)
    module: _Name | None = None

    def agent(self) -> Agent:
        """Return the agent.

        Raises:
            ConfigurationError: as for ``lm``.
        """
        from moa_dspy.agents import Agent
        from moa_dspy.model_limits import takes_temperature

        lm = self.lm()
        if takes_temperature(self.model):
            return Agent(lm, self.name, persona=self.persona, price=self.price, module=self.module)
        # The LM has none of these: DSPy refuses to build it with them.
        return Agent(lm, self.name, self.temperature, self.max_tokens, self.persona, self.price, self.module)

    def lm(self) -> dspy.BaseLM:
        """Return the agent's LM, with its connection.

        Raises:
            ConfigurationError: if the model is unknown, an option does not fit, or the key's variable is not set.
        """
        return self._lm({"temperature": self.temperature, "max_tokens": self.max_tokens, **self.options})

    def lm_for(self, spec: AgentSpec) -> dspy.BaseLM:
        """Return an LM with this agent's model and connection, and the sampling settings of a saved agent.

        Raises:
            ConfigurationError: as for ``lm``.
        """
        options = {name: value for name, value in self.options.items() if name in _CONNECTION_OPTIONS}
        return self._lm({"temperature": spec.temperature, "max_tokens": spec.max_tokens, **spec.options, **options})

    def _lm(self, options: Mapping[str, Any]) -> dspy.BaseLM:
        from dspy.utils.exceptions import LMError

        from moa_dspy.agents import make_lm
        from moa_dspy.cost.prices import with_price

        try:
            lm = make_lm(self.model, **options, **self._connection())
            return lm if self.price is None else with_price(lm, self.price)
        except ConfigurationError:
            raise
        except (LMError, ValueError, TypeError) as error:
            message = " ".join(str(error).removeprefix(f"[{self.model}] ").split())
            raise ConfigurationError(f"model {self.model!r}: {message}") from error

    def _connection(self) -> dict[str, str | None]:
        key = None if self.api_key_env is None else os.environ.get(self.api_key_env, "").strip()
        if key == "":
            raise ConfigurationError(
                f"environment variable {self.api_key_env} (api_key_env) is not set; put the API key for "
                f"{self.model} there"
            )
        if (self.api_base or key) and re.match(r"local(/|\Z)", self.model):
            raise ConfigurationError(
                f"model {self.model!r} runs on this machine; it takes no api_base and no api_key_env"
            )
        return {"api_base": self.api_base, "api_key": key or (_NO_KEY if self.api_base else None)}


class TaskConfig(_Section):
    """The task.

    Attributes:
        signature: DSPy's short form.
        instructions: description of the task. Default: DSPy's sentence.
    """

    signature: _Name = DEFAULT_SIGNATURE
    instructions: _Name | None = None

    def build(self) -> TaskSignature:
        """Return the task's signature.

        Raises:
            ConfigurationError: if it cannot be parsed, or has no input or no output.
        """
        from moa_dspy.signatures import task_signature  # imports DSPy, which reading a file does not need

        task = task_signature(self.signature)
        return task if self.instructions is None else task.with_instructions(self.instructions)


def _table(name: str, types: Mapping[str, Any]) -> type[_Section]:
    """Return a section model with these fields, all optional."""
    fields: dict[str, Any] = {field: (kind | None, None) for field, kind in types.items()}
    return pydantic.create_model(name, __base__=_Section, **fields)


def _built(kind: type[Any], section: type[_Section]) -> pydantic.GetPydanticSchema:
    """Return a schema that reads a table as ``section`` and builds ``kind`` from its values."""

    def build(table: _Section) -> Any:
        values = {name: value for name, value in table if value is not None}
        if values.get("timeout") == math.inf:
            values["timeout"] = None  # TOML has no null
        try:
            return kind(**values)
        except ConfigurationError as error:
            raise ValueError(str(error).removeprefix("budget ")) from None

    return pydantic.GetPydanticSchema(
        lambda _, handler: core_schema.no_info_after_validator_function(build, handler(section))
    )


_BUDGET: Final = _table("Budget", get_type_hints(Budget))
_TOLERANCE: Final = _table("Tolerance", get_type_hints(Tolerance))
_SHAPE: Final = _table(
    "Shape",
    {
        name: Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        for name, field in Architecture.model_fields.items()
        if name not in ("agents", "aggregator")
    }
    # A file names built-in variants only.
    | {
        "attention": Annotated[Any, pydantic.PlainValidator(_pattern)],
        "aggregation": Aggregation | int,
        "early_stop": bool,
    },
)


class Config(_Section):
    """A whole configuration.

    Attributes:
        task: the task.
        agents: the agents; empty if the file has other parts only.
        aggregator: the aggregator. Default: the first agent's model.
        architecture: arguments of ``AttentionMoA``; the others keep their defaults.
        budget: limit of one run's spending.
        tolerance: how a run handles slow or failing calls.
        space: fields of ``moa_dspy.optimizers.SearchSpace``, which checks them.
    """

    task: TaskConfig = TaskConfig()
    agents: tuple[AgentConfig, ...] = pydantic.Field(default=(), strict=False)
    aggregator: AgentConfig | None = None
    architecture: Annotated[dict[str, Any], _built(dict, _SHAPE)] = {}
    budget: Annotated[Budget, _built(Budget, _BUDGET)] = Budget()
    tolerance: Annotated[Tolerance, _built(Tolerance, _TOLERANCE)] = Tolerance()
    space: dict[str, Any] | None = None
    _source: str | None = pydantic.PrivateAttr(default=None)

    @pydantic.model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [agent.name for agent in self.agents if agent.name is not None]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"agent names must differ, but {', '.join(twice)} is used more than once")
        return self

    @property
    def source(self) -> str | None:
        """Return the file that all values come from, or None if some come from elsewhere."""
        return self._source

    @property
    def has_limits(self) -> bool:
        """Return whether the budget or the tolerance differs from the default."""
        return (self.budget, self.tolerance) != (Budget(), Tolerance())

    def overridden(self, **parts: Any) -> Config:
        """Return the configuration with the given parts replaced. Parts that are None are kept."""
        changed = {name: part for name, part in parts.items() if part is not None}
        if not changed:
            return self
        other = self.model_copy(update=changed)
        other._source = None
        return other

    def program(self) -> AttentionMoA:
        """Build the program.

        Raises:
            ConfigurationError: if a value does not fit. The message names the key, and the file if there is one.
        """
        from moa_dspy.program import AttentionMoA  # imports DSPy, which reading a file does not need

        if not self.agents:
            raise ConfigurationError(_at(self._source, "no agent is named; add an [[agents]] table with a model"))
        with self._located("task"):
            task = self.task.build()
        agents = [self._agent(agent, f"agent {number}") for number, agent in enumerate(self.agents, 1)]
        aggregator = None if self.aggregator is None else self._agent(self.aggregator, "aggregator")
        with self._located():
            program = AttentionMoA(task, agents, aggregator=aggregator, **self.architecture)
        self.limit(program)
        return program

    def limit(self, program: AttentionMoA) -> None:
        """Give a program this budget and tolerance."""
        program.budget, program.tolerance = self.budget, self.tolerance

    def _agent(self, agent: AgentConfig, where: str) -> Agent:
        with self._located(where):
            return agent.agent()

    @contextmanager
    def _located(self, where: str = "") -> Iterator[None]:
        """Put the file, and the place in it, before the message of a ``ConfigurationError``."""
        try:
            yield
        except ConfigurationError as error:
            if self._source is None:
                raise
            raise ConfigurationError(_at(self._source, where, str(error))) from error


def load_config(path: str | Path) -> Config:
    """Read a configuration file.

    The path in ``local/<path>`` is taken relative to the file if such a model file exists. Otherwise it is unchanged.

    Raises:
        ConfigurationError: if the file cannot be read, is not TOML, or has an unknown key or an invalid value. The
            message is one line that names the file and the key.
    """
    path = Path(path)
    values = _read(path)
    try:
        config = Config.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [_line(problem) for problem in error.errors(include_url=False)]
        raise ConfigurationError(f"{path}: {' '.join('; '.join(dict.fromkeys(lines)).split())}") from None
    update: dict[str, Any] = {"agents": tuple(_anchored(agent, path.parent) for agent in config.agents)}
    if config.aggregator is not None:
        update["aggregator"] = _anchored(config.aggregator, path.parent)
    config = config.model_copy(update=update)
    config._source = str(path)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not a text file in UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None


def _anchored(agent: AgentConfig, folder: Path) -> AgentConfig:
    """Return the agent with its ``local/<path>`` resolved against the folder of the file, if the model file exists."""
    rest = agent.model.removeprefix("local/")
    if rest == agent.model or not (folder / rest).is_file():
        return agent
    return agent.model_copy(update={"model": f"local/{folder / rest}"})


def _at(*where: str | None) -> str:
    return ": ".join(part for part in where if part)


def _line(problem: Mapping[str, Any]) -> str:
    """Return a pydantic error as one line in the terms of the file, without values that may be secret."""
    location = [str(part) for part in problem["loc"] if not str(part).startswith("function-")]
    where = ".".join(location)
    if len(location) > 1 and location[0] == "agents":
        where = ".".join([f"agents[{int(location[1]) + 1}]", *location[2:]])
    if problem["type"] == "extra_forbidden":
        return _at(where, _unknown(location))
    if problem["type"] == "missing":
        return _at(where, "is missing")
    message = re.sub(r" or instance of \w+", "", problem["msg"].removeprefix("Value error, "))
    message = message.replace("dictionary", "table").replace("a valid tuple", "a list of tables")
    value = problem["input"]
    showable = location[:1] and location[0] in _WITHOUT_SECRETS and not isinstance(value, Mapping)
    suffix = f", not {value!r}" if showable or isinstance(value, float | int) else ""
    return _at(where, f"{message[:1].lower()}{message[1:]}{suffix}")


def _unknown(location: list[str]) -> str:
    name = location[-1]
    if name == "api_key":
        return 'keys have no place in a file; write api_key_env = "NAME", the environment variable that holds the key'
    section = Config if len(location) == 1 else _SECTIONS[location[0]]
    known = list(section.model_fields)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
    return f"is not a known key; {hint}"


_SECTIONS: Final[dict[str, type[_Section]]] = {
    "task": TaskConfig,
    "agents": AgentConfig,
    "aggregator": AgentConfig,
    "architecture": _SHAPE,
    "budget": _BUDGET,
    "tolerance": _TOLERANCE,
}
_WITHOUT_SECRETS: Final = ("architecture", "budget", "tolerance")
