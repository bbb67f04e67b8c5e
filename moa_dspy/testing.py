"""Language models for tests: scripted ones, and simulated agents of known skill.

Both sit behind the ordinary ``dspy.LM`` interface, at the edge where a provider would be, so all of DSPy and of this
package runs for real above them. Nothing here opens a connection.

    lm = ScriptedLM("Paris")                                    # always the same reply
    lm = ScriptedLM(lambda request: request.messages[-1].text)  # a reply computed from the request
    lm = SimulatedLM({"2 + 2": "4"}, knows=0.6, finds=0.7, adopts=0.9, misled=0.1, seed=1)
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import dspy
from dspy.lm15 import Message, Request, Response, Usage, response_to_events

from moa_dspy.errors import ConfigurationError

__all__ = ["Reply", "ScriptedLM", "SimulatedLM", "prompt_of"]

Reply: TypeAlias = str | Sequence[str] | Callable[[Request], str]

_rollout: contextvars.ContextVar[int | None] = contextvars.ContextVar("moa_dspy_testing_rollout", default=None)


def prompt_of(request: Request) -> str:
    """Return everything a request says, as one text: system message, then the turns."""
    system = request.system if isinstance(request.system, str) else ""
    return "\n\n".join([system, *(message.text or "" for message in request.messages)])


class ScriptedLM(dspy.LM):
    """A language model that replies as told.

    Args:
        reply: a text; a sequence of texts, given out in order of arrival and then again the last; or a function from
            the request to the text. A function may raise, which is what a failing provider looks like.
        model: the name under which it appears in traces.
        latency: seconds that each call takes; calls overlap.
        **options: as for ``dspy.LM``; ``cache`` is off unless switched on.

    Attributes:
        requests: every request that reached the model, in order of arrival.

    Raises:
        ConfigurationError: the sequence of texts is empty.
    """

    def __init__(self, reply: Reply, model: str = "scripted/model", latency: float = 0.0, **options: Any) -> None:
        if not (isinstance(reply, str) or callable(reply) or reply):
            raise ConfigurationError(f"ScriptedLM({reply!r}) has nothing to reply; give at least one text")
        script = _Script(reply, latency)
        super().__init__(model, engine=script, async_engine=_AsyncScript(script), **{"cache": False, **options})
        self.requests = script.requests


class SimulatedLM(ScriptedLM):
    """An agent whose skill is known, for tasks with one right answer.

    It recognises the roles of ``moa_dspy.signatures`` by what it is shown, not by its instructions, so prompts may be
    optimized. Its draws depend on nothing but ``seed``, the request and the rollout id.

    - An answer is right with probability ``knows``, else one of the wrong ones.
    - As a critic it sees whether a peer's answer is right with probability ``finds``; of a wrong one it then names the
      right answer. When it does not see, it suggests its own answer wherever that differs.
    - A refinement takes over a right suggestion with probability ``adopts`` (where its own answer is wrong) and a wrong
      one with probability ``misled`` (where its own is right).
    - An aggregate is the answer that most agents gave; of equally many, one at random. A synthesis finds an improvement
      where the newest answer differs from the one before it, and sees with probability ``finds`` which is right.
      Asked how likely an improvement is, it is sure of what it sees (0.95 or 0.05), and says 0.6 where it does not see.

    Args:
        answers: task text (found anywhere in the prompt) to its right answer; the longest text found counts.
        knows: probability, 0 to 1; or a function from the request to it, so that a prompt can matter.
        finds: probability.
        adopts: probability.
        misled: probability.
        wrong: wrong answers to pick from; default: the right answers of the other tasks.
        seed: of the draws.
        model: name in traces.
        latency: seconds for each call.
        **options: as for ``dspy.LM``. With ``cache=True`` answers come from DSPy's cache, which knows a model by its
            name: an agent of another skill needs another name.

    Raises:
        ConfigurationError: one of the probabilities is none.
    """

    def __init__(
        self,
        answers: Mapping[str, str],
        knows: float | Callable[[Request], float] = 0.6,
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
        mind = _Mind(dict(answers), knows, finds, adopts, misled, wrong, seed)
        super().__init__(mind.reply, model=model, latency=latency, **{"temperature": 1.0, **options})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model; the rollout id takes part in the draws."""
        token = _rollout.set(kwargs.get("rollout_id", self.kwargs.get("rollout_id")))
        try:
            return super().__call__(*args, **kwargs)
        finally:
            _rollout.reset(token)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model; the rollout id takes part in the draws."""
        token = _rollout.set(kwargs.get("rollout_id", self.kwargs.get("rollout_id")))
        try:
            return await super().acall(*args, **kwargs)
        finally:
            _rollout.reset(token)


class _Script:
    """The engine behind ``ScriptedLM``: a provider that needs no connection."""

    def __init__(self, reply: Reply, latency: float) -> None:
        self.requests: list[Request] = []
        self._reply = reply
        self._latency = latency
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Script:
        return self

    def complete(self, request: Request) -> Response:
        time.sleep(self._latency)
        return self.answer(request)

    def stream(self, request: Request) -> Iterator[Any]:
        return iter(response_to_events(self.complete(request)))

    def close(self) -> None:
        """There is nothing to close."""

    async def later(self, request: Request) -> Response:
        await asyncio.sleep(self._latency)
        return self.answer(request)

    def answer(self, request: Request) -> Response:
        with self._lock:
            turn = len(self.requests)
            self.requests.append(request)
        text = self._text(request, turn)
        prompt, completion = len(prompt_of(request).split()), len(text.split())
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(text),
            finish_reason="stop",
            usage=Usage(input_tokens=prompt, output_tokens=completion),
        )

    def _text(self, request: Request, turn: int) -> str:
        if isinstance(self._reply, str):
            return self._reply
        if callable(self._reply):
            return self._reply(request)
        return self._reply[min(turn, len(self._reply) - 1)]


class _AsyncScript:
    def __init__(self, script: _Script) -> None:
        self._script = script

    def __deepcopy__(self, memo: dict[int, Any]) -> _AsyncScript:
        return self

    async def complete(self, request: Request) -> Response:
        return await self._script.later(request)

    async def stream(self, request: Request) -> Any:
        for event in response_to_events(await self._script.later(request)):
            yield event

    async def aclose(self) -> None:
        """There is nothing to close."""


_ANSWER = re.compile(r"<answer[^>]*>\n(.*?)\n</answer>", re.DOTALL)
_CRITIQUE = re.compile(r"<critique[^>]*>\n(.*?)\n</critique>", re.DOTALL)
_SUGGESTION = re.compile(r"The answer should be: (.*?)\.(?:\s|$)", re.DOTALL)
_SURE, _LIKELY, _UNLIKELY = 0.95, 0.6, 0.05
_OUTPUT_FIELD = re.compile(r"^\d+\. `(\w+)`", re.MULTILINE)


class _Mind:
    """What a simulated agent makes of a request."""

    def __init__(
        self,
        answers: dict[str, str],
        knows: float | Callable[[Request], float],
        finds: float,
        adopts: float,
        misled: float,
        wrong: Sequence[str] | None,
        seed: int,
    ) -> None:
        self._answers = answers
        self._knows, self._finds, self._adopts, self._misled = knows, finds, adopts, misled
        self._wrong = wrong
        self._seed = seed

    def reply(self, request: Request) -> str:
        """Play the role that the request shows, and write in the format that it asks for."""
        likely, answer = self._play(request)
        return _written(request, answer, likely)

    def _play(self, request: Request) -> tuple[float | None, str]:
        """Return the answer or critique, and before it how likely an improvement is, in the one role that decides."""
        prompt = request.messages[-1].text or ""
        right, others = self._task(prompt)
        shown = [_core(text) for text in _ANSWER.findall(prompt)]
        fields = _asked_fields(request)
        if "critique" in fields or (not fields and _asks_for_critique(prompt, shown)):
            return None, self._critique(request, right, shown)
        if "improved" in fields:
            return self._synthesis(request, right, shown)
        if "Critiques:" in prompt or "[[ ## critiques ## ]]" in prompt:
            return None, self._refinement(request, right, shown[0], _CRITIQUE.findall(prompt))
        if "Candidate Answers:" in prompt or "[[ ## candidate_answers ## ]]" in prompt:
            return None, self._majority(request, shown)
        return None, self._proposal(request, right, others, shown)

    def _task(self, prompt: str) -> tuple[str, list[str]]:
        found = [task for task in self._answers if task in prompt]
        if not found:
            raise LookupError(f"the simulated agent knows no task in this prompt: {prompt[:200]!r}")
        right = self._answers[max(found, key=len)]
        wrong = sorted(set(self._wrong or self._answers.values()) - {right})
        return right, wrong or [f"not {right}"]

    def _proposal(self, request: Request, right: str, others: list[str], shown: list[str]) -> str:
        knows = self._knows(request) if callable(self._knows) else self._knows
        if self._chance(request, "knows") < knows:
            return right
        if shown:
            return shown[-1]  # it has nothing better than the previous layer's output
        return others[int(self._chance(request, "wrong") * len(others))]

    def _critique(self, request: Request, right: str, shown: list[str]) -> str:
        own, peer = shown[0], shown[-1]
        if self._chance(request, "finds") < self._finds:
            suggestion = None if peer == right else right
        else:
            suggestion = None if peer == own else own
        if suggestion is None:
            return "Nothing needs to change."
        return f"The answer should be: {suggestion}. The reason is in the task."

    def _refinement(self, request: Request, right: str, own: str, critiques: list[str]) -> str:
        suggested = [found for text in critiques for found in _SUGGESTION.findall(text)]
        if own != right:
            return right if right in suggested and self._chance(request, "adopts") < self._adopts else own
        misleading = [suggestion for suggestion in suggested if suggestion != right]
        return misleading[0] if misleading and self._chance(request, "misled") < self._misled else own

    def _majority(self, request: Request, shown: list[str]) -> str:
        counts = Counter(shown)
        best = max(counts.values())
        winners = [answer for answer in counts if counts[answer] == best]
        return winners[int(self._chance(request, "tie") * len(winners))]

    def _synthesis(self, request: Request, right: str, shown: list[str]) -> tuple[float, str]:
        before, newest = shown[-2], shown[-1]
        if before == newest:
            return _UNLIKELY, before
        if self._chance(request, "finds") < self._finds:
            return (_SURE, newest) if newest == right else (_UNLIKELY, before)
        return _LIKELY, newest

    def _chance(self, request: Request, what: str) -> float:
        key = repr((self._seed, what, _rollout.get(), prompt_of(request))).encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big") / 2**56


def _asked_fields(request: Request) -> list[str]:
    """The output fields that DSPy's adapters ask for; none where the completion itself is the answer."""
    system = request.system if isinstance(request.system, str) else ""
    _, found, outputs = system.partition("Your output fields are:")
    return _OUTPUT_FIELD.findall(outputs.partition("All interactions")[0]) if found else []


def _asks_for_critique(prompt: str, shown: list[str]) -> bool:
    if "Peer Answer:" in prompt:
        return True
    return "Own Answer:" in prompt and "Critiques:" not in prompt and len(shown) == 1


def _core(text: str) -> str:
    """The answer in what another agent wrote: its last ``answer: ...`` line, or all of it."""
    lines = [line.partition(": ")[2] for line in text.splitlines() if ": " in line]
    value = lines[-1] if lines and text.startswith("reasoning: ") else text
    try:
        return str(json.loads(value))
    except ValueError:
        return value.strip()


def _wants_json(request: Request) -> bool:
    """Whether the request asks for one JSON object: in its options, or in the words of DSPy's JSONAdapter."""
    system = request.system if isinstance(request.system, str) else ""
    return request.config.response_format is not None or "Outputs will be a JSON object" in system


def _asks_for_probability(request: Request) -> bool:
    """Whether DSPy asks for the probability that a decision is yes, instead of yes or no."""
    return isinstance(request.system, str) and '"type": "noul"' in request.system


def _written(request: Request, answer: str, likely: float | None) -> str:
    fields = _asked_fields(request)
    if not fields:
        return answer
    values: dict[str, Any] = dict.fromkeys(fields, answer)
    if "reasoning" in fields:
        values["reasoning"] = "It follows from the task."
    if likely is not None:
        values["improved"] = {"noul": likely} if _asks_for_probability(request) else likely >= 0.5
    if _wants_json(request):
        return json.dumps(values, ensure_ascii=False)
    texts = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    blocks = [f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()]
    return "\n\n".join([*blocks, "[[ ## completed ## ]]"])
