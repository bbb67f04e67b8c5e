"""Does an agent answer, what does it cost, and what does its model lack? One small call for each agent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias

import dspy
import pydantic

from moa_dspy._dspy import enforces_schema, get_litellm
from moa_dspy.agents import Agent
from moa_dspy.cost.budget import Budget
from moa_dspy.cost.prices import ModelPrice, PriceTable, price_list
from moa_dspy.discovery import context_at
from moa_dspy.errors import MoAError
from moa_dspy.identity import server_of
from moa_dspy.model_limits import takes_system, takes_temperature
from moa_dspy.program import AttentionMoA
from moa_dspy.runtime import event_loop
from moa_dspy.runtime.accepted import SYSTEM, rejected_by
from moa_dspy.runtime.tolerance import Tolerance
from moa_dspy.trace import Failure, Step, Trace, watch

__all__ = ["Checkup", "Feature", "Support", "check_agents"]

Feature: TypeAlias = Literal["temperature", "system", "schemas", "log-probabilities"]
Support: TypeAlias = Literal["yes", "no", "unknown"]

_TASK: Final = "question -> answer"
_QUESTION: Final = "Which number comes after {}? Answer with the number alone."
_LONGEST: Final = 64  # tokens of a reply
_TOLERANCE: Final = Tolerance(timeout=60, retries=0)

_REMEDIES: Final[dict[Feature, str]] = {
    "temperature": "leave temperature out; make samples of this model differ by persona",
    "system": "nothing to do: instructions go into the first user message",
    "schemas": "nothing to do: typed outputs are read from the text; a larger model errs less in it",
    "log-probabilities": "nothing to do: yes or no is asked for instead of a probability",
}


class Checkup(pydantic.BaseModel):
    """What one small call showed of an agent.

    Attributes:
        agent: its name.
        model: its model.
        server: address of its server; None for the provider's usual one.
        answer: what it wrote; None if it failed.
        failure: why it failed.
        seconds: latency of the call.
        calls: calls that were made, retries included.
        tokens: tokens that they used.
        cost_usd: what they cost; None if unknown.
        price: dollars per million tokens; None if unknown.
        context: the longest prompt, in tokens; None if unknown.
        features: whether the model takes each feature, by its name, by lists and by what it rejected.
        remedies: what to do about what is missing, unknown or failed.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    agent: str
    model: str | None
    server: str | None = None
    answer: str | None = None
    failure: Failure | None = None
    seconds: float = 0.0
    calls: int = 0
    tokens: int = 0
    cost_usd: float | None = 0.0
    price: ModelPrice | None = None
    context: int | None = None
    features: dict[Feature, Support] = pydantic.Field(default_factory=dict)
    remedies: tuple[str, ...] = ()


def check_agents(agents: Sequence[Agent], *, budget: Budget | None = None) -> list[Checkup]:
    """Ask every agent one small question, all at once.

    Args:
        agents: with their names.
        budget: limit of each agent's spending.
    """

    async def together() -> list[Step | Failure]:
        return list(await asyncio.gather(*(_ask(agent, budget) for agent in agents)))

    # LiteLLM, which knows the features, takes seconds to import. They must not count as latency of the agents.
    return [_checkup(agent, asked) for agent, asked in zip(agents, event_loop.run(together), strict=True)]


async def _ask(agent: Agent, budget: Budget | None) -> Step | Failure:
    """Return the step in which an agent answered a small question, or why there was none."""
    traces, message = list[Trace](), "no call was made"
    small = agent if (agent.max_tokens or _LONGEST) < _LONGEST else replace(agent, max_tokens=_LONGEST)
    program = AttentionMoA(
        _TASK, [small], layers=1, attention="none", aggregation="none", budget=budget, tolerance=_TOLERANCE
    )
    question = _QUESTION.format(random.randrange(10**6))  # noqa: S311 (one that no cache has answered)
    try:
        with watch(lambda event: traces.append(event) if isinstance(event, Trace) else None):
            await program.acall(question=question)
    except MoAError as error:
        message = str(error)
    if traces and traces[0].steps:
        return traces[0].steps[0]
    return Failure(kind="budget" if traces else "configuration", message=message)


def _checkup(agent: Agent, asked: Step | Failure) -> Checkup:
    name, lm = agent.name or "agent", agent.lm
    model = getattr(lm, "model", None)
    if isinstance(asked, Failure):
        return Checkup(agent=name, model=model, server=server_of(lm), failure=asked)
    price = PriceTable().price(lm) if isinstance(lm, dspy.BaseLM) else None
    features = dict(_features(lm))
    return Checkup(
        agent=name,
        model=model,
        server=server_of(lm),
        answer=asked.text if asked.status == "ok" else None,
        failure=asked.error,
        seconds=asked.end - asked.start - asked.queued,
        calls=asked.calls,
        tokens=asked.tokens.total,
        cost_usd=asked.cost_usd,
        price=price,
        context=_context(lm),
        features=features,
        remedies=tuple(_remedies(agent, asked, price, features)),
    )


def _features(lm: Any) -> Iterator[tuple[Feature, Support]]:
    """Yield whether the model takes each feature. What it rejected in the call counts more than lists."""
    model, rejected = getattr(lm, "model", None), rejected_by(lm)
    entry = _entry(model)
    is_own_server = server_of(lm) is not None
    yield "temperature", _said(takes_temperature(model) and "temperature" not in rejected)
    yield "system", _said(takes_system(str(model)) and SYSTEM not in rejected)
    listed = entry.get("supports_response_schema")
    schemas = True if enforces_schema(lm) else None if is_own_server else listed
    yield "schemas", _said(schemas)
    yield "log-probabilities", "unknown" if is_own_server else _said(_takes_logprobs(model))


def _said(value: bool | None) -> Support:
    return "unknown" if value is None else "yes" if value else "no"


def _takes_logprobs(model: str | None) -> bool | None:
    """Return whether LiteLLM sends ``logprobs`` to the provider of ``model``; None if it does not know the model."""
    if model is None or not _entry(model):
        return None
    try:
        return "logprobs" in (get_litellm().get_supported_openai_params(model=model) or ())
    except Exception:  # noqa: BLE001 (LiteLLM raises many kinds of errors for models it does not know)
        return None


def _entry(model: Any) -> Any:
    prices = price_list()
    return prices.get(str(model)) or prices.get(str(model).partition("/")[2]) or {}


def _context(lm: Any) -> int | None:
    """Return the longest prompt in tokens, as the model's own server says, or by a list; None if neither knows it."""
    model, address = str(getattr(lm, "model", None)), server_of(lm)
    if address is not None:
        return context_at(address, model.partition("/")[2], getattr(lm, "kwargs", {}).get("api_key"))
    tokens = getattr(getattr(lm, "engine", None), "window", None) or _entry(model).get("max_input_tokens")
    return tokens if isinstance(tokens, int) else None


def _remedies(agent: Agent, step: Step, price: ModelPrice | None, features: dict[Feature, Support]) -> Iterator[str]:
    if step.truncated:
        yield f"the reply was cut at {_LONGEST} tokens: if the model reasons at length, give it a large max_tokens"
    if price is None:
        yield "the price is unknown: write price = { prompt = 0.5, completion = 1.5 }, in dollars per million tokens"
    missing: list[Feature] = [feature for feature, support in features.items() if support == "no"]
    for feature in missing:
        if feature != "temperature" or agent.spec("-").temperature is not None:
            yield f"no {feature}: {_REMEDIES[feature]}"
