"""Share of the prompts that repeats what the same model has read before, for a question about a long document.

    uv run python -m benchmarks.shared_prefix

A provider can answer that share from its cache, if the calls follow one another and it keeps prefixes of at least 4,096
characters. Both orders of the prompt are measured on the same program and the same answers: instructions first, as
DSPy's adapters write them, and inputs first, as this package writes long inputs. The cost counts prompts alone, with
what was read before at a tenth of the price.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import dspy

from benchmarks.common import arguments, table
from moa_dspy import AttentionMoA, mixture_of_agents
from moa_dspy.runtime import formats
from moa_dspy.runtime.shared_prefix import SHARED_FROM
from moa_dspy.testing import ScriptedLM, prompt_of

_CACHED = 0.1


class Ask(dspy.Signature):
    """Answer from the document."""

    document: str = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Judge(dspy.Signature):
    """Say whether the document supports the claim."""

    document: str = dspy.InputField()
    claim: str = dspy.InputField()
    verdict: Literal["yes", "no"] = dspy.OutputField()


class Extract(dspy.Signature):
    """Find the people in the document, and its title."""

    document: str = dspy.InputField()
    people: list[str] = dspy.OutputField()
    title: str = dspy.OutputField()


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print a table, and return the share of each row with inputs first."""
    options = arguments(__doc__, argv, agents=5, layers=3, document=40_000, answer=800)
    document = " ".join(f"sentence {number} of the document." for number in range(options.document))[: options.document]
    rows, shares = [("program", "order", "prompt characters", "read before", "cost of prompts")], dict[str, float]()
    for name, program, inputs in _programs(options, document):
        for order, first in (("instructions first", False), ("inputs first", True)):
            prompts = _prompts(program, inputs, inputs_first=first)
            total = sum(len(prompt) for _, prompt in prompts)
            share = sum(_read_before(prompts)) / total
            cost = 1 - share * (1 - _CACHED)
            rows.append((name, order, f"{total:,}", f"{share:.1%}", f"{cost:.1%}"))
            shares[name] = share
    table(rows)
    return shares


def _programs(options: Any, document: str) -> list[tuple[str, AttentionMoA, dict[str, Any]]]:
    def models(count: int) -> list[ScriptedLM]:
        made = [ScriptedLM(_reply(options.answer), f"model/{i}", temperature=1.0) for i in range(count)]
        return made if count > 1 else made * options.agents

    ask = {"document": document, "question": "What does the document say about sentence 7?"}
    judge = {"document": document, "claim": "The document has a sentence 7."}
    n, layers = options.agents, options.layers
    return [
        (f"{n} models", AttentionMoA(Ask, models(n), layers=layers), ask),
        (f"one model, {n} times", AttentionMoA(Ask, models(1), layers=layers), ask),
        (f"{n} models, typed answer", AttentionMoA(Judge, models(n), layers=layers), judge),
        (f"{n} models, several outputs", AttentionMoA(Extract, models(n), layers=layers), {"document": document}),
        (f"MoA, {n} models", mixture_of_agents(Ask, models(n), layers=layers), ask),
    ]


def _reply(length: int) -> Any:
    def reply(request: Any) -> str:
        prompt, text = prompt_of(request), f"{abs(hash(request)) % 10**6} ".ljust(length, "x")
        if "[[ ## people ## ]]" in prompt and "[[ ## critique ## ]]" not in prompt:
            improved = "[[ ## improved ## ]]\nTrue\n\n" if "[[ ## improved ## ]]" in prompt else ""
            return (
                f"[[ ## reasoning ## ]]\n{text}\n\n{improved}[[ ## people ## ]]\n['Ada']\n\n[[ ## title ## ]]\nA title"
            )
        if "[[ ## improved ## ]]" in prompt:
            outputs = "verdict" if "[[ ## verdict ## ]]" in prompt else "answer"
            value = "yes" if outputs == "verdict" else text
            return f"[[ ## reasoning ## ]]\n{text}\n\n[[ ## improved ## ]]\nTrue\n\n[[ ## {outputs} ## ]]\n{value}"
        return f"{text}\n#### yes" if "####" in prompt else text

    return reply


def _prompts(program: AttentionMoA, inputs: dict[str, Any], *, inputs_first: bool) -> list[tuple[str, str]]:
    """Return the prompts of a run by model, in an order in which calls can follow one another."""
    lms: dict[int, Any] = {id(agent.lm): agent.lm for agent in program.agents}
    adapters: list[Any] = [formats._PLAIN, formats._LINE, formats._CHAT, formats._JSON]
    before = [adapter.inputs_first for adapter in adapters]
    try:
        for adapter in adapters:
            adapter.inputs_first = inputs_first
        for lm in lms.values():
            lm.requests.clear()
        program(**inputs)
    finally:
        for adapter, value in zip(adapters, before, strict=True):
            adapter.inputs_first = value
    return [(lm.model, prompt_of(request)) for lm in lms.values() for request in lm.requests]


def _read_before(prompts: Sequence[tuple[str, str]]) -> list[int]:
    """Return for each prompt the characters of its longest beginning that the same model has read before."""
    read: dict[str, list[str]] = {}
    lengths = []
    for model, prompt in prompts:
        earlier = read.setdefault(model, [])
        longest = max((_common(prompt, other) for other in earlier), default=0)
        lengths.append(longest if longest >= SHARED_FROM else 0)
        earlier.append(prompt)
    return lengths


def _common(one: str, other: str) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


if __name__ == "__main__":
    main()
