"""Language models for tests: scripted ones, and simulated agents of known skill.

Both are `dspy.LM`s with an engine in place of a provider, so that all code of DSPy and of this package runs as usual.
They open no connections.

    lm = ScriptedLM("Paris")                                    # always the same reply
    lm = ScriptedLM(lambda request: request.messages[-1].text)  # a reply computed from the request
    lm = SimulatedLM({"2 + 2": "4"}, knows=0.6, finds=0.7, adopts=0.9, misled=0.1, seed=1)

Simulated agents fail together, as real models do: see ``SimulatedLM``. Independent errors flatter every ensemble.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Final, Self, TypeAlias

import dspy
from dspy.lm15 import Message, Request, Response, StreamDeltaEvent, TextDelta, Usage, response_to_events

from moa_dspy.errors import ConfigurationError

__all__ = ["INDEPENDENT", "Chance", "Reply", "ScriptedLM", "SimulatedLM", "prompt_of"]

Reply: TypeAlias = str | Sequence[str] | Callable[[Request], str]

Chance: TypeAlias = float | Callable[[Request], float]
"""A probability, or a function from the request to a probability, so that a prompt can matter."""

INDEPENDENT: Final[Mapping[str, Any]] = {"difficulty": 0.0, "same_error": 0.0}
"""Arguments of ``SimulatedLM`` for agents that fail independently of each other."""

_rollout: contextvars.ContextVar[int | None] = contextvars.ContextVar("moa_dspy_testing_rollout", default=None)


def prompt_of(request: Request) -> str:
    """Return a request as one text: the system message, then the turns."""
    system = request.system if isinstance(request.system, str) else ""
    return "\n\n".join([system, *(message.text or "" for message in request.messages)])


class ScriptedLM(dspy.LM):
    """A language model with scripted replies.

    Args:
        reply: a text; a sequence of texts for the requests in order of arrival, of which the last is repeated; or a
            function from the request to the text. A function may raise, like a provider that fails.
        model: the name in traces.
        latency: duration of a call in seconds. Calls overlap.
        **options: as for `dspy.LM`. `cache` is off by default.

    Attributes:
        requests: all requests that reached the model, in order of arrival.

    Raises:
        ConfigurationError: if the sequence of texts is empty.
    """

    def __init__(self, reply: Reply, model: str = "scripted/model", *, latency: float = 0.0, **options: Any) -> None:
        if not (isinstance(reply, str) or callable(reply) or reply):
            raise ConfigurationError(f"ScriptedLM({reply!r}) has no reply; give at least one text")
        script = _Script(reply, latency)
        super().__init__(model, engine=script, async_engine=_AsyncScript(script), **{"cache": False, **options})
        self.requests = script.requests


class SimulatedLM(ScriptedLM):
    """A simulated agent of known skill, for tasks with one right answer.

    It recognises the roles of `moa_dspy.signatures` by their inputs and not by their instructions, so that prompts may
    be optimized.

    - A proposal is right with probability `knows`, else it is one of the wrong answers.
    - A critique recognises with probability `finds` whether a peer's answer is right. It then suggests the right answer
      for a wrong one. Otherwise it suggests the critic's own answer if that differs.
    - A refinement of a wrong answer adopts a right suggestion with probability `adopts`. A refinement of a right answer
      adopts a wrong suggestion with probability `misled`.
    - An aggregate is the answer of most agents. Ties are broken at random.
    - A comparison for a gate says that answers say the same if they are equal.
    - A report of dissent names the answer of most agents as consensus, and each other answer as a contradiction.
    - A synthesis compares the newest answer with the one before it. If they differ, it recognises with probability
      `finds` which one is right, and otherwise takes the newest. If it is asked for the probability of an improvement,
      it gives 0.95 or 0.05 if it recognises the right answer, and 0.6 otherwise.

    **Hard questions.** Each task has a difficulty, which all agents share. An agent knows, or finds an error, if

        sqrt(difficulty) * D + sqrt(1 - difficulty) * E < quantile(skill)

    with D drawn for the task, E drawn for the request, both standard normal, and the quantile of the normal
    distribution (a one-factor Gaussian copula). Over the tasks an agent is right as often as its skill says, whatever
    `difficulty` is. On one task its skill depends on D. Two agents' outcomes have a latent correlation of `difficulty`.

    **Shared errors.** Each task has one usual wrong answer. A wrong answer is this one with probability `same_error`,
    else any of the wrong answers. So two wrong agents agree with a probability of at least `same_error` squared.

    The defaults are measured. A 0.5B model was right in 15 % of single draws at GSM8K, and at least once in five draws
    for 40 % of the problems; `difficulty=0.5` gives 39.7 %. Two models that are both wrong agree in 60 % (arXiv
    2506.07962); `same_error=0.75` gives 56 % and accidental agreement. `SimulatedLM(..., **INDEPENDENT)` has neither.

    Random draws depend only on `seed`, the model's name, the request and the rollout id. Those of a task depend only on
    `world` and the task's text.

    Args:
        answers: the right answer of each task text. The longest text that occurs in the prompt counts.
        knows: a `Chance`.
        finds: a `Chance`.
        adopts: a `Chance`.
        misled: a `Chance`.
        difficulty: share of a task in whether an agent is right, from 0 (all tasks are equally hard) to 1.
        same_error: probability that a wrong answer is the task's usual one.
        deceives: share of the tasks about which the agent deceives: it gives the usual wrong answer in every role, asks
            all others for it, and is sure of it.
        wrong: wrong answers to draw from; None means the right answers of the other tasks.
        seed: seed of the agent's draws.
        world: seed of the tasks' difficulties and usual wrong answers. The agents of a program share it.
        model: the name in traces.
        latency: duration of a call in seconds.
        **options: as for `dspy.LM`. With `cache=True`, agents of different skill need different names, because DSPy's
            cache distinguishes models by name.

    Raises:
        ConfigurationError: if a probability is not from 0 to 1.
    """

    def __init__(
        self,
        answers: Mapping[str, str],
        knows: Chance = 0.6,
        *,
        finds: Chance = 0.5,
        adopts: Chance = 0.8,
        misled: Chance = 0.2,
        difficulty: float = 0.5,
        same_error: float = 0.75,
        deceives: float = 0.0,
        wrong: Sequence[str] | None = None,
        seed: int = 0,
        world: int = 0,
        model: str = "simulated/agent",
        latency: float = 0.0,
        **options: Any,
    ) -> None:
        skills: dict[str, Chance] = {"knows": knows, "finds": finds, "adopts": adopts, "misled": misled}
        shared = {"difficulty": difficulty, "same_error": same_error, "deceives": deceives}
        for name, chance in {**skills, **shared}.items():
            may_be_function = name in skills and callable(chance)
            if not (may_be_function or (isinstance(chance, (int, float)) and 0 <= chance <= 1)):
                raise ConfigurationError(f"{name}={chance!r} is not a probability; give a number from 0 to 1")
        simulation = _Simulation(dict(answers), skills, wrong=wrong, seed=seed, world=world, **shared)
        super().__init__(simulation.reply, model=model, latency=latency, **{"temperature": 1.0, **options})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model. The draws depend on the rollout id."""
        with self._drawing(kwargs):
            return super().__call__(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model. The draws depend on the rollout id."""
        with self._drawing(kwargs):
            return await super().acall(*args, **kwargs)

    @contextlib.contextmanager
    def _drawing(self, options: Mapping[str, Any]) -> Iterator[None]:
        token = _rollout.set(options.get("rollout_id", self.kwargs.get("rollout_id")))
        try:
            yield
        finally:
            _rollout.reset(token)


class _Script:
    """The engine of `ScriptedLM` for threads: a provider without a connection."""

    def __init__(self, reply: Reply, latency: float) -> None:
        self.requests: list[Request] = []
        self.latency = latency
        self._reply = reply
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def complete(self, request: Request) -> Response:
        time.sleep(self.latency)
        return self.answer(request)

    def stream(self, request: Request) -> Iterator[Any]:
        return _in_pieces(self.complete(request))

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def answer(self, request: Request) -> Response:
        with self._lock:
            turn = len(self.requests)
            self.requests.append(request)
        if callable(self._reply):
            text = self._reply(request)
        else:
            texts = [self._reply] if isinstance(self._reply, str) else self._reply
            text = texts[min(turn, len(texts) - 1)]
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(text),
            finish_reason="stop",
            usage=Usage(input_tokens=len(prompt_of(request).split()), output_tokens=len(text.split())),
        )


class _AsyncScript:
    """The same engine for event loops."""

    def __init__(self, script: _Script) -> None:
        self._script = script

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    async def complete(self, request: Request) -> Response:
        await asyncio.sleep(self._script.latency)
        return self._script.answer(request)

    async def stream(self, request: Request) -> Any:
        for event in _in_pieces(await self.complete(request)):
            await asyncio.sleep(0)  # as between two packets
            yield event

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""


_PIECE: Final = re.compile(r".{1,4}", re.DOTALL)


def _in_pieces(response: Response) -> Iterator[Any]:
    """Yield the events of a response. Its text comes in pieces of a few characters."""
    for event in response_to_events(response):
        if isinstance(event, StreamDeltaEvent) and isinstance(event.delta, TextDelta):
            yield from (
                replace(event, delta=replace(event.delta, text=text)) for text in _PIECE.findall(event.delta.text)
            )
        else:
            yield event


_ANSWER = re.compile(r"<answer[^>]*>\n(.*?)\n</answer>", re.DOTALL)
_REVIEWED = re.compile(r"<answer number=\"(\d+)\">\n(.*?)\n</answer>", re.DOTALL)
_CRITIQUE = re.compile(r"<critique[^>]*>\n(.*?)\n</critique>", re.DOTALL)
_SUGGESTION = re.compile(r"The answer should be: (.*?)\.(?:\s|$)", re.DOTALL)
_SURE, _LIKELY, _UNLIKELY = 0.95, 0.6, 0.05
_OUTPUT_FIELD = re.compile(r"^\d+\. `(\w+)`", re.MULTILINE)


_NORMAL: Final = NormalDist()


@dataclass(frozen=True)
class _Task:
    """A task and what all agents share about it.

    Attributes:
        text: the task.
        right: its right answer.
        wrong: its wrong answers.
        usual: the one that most agents fall for.
        difficulty: how hard it is, as a draw of the standard normal distribution.
    """

    text: str
    right: str
    wrong: list[str]
    usual: str
    difficulty: float


@dataclass(frozen=True)
class _Simulation:
    """The behaviour of a simulated agent; the fields are the arguments of `SimulatedLM`."""

    answers: Mapping[str, str]
    skills: Mapping[str, Chance]
    difficulty: float
    same_error: float
    deceives: float
    wrong: Sequence[str] | None
    seed: int
    world: int

    def reply(self, request: Request) -> str:
        """Return the reply of the requested role in the requested format."""
        if "blind_spots" in _asked_fields(request):
            return _in_fields(request, _points(_ANSWER.findall(request.messages[-1].text or "")))
        probability, answer = self._play(request)
        return _formatted(request, answer, probability)

    def _play(self, request: Request) -> tuple[float | None, str]:
        """Return the probability of an improvement (only of a synthesis), and the answer or critique."""
        prompt = request.messages[-1].text or ""
        task = self._task(prompt)
        answers = [_core(text) for text in _ANSWER.findall(prompt)]
        fields = _asked_fields(request)
        of_own = "Own Answer:" in prompt and "Critiques:" not in prompt and len(answers) == 1
        criticises = "critique" in fields or (not fields and ("Peer Answer:" in prompt or of_own))
        jointly = "Peer Answers:" in prompt or "[[ ## peer_answers ## ]]" in prompt
        if not criticises and ("to_compare" in prompt or "To Compare:" in prompt):
            return None, "true" if len(set(answers)) == 1 else "false"
        if _uniform(self.world, self.seed, "deceives", task.text) < self.deceives:
            if jointly:
                return None, _numbered(_REVIEWED.findall(prompt), lambda _: task.usual)
            answer = _suggestion(task.usual, answers[-1]) if criticises else task.usual
            return _SURE if "improved" in fields else None, answer
        if jointly:
            return None, self._joint_critique(request, task, answers[0], _REVIEWED.findall(prompt))
        if criticises:
            return None, self._critique(request, task, answers)
        if "improved" in fields:
            return self._synthesis(request, task, answers)
        if "Critiques:" in prompt or "[[ ## critiques ## ]]" in prompt:
            return None, self._refinement(request, task.right, answers[0], _CRITIQUE.findall(prompt))
        if "Candidate Answers:" in prompt or "[[ ## candidate_answers ## ]]" in prompt:
            return None, self._majority(request, answers)
        return None, self._proposal(request, task, answers)

    def _task(self, prompt: str) -> _Task:
        tasks = [task for task in self.answers if task in prompt]
        if not tasks:
            raise LookupError(f"the simulated agent knows no task in this prompt: {prompt[:200]!r}")
        text = max(tasks, key=len)
        right = self.answers[text]
        wrong = sorted(set(self.wrong or self.answers.values()) - {right}) or [f"not {right}"]
        usual = wrong[int(_uniform(self.world, "usual", text) * len(wrong))]
        return _Task(text, right, wrong, usual, _NORMAL.inv_cdf(_uniform(self.world, "difficulty", text)))

    def _proposal(self, request: Request, task: _Task, answers: list[str]) -> str:
        if self._sees(request, "knows", task):
            return task.right
        if answers:
            return answers[-1]  # the previous layer's output
        if self._chance(request, "same error") < self.same_error:
            return task.usual
        return task.wrong[int(self._chance(request, "wrong") * len(task.wrong))]

    def _critique(self, request: Request, task: _Task, answers: list[str]) -> str:
        own, peer = answers[0], answers[-1]
        return _suggestion(task.right if self._sees(request, "finds", task) else own, peer)

    def _joint_critique(self, request: Request, task: _Task, own: str, reviewed: list[tuple[str, str]]) -> str:
        def wanted(number: str) -> str:
            return task.right if self._sees(request, "finds", task, number) else own

        return _numbered(reviewed, wanted)

    def _refinement(self, request: Request, right: str, own: str, critiques: list[str]) -> str:
        suggested = [suggestion for text in critiques for suggestion in _SUGGESTION.findall(text)]
        if own != right:
            return right if right in suggested and self._happens(request, "adopts") else own
        misleading = [suggestion for suggestion in suggested if suggestion != right]
        return misleading[0] if misleading and self._happens(request, "misled") else own

    def _majority(self, request: Request, answers: list[str]) -> str:
        counts = Counter(answers)
        best = max(counts.values())
        winners = [answer for answer in counts if counts[answer] == best]
        return winners[int(self._chance(request, "tie") * len(winners))]

    def _synthesis(self, request: Request, task: _Task, answers: list[str]) -> tuple[float, str]:
        before, newest = answers[-2], answers[-1]
        if before == newest:
            return _UNLIKELY, before
        if self._sees(request, "finds", task):
            return (_SURE, newest) if newest == task.right else (_UNLIKELY, before)
        return _LIKELY, newest

    def _sees(self, request: Request, what: str, task: _Task, about: str = "") -> bool:
        """Return whether the agent recognises what is right: its skill, the task and chance decide."""
        skill = self._skill(request, what)
        if not 0 < skill < 1:
            return skill >= 1
        own = _NORMAL.inv_cdf(self._chance(request, what + about))
        return self.difficulty**0.5 * task.difficulty + (1 - self.difficulty) ** 0.5 * own < _NORMAL.inv_cdf(skill)

    def _happens(self, request: Request, what: str) -> bool:
        return self._chance(request, what) < self._skill(request, what)

    def _skill(self, request: Request, what: str) -> float:
        skill = self.skills[what]
        return skill(request) if callable(skill) else skill

    def _chance(self, request: Request, what: str) -> float:
        return _uniform(self.seed, request.model, what, _rollout.get(), prompt_of(request))


def _uniform(*key: Any) -> float:
    """Return a number between 0 and 1, exclusive, that depends on the key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=6).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**48


def _numbered(reviewed: list[tuple[str, str]], wanted: Callable[[str], str]) -> str:
    """Return the critiques of numbered answers, each by a critic who wants the answer that ``wanted`` gives for it."""
    return "\n\n".join(f"Answer {number}:\n{_suggestion(wanted(number), _core(text))}" for number, text in reviewed)


def _suggestion(wanted: str, peer: str) -> str:
    """Return a critique of a peer's answer by a critic who wants another answer, or the same."""
    if peer == wanted:
        return "Nothing needs to change."
    return f"The answer should be: {wanted}. The reason is in the task."


def _asked_fields(request: Request) -> list[str]:
    """Return the output fields that DSPy's adapters ask for; none if the whole completion is the answer."""
    _, marker, outputs = prompt_of(request).partition("Your output fields are:")
    return _OUTPUT_FIELD.findall(outputs.partition("All interactions")[0]) if marker else []


def _core(text: str) -> str:
    """Return the answer in another agent's text: its last `answer: ...` line, or all of it."""
    lines = [line.partition(": ")[2] for line in text.splitlines() if ": " in line]
    value = lines[-1] if lines and text.startswith("reasoning: ") else text
    try:
        return str(json.loads(value))
    except ValueError:
        return value.strip()


def _formatted(request: Request, answer: str, probability: float | None) -> str:
    fields = _asked_fields(request)
    prompt = prompt_of(request)  # the instructions stand before or behind the inputs
    if not fields:
        return f"It follows from the task.\n#### {answer}" if "last line after ####" in prompt else answer
    values: dict[str, Any] = dict.fromkeys(fields, answer)
    if "reasoning" in fields:
        values["reasoning"] = "It follows from the task."
    if probability is not None:
        in_words = '"type": "noul"' not in prompt  # DSPy asks for yes or no, and not for a probability
        values["improved"] = probability >= 0.5 if in_words else {"noul": probability}
    return _in_fields(request, values)


def _points(texts: Sequence[str]) -> dict[str, Any]:
    """Return the report of dissent on answers that are numbered from 1."""
    answers = [_core(text) for text in texts]
    (common, _), *others = Counter(answers).most_common()

    def point(answer: str) -> dict[str, Any]:
        return {"point": answer, "answers": [number for number, one in enumerate(answers, 1) if one == answer]}

    contradictions = [point(answer) for answer, _ in others]
    return {"consensus": [point(common)], "contradictions": contradictions, "unique_points": [], "blind_spots": []}


def _in_fields(request: Request, values: Mapping[str, Any]) -> str:
    """Return values by output field in the format that a request asks for."""
    prompt = prompt_of(request)
    if request.config.response_format is not None or "Outputs will be a JSON object" in prompt:  # DSPy's JSONAdapter
        return json.dumps(values, ensure_ascii=False)
    texts = {name: json.dumps(value) if isinstance(value, (dict, list)) else value for name, value in values.items()}
    blocks = [f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()]
    return "\n\n".join([*blocks, "[[ ## completed ## ]]"])
