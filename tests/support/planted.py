"""Simulated tasks in which a planted instruction, demo or threshold matters, for tests of prompt optimizers."""

from __future__ import annotations

import json
import re
from typing import Any

import dspy

from moa_dspy import AttentionMoA
from moa_dspy.testing import ScriptedLM, SimulatedLM, prompt_of

PHRASE = "Count in dozens."
PRODUCTS = {f"What is {a} times {b}?": str(a * b) for a in range(2, 14) for b in range(2, 14)}
DEMO = re.compile(r"What is \d+ times \d+\?")


def examples(start: int, stop: int) -> list[dspy.Example]:
    """A slice of the task, mixed well and always the same."""
    order = sorted(PRODUCTS.items(), key=lambda item: (hash_of(item[0]), item))
    return [dspy.Example(question=q, answer=a).with_inputs("question") for q, a in order[start:stop]]


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode(), "big") * 2654435761 % 2**31


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.answer == prediction.answer)


def told(request: Any) -> float:
    """Skill of an agent that needs the planted instruction."""
    return 0.9 if PHRASE in prompt_of(request) else 0.35


def shown(request: Any) -> float:
    """Skill of an agent that needs an example of the task: another question than the one that is asked."""
    return 0.9 if len(set(DEMO.findall(prompt_of(request)))) > 1 else 0.35


def either(request: Any) -> float:
    return max(told(request), shown(request))


def agents(knows: Any = told, count: int = 3, **options: Any) -> list[dspy.BaseLM]:
    """Agents on different models, whose skill depends on their prompt."""
    skill: dict[str, Any] = {"finds": 0.4, "adopts": 0.7, "misled": 0.1, "temperature": 0.7, **options}
    return [
        SimulatedLM(PRODUCTS, knows, seed=seed, model=f"simulated/{'abcde'[seed]}", **skill) for seed in range(count)
    ]


def critics(**options: Any) -> list[dspy.BaseLM]:
    """Agents that find errors only with the planted instruction: critics and their prompt matter together."""
    return agents(0.5, **{"finds": lambda request: 0.8 * (PHRASE in prompt_of(request)), "adopts": 0.9, **options})


def program_of(lms: Any, **options: Any) -> AttentionMoA:
    return AttentionMoA("question -> answer", lms, **{"layers": 1, "attention": "none", **options})


IDEAS = ["Answer at once.", "Be brief and polite.", PHRASE, "Think of fruit.", "Write in capitals."]


def writer(**options: Any) -> ScriptedLM:
    """A model that writes instructions, the planted one among them, in whatever format it is asked."""
    count = iter(range(10**6))

    def reply(request: Any) -> str:
        number = next(count)
        fields = asked_fields(request)
        values = {name: value_of(name, kind, IDEAS[number % len(IDEAS)], request) for name, kind in fields.items()}
        return written(values, as_json=wants_json(request))

    return ScriptedLM(reply, "scripted/writer", **{"temperature": 1.0, "cache": True, **options})


def system_of(request: Any) -> str:
    return request.system if isinstance(request.system, str) else ""


def wants_json(request: Any) -> bool:
    return "Outputs will be a JSON object" in system_of(request)


def asked_fields(request: Any) -> dict[str, str]:
    _, _, outputs = system_of(request).partition("Your output fields are:")
    return dict(re.findall(r"^\d+\. `(\w+)` \(([^)]*)\)", outputs.partition("All interactions")[0], re.MULTILINE))


def value_of(name: str, kind: str, idea: str, request: Any) -> Any:
    if kind.startswith("dict"):
        names = re.findall(r"Module (\w+(?:\[\d+\])?)", prompt_of(request))
        return dict.fromkeys(names, idea)
    return "" if "prefix" in name else idea


def written(values: dict[str, Any], *, as_json: bool) -> str:
    if as_json:
        return json.dumps(values)
    text = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    blocks = [f"[[ ## {name} ## ]]\n{value}" for name, value in text.items()]
    return "\n\n".join([*blocks, "[[ ## completed ## ]]"])


def cautious_program(count: int = 60, **options: Any) -> tuple[AttentionMoA, list[dspy.Example]]:
    """Two layers and a synthesis that thinks too little of the second.

    Of odd tasks the second layer is right, and the synthesis gives that a probability of 0.4; of even tasks the first
    one is, and the probability is 0.1. Asked for yes or no it always says no.
    """
    tasks = [dspy.Example(question=f"Task {n}.", answer=f"answer {n}").with_inputs("question") for n in range(count)]

    def reply(request: Any) -> str:
        prompt = request.messages[-1].text or ""
        found = re.search(r"Task (\d+)\.", prompt)
        number = int(found.group(1)) if found else 0
        second_is_right = number % 2 == 1
        fields = asked_fields(request)
        if "improved" in fields:
            probability = 0.4 if second_is_right else 0.1
            decision: Any = "False" if fields["improved"] == "bool" else {"noul": probability}
            answer = f"answer {number}" if second_is_right else "wrong"
            return written({"improved": decision, "answer": answer}, as_json=wants_json(request))
        if "Candidate Answers:" in prompt or "## candidate_answers ##" in prompt:
            answer = re.findall(r"<answer[^>]*>\n(.*?)\n</answer>", prompt, re.DOTALL)[0]
        else:
            improving = "Previous Answer:" in prompt or "## previous_answer ##" in prompt
            answer = f"answer {number}" if improving == second_is_right else "wrong"
        return written({"answer": answer}, as_json=wants_json(request)) if fields else answer

    lms = [ScriptedLM(reply, f"scripted/{name}", cache=True) for name in "ab"]
    return program_of(lms, layers=2, **options), tasks
