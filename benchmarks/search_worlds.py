"""Simulated agents and tasks for search benchmarks. The best architecture of each world is planted, or known by trial.

A world is a list of agents with known skills, a search space, and options of the search. ``worlds()`` lists eleven
draws of one kind (a critic, a writer, an agent that misleads) and six of other kinds. ``QUALITY`` are the ten kinds
that the quality of the search is measured on. Agents fail on the same hard questions with the same wrong answers,
unless independent errors are asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, Final, Literal, TypeAlias

import dspy
from dspy.lm15 import Message, Request

from moa_dspy.optimizers import SearchSpace
from moa_dspy.testing import INDEPENDENT, SimulatedLM, prompt_of

__all__ = ["ERRORS", "QUALITY", "SPACE", "TASK", "Errors", "World", "exact", "graded", "noisy", "quality", "worlds"]

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
Metric: TypeAlias = Callable[..., float]
_WORDS = re.compile(r"\b[0-9a-f]{12}\b")
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
        wording: whether other words are other draws, too. If not, the same answers get the same reply, and designs
            that differ in nothing that matters have nearly the same score.
        **options: as for ``SimulatedLM``.
    """

    def __init__(
        self,
        answers: dict[str, str],
        model: str,
        spoiled: float = 0.0,
        *,
        rounds: bool = True,
        wording: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(answers, model=model, **options)
        script: Any = self.engine
        plain = script._reply

        def reply(request: Request) -> str:
            words = digest_of(model, request).hex()[:12]
            heard = request if wording else without_words(request)
            chance = int.from_bytes(digest_of(model, heard)[-4:], "big") / 2**32
            text = str(plain(heard))
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
        wording: as for ``Wordy``.
        metric: what the search sees.
        truth: the same without noise.
        deceptive: the agent that the best design leaves out.
    """

    name: str
    skills: Mapping[str, Skill]
    space: SearchSpace = SPACE
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    count: int = 12
    errors: Errors = "shared"
    wording: bool = True
    metric: Metric = field(default_factory=lambda: exact)
    truth: Metric = field(default_factory=lambda: exact)
    deceptive: str | None = None

    @property
    def answers(self) -> dict[str, str]:
        """Return the right answer of each task."""
        return {f"task {number:03d}": str(number + 100) for number in range(self.count)}

    @property
    def examples(self) -> list[dspy.Example]:
        """Return the tasks as examples."""
        rows = self.answers.items()
        return [dspy.Example(question=task, answer=int(answer)).with_inputs("question") for task, answer in rows]

    def agents(self, *, cache: bool = True) -> list[SimulatedLM]:
        """Return new models, which have answered no request."""
        drawn = {"seed": self.seed, "world": self.seed, "wording": self.wording, **ERRORS[self.errors]}
        options = {"cache": cache, "adopts": 0.7, **drawn}
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


def strong_among(position: int, seed: int) -> World:
    """Return four agents: one in any position knows most, the next one finds errors, the others are weak."""
    skills: dict[str, Skill] = {name: {"knows": 0.25, "finds": 0.05, "misled": 0.5} for name in "abcd"}
    names = list(skills)
    skills[names[position % 4]] = {"knows": cold(0.65, 0.45), "finds": 0.1, "misled": 0.1}
    skills[names[(position + 1) % 4]] = {"knows": 0.3, "finds": 0.5, "misled": 0.1}
    return World("strong agent", skills, FOUR, seed=seed + position % 4)


def noisy_scores(seed: int) -> World:
    """Return the critic and the writer, judged by a metric that gives parts of a point, with noise."""
    return replace(critic_and_writer(seed), name="noisy scores", metric=noisy, truth=graded, space=FLAT)


def paying_gate(seed: int) -> World:
    """Return agents that need critics where they disagree. Only with a gate is that within the price."""
    skills: dict[str, Skill] = {
        "planner": {"knows": cold(0.6, 0.5), "finds": 0.6, "misled": 0.1, "same_error": 0.2},
        "writer": {"knows": cold(0.5, 0.6), "finds": 0.3, "misled": 0.1, "same_error": 0.2},
        "talker": {"knows": 0.5, "finds": 0.2, "misled": 0.4, "same_error": 0.2},
    }
    return World("gate that pays", skills, GATED, seed=seed, options={"objective": "score_at_price", "price": 9.0})


def harmful_gate(seed: int) -> World:
    """Return agents that agree on wrong answers, which one critic finds: a gate would keep them."""
    skills: dict[str, Skill] = {
        "planner": {"knows": cold(0.3, 0.4), "finds": 0.7, "misled": 0.1, "same_error": 1.0},
        "writer": {"knows": cold(0.4, 0.3), "finds": 0.1, "misled": 0.1, "same_error": 1.0},
        "talker": {"knows": 0.3, "finds": 0.1, "misled": 0.4, "same_error": 1.0},
    }
    return World("gate that does not", skills, GATED, seed=seed)


def needle(seed: int) -> World:
    """Return one agent that repairs its own answers at the highest temperature alone, and agents that mislead it."""

    def finds(request: Request) -> float:
        of_own = "Peer Answer:" not in (request.messages[-1].text or "")
        return 0.9 if of_own and warmth(request) > 0.8 else 0.0

    skills: dict[str, Skill] = {
        "planner": {"knows": 0.4, "finds": 0.05, "misled": 0.9},
        "writer": {"knows": 0.3, "finds": finds, "misled": 0.9},
        "talker": {"knows": 0.4, "finds": 0.05, "misled": 0.9},
    }
    return World("needle", skills, FLAT, seed=seed)


FLAT = replace(SPACE, temperatures=(0.1, 0.5, 0.9), attention=("full", "cross", "self", "none"), layers=(1,))
FOUR = replace(SPACE, attention=("full", "self", "none"), aggregators=("a",), layers=(1,))
WIDE = replace(SPACE, attention=("full", "cross", "self", "none"))
HONEST = replace(FOUR, aggregators=("planner",))
DEEPEST = replace(WIDE, temperatures=(0.1, 0.5, 0.9), layers=(1, 2, 3))
GATED = replace(FLAT, gate=("off", "unanimous"))
QUALITY: Final[Mapping[str, Callable[[int, int], World]]] = {
    "strong agent": strong_among,
    "two specialists": lambda _, draw: replace(specialists(), seed=5 + draw, space=WIDE),
    "misleading critics": lambda _, draw: replace(misleading_critics(), seed=6 + draw, space=FLAT),
    "depth": lambda _, draw: replace(depth(), seed=7 + draw, space=DEEPEST),
    "price limit": lambda _, draw: replace(price_limit(), seed=8 + draw, space=WIDE),
    "noisy scores": lambda _, draw: noisy_scores(9 + draw),
    "deceptive agent": lambda _, draw: replace(deceptive_agent(), seed=10 + draw, space=HONEST, deceptive="liar"),
    "gate that pays": lambda _, draw: paying_gate(11 + draw),
    "gate that does not": lambda _, draw: harmful_gate(12 + draw),
    "needle": lambda _, draw: needle(13 + draw),
}
"""The worlds of the search's quality, by name: functions of the search's seed, and of the draw of tasks and chances."""


def quality(name: str, seed: int, *, draw: int = 0, count: int = 60) -> World:
    """Return a world of ``QUALITY`` for a search with a seed.

    Args:
        name: of the world.
        seed: of the search; the strong agent's position depends on it.
        draw: of tasks and chances.
        count: number of examples.
    """
    return replace(QUALITY[name](seed, 1000 * draw), count=count, wording=False)


def cold(low: float, high: float) -> Callable[[Request], float]:
    """Return a skill that is ``low`` below temperature 0.5, and ``high`` from there on."""
    return lambda request: low if warmth(request) < 0.5 else high


def exact(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    """Return whether the answer is right."""
    del trace
    return example.answer == prediction.answer


def graded(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
    """Return 0.8 for a right answer, and 0.2 for a wrong one."""
    return 0.8 if exact(example, prediction, trace) else 0.2


def noisy(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
    """Return the same with normal noise of each run (standard deviation 0.15), between 0 and 1."""
    text = "".join(step.text for step in prediction.trace.steps)
    digest = hashlib.sha256(f"{text} {prediction.answer}".encode()).digest()[:6]
    noise = NormalDist(0, 0.15).inv_cdf((int.from_bytes(digest, "big") + 0.5) / 2**48)
    return min(1.0, max(0.0, graded(example, prediction, trace) + noise))


def digest_of(model: str, request: Request) -> bytes:
    """Return a digest of all that a request contains."""
    return hashlib.sha256(f"{model} {request.config.temperature} {prompt_of(request)}".encode()).digest()


def without_words(request: Request) -> Request:
    """Return a request without the words that tell equal answers apart."""
    *before, last = request.messages
    return replace(request, messages=(*before, Message.user(_WORDS.sub("", last.text or ""))))


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
