"""Language models for tests: scripted ones, and simulated agents of known skill.

Both are `dspy.LM`s with an engine in place of a provider, so that all code of DSPy and of this package runs as usual.
They open no connections.

    lm = ScriptedLM("Paris")                                    # always the same reply
    lm = ScriptedLM(lambda request: request.messages[-1].text)  # a reply computed from the request
    lm = SimulatedLM({"2 + 2": "4"}, knows=0.6, finds=0.7, adopts=0.9, misled=0.1, seed=1)
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
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import dspy
from dspy.lm15 import Message, Request, Response, Usage, response_to_events

from moa_dspy.errors import ConfigurationError

__all__ = ["Reply", "ScriptedLM", "SimulatedLM", "prompt_of"]

Reply: TypeAlias = str | Sequence[str] | Callable[[Request], str]

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
    be optimized. Its random draws depend only on `seed`, the request and the rollout id.

    - A proposal is right with probability `knows`, else it is one of the wrong answers.
    - A critique recognises with probability `finds` whether a peer's answer is right. It then suggests the right answer
      for a wrong one. Otherwise it suggests the critic's own answer if that differs.
    - A refinement of a wrong answer adopts a right suggestion with probability `adopts`. A refinement of a right answer
      adopts a wrong suggestion with probability `misled`.
    - An aggregate is the answer of most agents. Ties are broken at random.
    - A comparison for a gate says that answers say the same if they are equal.
    - A synthesis compares the newest answer with the one before it. If they differ, it recognises with probability
      `finds` which one is right, and otherwise takes the newest. If it is asked for the probability of an improvement,
      it gives 0.95 or 0.05 if it recognises the right answer, and 0.6 otherwise.

    Args:
        answers: the right answer of each task text. The longest text that occurs in the prompt counts.
        knows: a probability, or a function from the request to a probability, so that a prompt can matter.
        finds: a probability.
        adopts: a probability.
        misled: a probability.
        wrong: wrong answers to draw from; None means the right answers of the other tasks.
        seed: seed of the draws.
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
        knows: float | Callable[[Request], float] = 0.6,
        *,
        finds: float = 0.5,
        adopts: float = 0.8,
        misled: float = 0.2,
        wrong: Sequence[str] | None = None,
        seed: int = 0,
        model: str = "simulated/agent",
        latency: float = 0.0,
        **options: Any,
    ) -> None:
        chances = {"finds": finds, "adopts": adopts, "misled": misled, **({} if callable(knows) else {"knows": knows})}
        for name, chance in chances.items():
            if not (isinstance(chance, (int, float)) and 0 <= chance <= 1):
                raise ConfigurationError(f"{name}={chance!r} is not a probability; give a number from 0 to 1")
        simulation = _Simulation(dict(answers), knows, finds, adopts, misled, wrong, seed)
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
        return iter(response_to_events(self.complete(request)))

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
        for event in response_to_events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""


_ANSWER = re.compile(r"<answer[^>]*>\n(.*?)\n</answer>", re.DOTALL)
_CRITIQUE = re.compile(r"<critique[^>]*>\n(.*?)\n</critique>", re.DOTALL)
_SUGGESTION = re.compile(r"The answer should be: (.*?)\.(?:\s|$)", re.DOTALL)
_SURE, _LIKELY, _UNLIKELY = 0.95, 0.6, 0.05
_OUTPUT_FIELD = re.compile(r"^\d+\. `(\w+)`", re.MULTILINE)


@dataclass(frozen=True)
class _Simulation:
    """The behaviour of a simulated agent; the fields are the arguments of `SimulatedLM`."""

    answers: Mapping[str, str]
    knows: float | Callable[[Request], float]
    finds: float
    adopts: float
    misled: float
    wrong: Sequence[str] | None
    seed: int

    def reply(self, request: Request) -> str:
        """Return the reply of the requested role in the requested format."""
        probability, answer = self._play(request)
        return _formatted(request, answer, probability)

    def _play(self, request: Request) -> tuple[float | None, str]:
        """Return the probability of an improvement (only of a synthesis), and the answer or critique."""
        prompt = request.messages[-1].text or ""
        right, others = self._task(prompt)
        answers = [_core(text) for text in _ANSWER.findall(prompt)]
        fields = _asked_fields(request)
        of_own = "Own Answer:" in prompt and "Critiques:" not in prompt and len(answers) == 1
        if "critique" in fields or (not fields and ("Peer Answer:" in prompt or of_own)):
            return None, self._critique(request, right, answers)
        if "to_compare" in prompt or "To Compare:" in prompt:
            return None, "true" if len(set(answers)) == 1 else "false"
        if "improved" in fields:
            return self._synthesis(request, right, answers)
        if "Critiques:" in prompt or "[[ ## critiques ## ]]" in prompt:
            return None, self._refinement(request, right, answers[0], _CRITIQUE.findall(prompt))
        if "Candidate Answers:" in prompt or "[[ ## candidate_answers ## ]]" in prompt:
            return None, self._majority(request, answers)
        return None, self._proposal(request, right, others, answers)

    def _task(self, prompt: str) -> tuple[str, list[str]]:
        tasks = [task for task in self.answers if task in prompt]
        if not tasks:
            raise LookupError(f"the simulated agent knows no task in this prompt: {prompt[:200]!r}")
        right = self.answers[max(tasks, key=len)]
        wrong = sorted(set(self.wrong or self.answers.values()) - {right})
        return right, wrong or [f"not {right}"]

    def _proposal(self, request: Request, right: str, others: list[str], answers: list[str]) -> str:
        knows = self.knows(request) if callable(self.knows) else self.knows
        if self._chance(request, "knows") < knows:
            return right
        if answers:
            return answers[-1]  # the previous layer's output
        return others[int(self._chance(request, "wrong") * len(others))]

    def _critique(self, request: Request, right: str, answers: list[str]) -> str:
        own, peer = answers[0], answers[-1]
        if self._chance(request, "finds") < self.finds:
            suggestion = None if peer == right else right
        else:
            suggestion = None if peer == own else own
        if suggestion is None:
            return "Nothing needs to change."
        return f"The answer should be: {suggestion}. The reason is in the task."

    def _refinement(self, request: Request, right: str, own: str, critiques: list[str]) -> str:
        suggested = [suggestion for text in critiques for suggestion in _SUGGESTION.findall(text)]
        if own != right:
            return right if right in suggested and self._chance(request, "adopts") < self.adopts else own
        misleading = [suggestion for suggestion in suggested if suggestion != right]
        return misleading[0] if misleading and self._chance(request, "misled") < self.misled else own

    def _majority(self, request: Request, answers: list[str]) -> str:
        counts = Counter(answers)
        best = max(counts.values())
        winners = [answer for answer in counts if counts[answer] == best]
        return winners[int(self._chance(request, "tie") * len(winners))]

    def _synthesis(self, request: Request, right: str, answers: list[str]) -> tuple[float, str]:
        before, newest = answers[-2], answers[-1]
        if before == newest:
            return _UNLIKELY, before
        if self._chance(request, "finds") < self.finds:
            return (_SURE, newest) if newest == right else (_UNLIKELY, before)
        return _LIKELY, newest

    def _chance(self, request: Request, what: str) -> float:
        key = repr((self.seed, what, _rollout.get(), prompt_of(request))).encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big") / 2**56


def _asked_fields(request: Request) -> list[str]:
    """Return the output fields that DSPy's adapters ask for; none if the whole completion is the answer."""
    system = request.system if isinstance(request.system, str) else ""
    _, marker, outputs = system.partition("Your output fields are:")
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
    system = request.system if isinstance(request.system, str) else ""
    if not fields:
        return f"It follows from the task.\n#### {answer}" if "last line after ####" in system else answer
    values: dict[str, Any] = dict.fromkeys(fields, answer)
    if "reasoning" in fields:
        values["reasoning"] = "It follows from the task."
    if probability is not None:
        in_words = '"type": "noul"' not in system  # DSPy asks for yes or no, and not for a probability
        values["improved"] = probability >= 0.5 if in_words else {"noul": probability}
    if request.config.response_format is not None or "Outputs will be a JSON object" in system:  # DSPy's JSONAdapter
        return json.dumps(values, ensure_ascii=False)
    texts = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    blocks = [f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()]
    return "\n\n".join([*blocks, "[[ ## completed ## ]]"])
