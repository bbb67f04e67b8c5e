"""Agents at run time: a specification together with a live language model."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any, Final, Self, TypeAlias

import dspy
from dspy.lm15 import UnknownModelError, UnsupportedFeatureError

from moa_dspy._dspy import get_litellm, resolve
from moa_dspy.architecture import RESERVED_NAMES, AgentSpec, validated
from moa_dspy.cost.own_price import OwnPrice
from moa_dspy.cost.prices import offline_prices, with_price
from moa_dspy.errors import ConfigurationError
from moa_dspy.extras import imported
from moa_dspy.identity import connection_of, rollout_of
from moa_dspy.json_safe import json_safe
from moa_dspy.local import is_local, local_lm
from moa_dspy.model_limits import LEAST_REASONING_TOKENS, takes_temperature
from moa_dspy.redaction import remember

__all__ = [
    "SAMPLING_OPTIONS",
    "Agent",
    "AgentLike",
    "AgentSlot",
    "agent_of",
    "check_model",
    "make_lm",
    "remarks_of",
    "slots_of",
]

# LM settings that a program file may store. They contain no address and no key.
SAMPLING_OPTIONS: Final = frozenset(
    {
        *("top_p", "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty"),
        *("reasoning_effort", "logit_bias"),
    }
)


@dataclass(frozen=True)
class Agent:
    """One agent: its LM, name, sampling settings and persona.

    Args:
        lm: a model string (``"openai/gpt-4.1"``, ``"local"``), a ``dspy.LM``, or None. None means the LM that DSPy is
            configured with at the time of the call.
        name: unique within a program. Default: the last part of the model's name, numbered if it repeats.
        temperature: overrides the LM's own, 0 to 2.
        max_tokens: overrides the LM's own, at least 1.
        persona: text put before the agent's instructions; other agents never see it.
        price: the model's price in dollars per million tokens, as ``{"prompt": 0.5, "completion": 1.5}``. Default: the
            price in the lists of DSPy and LiteLLM. ``lm`` is then a copy with this price. Program files have no prices.
        module: a DSPy module that writes the agent's proposals of the first layer, such as ``dspy.ReAct`` with tools.
            It takes the task's inputs, returns its outputs, and runs on ``lm``, which does all the rest. Written as
            ``"package.module:name"``, where name is a module or makes one, it can be saved.

    Raises:
        ConfigurationError: if ``lm``, ``price`` or ``module`` has another type, or the model or the module is unknown.
    """

    lm: str | dspy.BaseLM | None = None
    name: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    persona: str | None = None
    price: OwnPrice | Mapping[str, float] | None = None
    module: str | dspy.Module | None = None

    def __post_init__(self) -> None:
        for name in ("name", "persona"):
            object.__setattr__(self, name, json_safe(getattr(self, name)))
        remember(getattr(self.lm, "kwargs", None) or {})
        price = OwnPrice.of(self.price)
        object.__setattr__(self, "price", price)
        self.proposer()  # an unknown module is an error now, and not in a run
        if isinstance(self.lm, str):
            object.__setattr__(self, "lm", make_lm(self.lm))
        elif self.lm is not None and not isinstance(self.lm, dspy.BaseLM):
            raise ConfigurationError(
                f"an agent must be a model string, a dspy.LM or an Agent, not {type(self.lm).__name__} ({self.lm!r})"
            )
        if self.lm is not None and price is not None:
            object.__setattr__(self, "lm", with_price(self.lm, price))

    def proposer(self) -> dspy.Module | None:
        """Return the module that writes the agent's proposals; None if its model does.

        Raises:
            ConfigurationError: if there is no such module, or it cannot be used.
        """
        module = self.module
        if module is None:
            return None
        found = _at(module) if isinstance(module, str) else module
        if not isinstance(found, dspy.Module):
            raise ConfigurationError(
                f"module={module!r} is no DSPy module; give one, such as dspy.ReAct(...), or 'package.module:name'"
            )
        if not hasattr(found, "aforward"):
            raise ConfigurationError(
                f"module={module!r} has no aforward(), and agents run asynchronously; write its forward() as "
                "async def aforward(self, ...)"
            )
        if any(predictor.lm is not None for predictor in found.predictors()):
            raise ConfigurationError(
                f"module={module!r} has a model of its own, whose calls would not be counted; call its set_lm(None), "
                "and give the model to the agent"
            )
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the agent itself, so that copied programs share its connection."""
        return self

    def spec(self, name: str) -> AgentSpec:
        """Return the specification that a program file stores for this agent, under the given name."""
        settings = getattr(self.lm, "kwargs", {})
        lm_max_tokens = settings.get("max_tokens") or settings.get("max_completion_tokens")
        values = {
            "name": name,
            "model": json_safe(getattr(self.lm, "model", None)),
            "temperature": settings.get("temperature") if self.temperature is None else self.temperature,
            "max_tokens": lm_max_tokens if self.max_tokens is None else self.max_tokens,
            "persona": self.persona,
            "options": {key: settings[key] for key in sorted(SAMPLING_OPTIONS & settings.keys())},
            "module": self.module if self.module is None or isinstance(self.module, str) else _class_of(self.module),
        }
        return validated(AgentSpec, values)

    @property
    def is_cold(self) -> bool:
        """Return whether the temperature is 0, so that all samples would be the same."""
        return self.spec("-").temperature == 0 and takes_temperature(getattr(self.lm, "model", None))

    @property
    def identity(self) -> str:
        """Return the model as text: its name, server, settings and persona, without the agent's own name.

        Two agents with the same identity are samples of one model.
        """
        return json.dumps([self.spec("-").model_dump(mode="json"), connection_of(self.lm)], sort_keys=True)

    @classmethod
    def of_spec(cls, spec: AgentSpec, lm: dspy.BaseLM | None = None) -> Self:
        """Return the agent that ``spec`` describes, on ``lm`` if one is given."""
        if lm is None and spec.model is not None:
            lm = make_lm(spec.model, temperature=spec.temperature, max_tokens=spec.max_tokens, **spec.options)
        return cls(lm, spec.name, spec.temperature, spec.max_tokens, spec.persona, module=spec.module)


AgentLike: TypeAlias = str | dspy.BaseLM | Agent


@dataclass(frozen=True)
class AgentSlot:
    """An agent as a member of a program.

    Attributes:
        name: the agent's name in this program.
        agent: the agent.
        sample: number of earlier agents with the same model, server and settings. It makes their samples differ.
    """

    name: str
    agent: Agent
    sample: int

    def lm(self) -> dspy.BaseLM:
        """Return the agent's LM, or the LM that DSPy is configured with.

        Raises:
            ConfigurationError: if both are missing.
        """
        lm = self.agent.lm if self.agent.lm is not None else dspy.settings.lm
        if not isinstance(lm, dspy.BaseLM):
            raise ConfigurationError(f"agent {self.name!r} has no model; give it one, or call dspy.configure(lm=...)")
        price: Any = self.agent.price  # an OwnPrice, since the agent was made
        return lm if price is None else with_price(lm, price)

    def config(
        self, lm: dspy.BaseLM, ambient: dspy.BaseLM | None, target: str | None = None, server: str | None = None
    ) -> dict[str, Any]:
        """Return the options of one of this agent's calls.

        DSPy's cache key is the request, so agents with the same model and prompt would all get one completion. The
        ``rollout_id`` keeps them apart. It is a hash of the agent's sample number, the LM's own rollout and the ambient
        LM's rollout, which optimizers change to draw new samples. For a critique it also includes the target: two equal
        answers make two equal requests at the same time, and they must not overwrite each other. It includes the
        address of the server, which DSPy leaves out of the key.

        Args:
            lm: the LM that will be called.
            ambient: the LM whose rollouts the program follows.
            target: name of the agent whose answer is criticised.
            server: the address of the LM's server, if it is not the provider's usual one.
        """
        own, other = (getattr(one, "kwargs", {}) for one in (lm, ambient))
        config: dict[str, Any] = {}
        if self.agent.temperature is not None and takes_temperature(lm.model):
            config["temperature"] = self.agent.temperature
        if self.agent.max_tokens is not None:
            config["max_completion_tokens" if "max_completion_tokens" in own else "max_tokens"] = self.agent.max_tokens
        rollouts: tuple[int | None, int | None] = None, None
        if config.get("temperature", own.get("temperature")) != 0:  # at 0 all samples are equal
            rollouts = own.get("rollout_id"), None if ambient is lm else other.get("rollout_id")
        if rollouts == (None, None) and target is None and server is None:
            rollout = self.sample or None
        else:
            rollout = rollout_of(*rollouts, self.sample, target, *(() if server is None else (server,)))
        return config if rollout is None else {**config, "rollout_id": rollout}


def remarks_of(agents: Iterable[Agent]) -> list[str]:
    """Return what plans do not count, and what of the settings is not sent because models are known to reject it."""
    remarks = []
    for agent in agents:
        model, temperature = getattr(agent.lm, "model", None), agent.temperature
        if agent.module is not None:
            remarks.append(f"the module of {agent.name} makes its own calls; plans count them as one")
        if temperature is not None and not takes_temperature(model):
            remarks.append(f"{model} takes no temperature: {temperature:g} of {agent.name} is not sent")
    return remarks


def _class_of(module: object) -> str:
    return f"{type(module).__module__}:{type(module).__qualname__}"


@functools.cache
def _at(place: str) -> Any:
    """Return the object at ``package.module:name``, or what it makes if it is a class or a function."""
    try:
        found = imported(place)
        return found if isinstance(found, dspy.Module) or not callable(found) else found()
    except Exception as error:  # (user code can fail in any way)
        raise ConfigurationError(
            f"module {place!r} cannot be used: {type(error).__name__}: {error}; its code must be installed or in "
            "the working directory, and its place be written as package.module:name"
        ) from error


def agent_of(value: AgentLike) -> Agent:
    """Return ``value`` as an ``Agent``.

    Raises:
        ConfigurationError: if it is not a model string, a ``dspy.LM`` or an ``Agent``.
    """
    return value if isinstance(value, Agent) else Agent(value)


def slots_of(agents: Sequence[Agent], ambient: dspy.BaseLM | None = None) -> tuple[AgentSlot, ...]:
    """Give every agent a unique name and a sample number.

    Args:
        agents: in order.
        ambient: the LM of agents without their own.
    """
    names = _unique_names(agents)
    seen: Counter[str] = Counter()
    slots = []
    for name, agent in zip(names, agents, strict=True):
        asked = replace(agent, lm=ambient if agent.lm is None else agent.lm, persona=None)
        key = asked.identity
        slots.append(AgentSlot(name, agent, seen[key]))
        seen[key] += 1
    return tuple(slots)


def make_lm(model: str, **options: Any) -> dspy.BaseLM:
    """Return the LM of a model string. ``local...`` is the embedded model.

    Args:
        model: for example ``"openai/gpt-4.1"``, ``"local"`` or ``"local/<path.gguf>"``.
        **options: passed to ``dspy.LM``, except those that are None, and a temperature or a small ``max_tokens`` that
            DSPy refuses for the model. An ``Agent`` may have such a ``max_tokens``.

    Raises:
        ConfigurationError: if the string is malformed, the provider is unknown, or the embedded model is not installed.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if is_local(model):
        return local_lm(model, **options)
    check_model(model)
    if not takes_temperature(model):  # DSPy refuses to build such a model with these
        if options.get("temperature") != 1:
            options.pop("temperature", None)
        if options.get("max_tokens", LEAST_REASONING_TOKENS) < LEAST_REASONING_TOKENS:
            options.pop("max_tokens")
    return dspy.LM(model, **options)


def check_model(model: str) -> None:
    """Check that DSPy or LiteLLM can route the model string.

    Raises:
        ConfigurationError: if it is malformed, or no provider is known.
    """
    if not re.fullmatch(r"\S+", model) or model.startswith("/") or model.endswith("/"):
        raise ConfigurationError(f"model {model!r} is not a model name; write it as provider/model, or 'local'")
    try:
        resolve(dspy.LM(model))
    except (UnknownModelError, UnsupportedFeatureError):
        if not _litellm_knows(model):
            raise ConfigurationError(
                f"model {model!r} names no provider that DSPy or LiteLLM knows; "
                "write it as provider/model, for example openai/gpt-4.1, or use 'local'"
            ) from None


def _litellm_knows(model: str) -> bool:
    with offline_prices(unless_set=True):
        litellm = get_litellm()
    try:
        litellm.get_llm_provider(model)
    except litellm.exceptions.BadRequestError:
        return False
    return True


def _unique_names(agents: Iterable[Agent]) -> list[str]:
    """Return the names that the caller chose, and different names for the other agents."""
    taken = {*RESERVED_NAMES, *(agent.name for agent in agents)}
    names = []
    for agent in agents:
        model = getattr(agent.lm, "model", None) or "default"
        base = json_safe(model).rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")
        free = (name for name in chain([base], (f"{base}-{n}" for n in count(2))) if name not in taken)
        names.append(agent.name or next(free))
        taken.add(names[-1])
    return names
