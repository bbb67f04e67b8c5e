"""Simulated agents and tasks for search benchmarks. The best architecture of each world is planted, or known by trial.

A world is a list of agents with known skills, a search space, and options of the search. ``worlds()`` lists all of
them: eleven draws of one kind (a critic, a writer, an agent that misleads) and six of other kinds. Agents fail on the
same hard questions with the same wrong answers, unless independent errors are asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

import dspy
from dspy.lm15 import Request

from moa_dspy.optimizers import SearchSpace
from moa_dspy.testing import INDEPENDENT, SimulatedLM, prompt_of

__all__ = ["ERRORS", "SPACE", "TASK", "Errors", "World", "exact", "worlds"]

Errors: TypeAlias = Literal["shared", "independent"]
ERRORS: Final[Mapping[Errors, Mapping[str, Any]]] = {"shared": {}, "independent": INDEPENDENT}
"""Arguments of ``SimulatedLM`` by how errors come about."""

TASK = "question -> answer: int"
SPACE = SearchSpace(
    samples=1,
    temperatures=(0.3, 0.9),
    attention=("full", "none"),
    critiques=("single",),
    gate=("off",),
    residual=("synthesis", "none"),
    aggregation=("synthesis",),
    aggregators=("planner",),
    layers=(1, 2),
)
DEEP = replace(SPACE, layers=(1, 2, 3))
FIVE = replace(SPACE, shared_temperature=True, aggregators=("a",), layers=(1,))

Skill: TypeAlias = Mapping[str, Any]
"""Arguments of ``SimulatedLM``."""
_ROUND = re.compile(r"round(\d)")
_LAST_NUMBER = re.compile(r"\d+(?=\D*$)")


class Wordy(SimulatedLM):
    """A simulated agent that uses other words for each request.

    Without this, agents that agree would write the same text, and most calls of most architectures would be equal.

    Args:
        answers: by task.
        model: name of the agent.
        spoiled: probability that a proposal of round 3 or later is wrong, whatever the agent knows.
        rounds: whether texts name their round; other texts are other draws of all chances.
        **options: as for ``SimulatedLM``.
    """

    def __init__(
        self, answers: dict[str, str], model: str, spoiled: float = 0.0, *, rounds: bool = True, **options: Any
    ) -> None:
        super().__init__(answers, model=model, **options)
        script: Any = self.engine
        plain = script._reply

        def reply(request: Request) -> str:
            prompt = prompt_of(request)
            digest = hashlib.sha256(f"{model} {request.config.temperature} {prompt}".encode())
            words, chance = digest.hexdigest()[:12], int.from_bytes(digest.digest()[-4:], "big") / 2**32
            text = str(plain(request))
            if round_of(request) > 2 and proposes(request) and chance < spoiled:
                text = _LAST_NUMBER.sub("1", text)
            words = f"{words} round{round_of(request)}" if rounds else words
            known = "It follows from the task."
            return text.replace(known, f"It follows from {words}.") if known in text else f"{text} ({words})"

        script._reply = reply


@dataclass(frozen=True)
class World:
    """Agents of known skill, and a search over them.

    Args:
        name: of the world.
        skills: by name of the agent.
        space: what is searched.
        seed: of all draws.
        options: further arguments of ``search``.
        count: number of examples.
        errors: whether agents fail together.
    """

    name: str
    skills: Mapping[str, Skill]
    space: SearchSpace = SPACE
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    count: int = 12
    errors: Errors = "shared"

    @property
    def answers(self) -> dict[str, str]:
        """Return the right answer of each task."""
        return {f"task {number:03d}": str(number + 100) for number in range(self.count)}

    @property
    def examples(self) -> list[dspy.Example]:
        """Return the tasks as examples."""
        rows = self.answers.items()
        return [dspy.Example(question=task, answer=int(answer)).with_inputs("question") for task, answer in rows]

    def agents(self) -> list[SimulatedLM]:
        """Return new models, which have answered no request."""
        options = {"cache": True, "seed": self.seed, "world": self.seed, "adopts": 0.7, **ERRORS[self.errors]}
        return [Wordy(self.answers, f"simulated/{name}", **{**options, **skill}) for name, skill in self.skills.items()]


def worlds(count: int = 12, errors: Errors = "shared") -> dict[str, World]:
    """Return all worlds by name.

    Args:
        count: examples of each.
        errors: whether agents fail together.
    """
    listed = [
        *(critic_and_writer(seed) for seed in (0, 1, 2, 3, 20, 10, 11, 12, 13, 14, 15)),
        *(strong_agent(), specialists(), misleading_critics(), depth(), price_limit(), deceptive_agent()),
    ]
    return {world.name: replace(world, count=count, errors=errors) for world in listed}


def critic_and_writer(seed: int = 0) -> World:
    """Return a world with a good critic, a good writer, and an agent that misleads.

    The critic (``planner``) finds errors. The writer knows most at a low temperature. ``talker`` is nearly always
    wrong. The best ensemble is the first two at the right temperatures, with critiques.
    """
    skills: dict[str, Skill] = {
        "planner": {"knows": lambda request: 0.4 if warmth(request) > 0.5 else 0.2, "finds": 0.4, "misled": 0.2},
        "writer": {"knows": lambda request: 0.45 if warmth(request) < 0.5 else 0.25, "finds": 0.15, "misled": 0.3},
        "talker": {"knows": 0.1, "finds": 0.0, "misled": 0.5},
    }
    return World(f"critic and writer {seed}", skills, seed=seed)


def strong_agent() -> World:
    """Return five agents, of which the fourth knows most and the second finds errors: these two are best."""
    weak: Skill = {"knows": 0.25, "finds": 0.05, "misled": 0.5}
    skills: dict[str, Skill] = {
        "a": weak,
        "b": {"knows": 0.3, "finds": 0.5, "misled": 0.1},
        "c": weak,
        "d": {"knows": lambda request: 0.6 if warmth(request) < 0.5 else 0.4, "finds": 0.1, "misled": 0.1},
        "e": weak,
    }
    return World("strong agent in place four", skills, FIVE, seed=4)


def specialists() -> World:
    """Return two agents that each know and judge half of the tasks, and one that knows little of all."""

    def knows(odd: int) -> Callable[[Request], float]:
        return lambda request: 0.85 if task_of(request) % 2 == odd else 0.05

    skills: dict[str, Skill] = {
        "planner": {"knows": 0.3, "finds": 0.1, "misled": 0.5},
        "writer": {"knows": knows(0), "finds": 0.4, "misled": 0.3},
        "talker": {"knows": knows(1), "finds": 0.4, "misled": 0.3},
    }
    return World("two specialists", skills, seed=5)


def misleading_critics() -> World:
    """Return agents that know much, criticise badly and believe critics: best are all three without critiques."""
    skill: Skill = {"knows": lambda request: 0.65 - 0.4 * abs(warmth(request) - 0.5), "finds": 0.05, "misled": 0.9}
    space = replace(SPACE, temperatures=(0.1, 0.5, 0.9), layers=(1,))
    return World("misleading critics", dict.fromkeys(("planner", "writer", "talker"), skill), space, seed=6)


def depth() -> World:
    """Return agents whose second layer is better than the first, and whose third is worse again."""

    def knows(first: float, second: float) -> Callable[[Request], float]:
        return lambda request: first if round_of(request) == 1 else second

    skills: dict[str, Skill] = {
        "planner": {"knows": knows(0.3, 0.5), "finds": 0.3, "misled": 0.3, "spoiled": 0.6},
        "writer": {"knows": knows(0.4, 0.7), "finds": 0.1, "misled": 0.3, "spoiled": 0.6},
    }
    return World("depth", skills, replace(DEEP, temperatures=(0.1, 0.5, 0.9)), seed=7)


def price_limit() -> World:
    """Return the critic and the writer, where a question may cost eight calls at most."""
    plain = critic_and_writer(8)
    options = {"objective": "score_at_price", "price": 8.0}
    return replace(plain, name="price limit", options=options)


def deceptive_agent() -> World:
    """Return four agents, of which the last is wrong on purpose and argues for it: best are ensembles without it."""
    skills: dict[str, Skill] = {
        "planner": {"knows": 0.45, "finds": 0.4, "misled": 0.4},
        "writer": {"knows": 0.5, "finds": 0.2, "misled": 0.4},
        "talker": {"knows": 0.4, "finds": 0.2, "misled": 0.4},
        "liar": {"knows": 0.6, "finds": 0.6, "deceives": 1.0},
    }
    return World("deceptive agent", skills, replace(SPACE, shared_temperature=True, layers=(1,)), seed=9)


def exact(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    """Return whether the answer is right."""
    del trace
    return example.answer == prediction.answer


def warmth(request: Request) -> float:
    """Return the temperature of a request."""
    return request.config.temperature or 0.0


def task_of(request: Request) -> int:
    """Return the number of the task that a request is about."""
    found = re.search(r"task (\d{3})", request.messages[-1].text or "")
    return int(found.group(1)) if found else 0


def proposes(request: Request) -> bool:
    """Return whether a request asks for a proposal that improves on the previous layer's answer."""
    text = request.messages[-1].text or ""
    return "## previous_answer ##" in text or "Previous Answer:" in text


def round_of(request: Request) -> int:
    """Return the layer that a request belongs to, read off the texts that it contains."""
    found = [int(number) for number in _ROUND.findall(request.messages[-1].text or "")]
    return max(found, default=1) + (1 if found and proposes(request) else 0)
