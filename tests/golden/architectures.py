"""Architectures whose prompts and call counts are pinned, and the recorder that pins them.

Run as a script to write the record: ``python tests/golden/architectures.py``. It uses public names only, so that one
version of the project can be compared with another.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import dspy

from moa_dspy import Agent, AttentionMoA, load, mixture_of_agents, self_consistency, self_moa, single_model
from moa_dspy.testing import ScriptedLM

HERE = Path(__file__).parent
RECORD = HERE / "prompts.json"
PROGRAMS = HERE / "programs"


class RecordingLM(ScriptedLM):
    """Replies by a digest of the prompt, in whatever format it asks for, and keeps each request with its rollout."""

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(reply, model, **options)
        self.rollouts: list[int | None] = []
        self._guard = threading.Lock()

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        with self._guard:
            self.rollouts.append(kwargs.get("rollout_id", self.kwargs.get("rollout_id")))
        return await super().acall(*args, **kwargs)


WORDS = {"a whole": "7", "a number": "2.5", "one of": "positive"}
VALUES = {"bool": "True", "int": "7", "float": "2.5", "Literal": "positive", "list": '["a", "b"]'}


def reply(request: Any) -> str:
    prompt = json.dumps(as_data(request), sort_keys=True)
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    text = request.messages[-1].text or ""
    line = re.search(r"[Ww]rite (?:only )?the \w+, (a \w+|one of)", text)
    if line is not None:
        return f"text {digest}\n#### {WORDS[line[1]]}"
    asked = re.search(r"Respond with the corresponding output fields, (.*)", text, re.DOTALL)
    if asked is None:
        return f"text {digest}"
    fields = re.findall(r"`\[\[ ## (\w+) ## \]\]`(?: \(must be formatted as a valid Python (\w+))?", asked[1])
    lines = [f"[[ ## {name} ## ]]\n{VALUES.get(kind, 'text ' + digest)}" for name, kind in fields]
    return "\n\n".join(lines)


def as_data(request: Any) -> dict[str, Any]:
    config = {name: getattr(request.config, name) for name in ("max_tokens", "temperature", "top_p", "stop", "seed")}
    return {
        "model": request.model,
        "system": request.system,
        "messages": [[message.role, message.text] for message in request.messages],
        "config": {name: value for name, value in config.items() if value not in (None, ())},
    }


class Sentiment(dspy.Signature):
    """Say how the writer feels about the product."""

    review: str = dspy.InputField(desc="a customer's words")
    product: str = dspy.InputField()
    sentiment: Literal["positive", "negative"] = dspy.OutputField(desc="of the writer")


class Extract(dspy.Signature):
    """Find what the text is about."""

    text: str = dspy.InputField()
    topics: list[str] = dspy.OutputField()
    title: str = dspy.OutputField(desc="at most eight words")
    count: int = dspy.OutputField()


class Chat(dspy.Signature):
    """Go on with the conversation."""

    history: dspy.History = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Document(dspy.Signature):
    """Answer from the document."""

    document: str = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


LONG = {"document": "All work and no play. " * 300, "question": "What is it about?"}
QUESTION = {"question": "Which is larger, <b>9.9</b> or 9.11?"}
REVIEW = {"review": "I love it.", "product": "kettle"}
TEXT = {"text": "Ada wrote the first program.\nIt computed numbers."}
TURNS: Any = dspy.History(messages=[{"question": "Hello?", "answer": "Hi."}, {"question": "Name?", "answer": "Moa."}])
DEMOS = [dspy.Example(question="1 + 1?", answer="2").with_inputs("question")]


def lms(count: int) -> list[RecordingLM]:
    return [RecordingLM(f"golden/m{number}") for number in range(count)]


def architectures() -> dict[str, tuple[AttentionMoA, dict[str, Any]]]:
    """Name to program and the inputs it is run on."""
    a, b, c, d, e = lms(5)
    personas = [
        Agent(a, name="critic", temperature=0.9, persona="You doubt every number."),
        Agent(a, temperature=0.2),
        Agent(b, max_tokens=300),
    ]
    demonstrated = AttentionMoA("question -> answer", [a, b], layers=2)
    demonstrated.named_predictors()[0][1].demos = list(DEMOS)
    own_prompts = AttentionMoA("question -> answer", [a, b], layers=2, shared_prompts=False)
    sailor: Any = own_prompts.named_predictors()[1][1]
    sailor.signature = sailor.signature.with_instructions("Answer like a sailor.")
    return {
        "full-2x2": (AttentionMoA("question -> answer", [a, b], layers=2), QUESTION),
        "full-5x1": (AttentionMoA("question -> answer", [a, b, c, d, e], layers=1), QUESTION),
        "full-3x3": (AttentionMoA("question -> answer", [a, b, c], layers=3), QUESTION),
        "same-model": (AttentionMoA("question -> answer", [a, a, a], layers=2), QUESTION),
        "cross": (AttentionMoA("question -> answer", [a, b, c], layers=2, attention="cross"), QUESTION),
        "self": (AttentionMoA("question -> answer", [a, b], layers=2, attention="self"), QUESTION),
        "none": (AttentionMoA("question -> answer", [a, b, c], layers=2, attention="none"), QUESTION),
        "two-peers": (AttentionMoA("question -> answer", [a, b, c, d], layers=3, attention=2), QUESTION),
        "no-residual": (AttentionMoA("question -> answer", [a, b], layers=3, residual="none"), QUESTION),
        "no-early-stop": (AttentionMoA("question -> answer", [a, b], layers=3, early_stop=False), QUESTION),
        "personas": (AttentionMoA("question -> answer", personas, layers=2, aggregator=Agent(c, "chair")), QUESTION),
        "own-prompts": (own_prompts, QUESTION),
        "demos": (demonstrated, QUESTION),
        "typed": (AttentionMoA("question -> answer: float", [a, b], layers=2), QUESTION),
        "typed-vote": (AttentionMoA("question -> answer: int", [a, b, c], layers=1, aggregation="vote"), QUESTION),
        "literal": (AttentionMoA(Sentiment, [a, b], layers=2, reasoning=False), REVIEW),
        "long-input": (AttentionMoA(Document, [a, b], layers=2), LONG),
        "several-outputs": (AttentionMoA(Extract, [a, b], layers=2), TEXT),
        "conversation": (AttentionMoA(Chat, [a, b], layers=2), {"history": TURNS, "question": "And now?"}),
        "single": (single_model("question -> answer", a), QUESTION),
        "self-consistency": (self_consistency("question -> answer: float", a, samples=3), QUESTION),
        "self-moa": (self_moa("question -> answer", a, samples=3), QUESTION),
        "moa-aggregates": (
            AttentionMoA("question -> answer", [a, b, c], layers=2, attention="none", residual="none"),
            QUESTION,
        ),
        "moa": (mixture_of_agents("question -> answer", [a, b, c]), QUESTION),
        "self-moa-windows": (self_moa("question -> answer", a, samples=5, window=4), QUESTION),
    }


def of(program: AttentionMoA) -> list[Any]:
    agents = [*program.agents, *([program.aggregator] if program.aggregator else [])]
    return list({id(agent.lm): agent.lm for agent in agents}.values())


def record(program: AttentionMoA, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run the program and return what reached the models: prompts in canonical order, rollouts, calls by stage."""
    models = of(program)
    for lm in models:
        lm.requests.clear()
        lm.rollouts.clear()
    trace = program(**inputs).trace
    prompts = sorted(json.dumps(as_data(request), sort_keys=True) for lm in models for request in lm.requests)
    return {
        "prompts": [hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts],
        "first": prompts[0],
        "rollouts": sorted(str(rollout) for lm in models for rollout in lm.rollouts),
        "calls": dict(sorted(Counter(step.stage for step in trace.steps for _ in range(step.calls)).items())),
        "planned": program.architecture.max_calls,
        "stopped_by": trace.stopped_by,
    }


def loaded(path: Path) -> AttentionMoA:
    """Load a program file with recording models in place of those it names."""
    names = set(re.findall(r"golden/m\d", path.read_text()))
    return load(path, lms={name: RecordingLM(name) for name in names})


def write() -> None:
    record_of = {}
    for name, (program, inputs) in architectures().items():
        record_of[name] = record(program, inputs)
        if not (PROGRAMS / f"{name}.json").exists():  # files of older versions stay
            program.save(PROGRAMS / f"{name}.json")
    RECORD.write_text(json.dumps(record_of, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
