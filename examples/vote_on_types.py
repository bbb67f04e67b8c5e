"""Typed outputs, self-consistency, and a program as a part of another DSPy module."""

from typing import Literal

import dspy

from moa_dspy import self_consistency
from moa_dspy.testing import ScriptedLM


class Triage(dspy.Signature):
    """Decide where a support ticket goes."""

    ticket: str = dspy.InputField()
    team: Literal["billing", "technical"] = dspy.OutputField()
    urgent: bool = dspy.OutputField()


class Support(dspy.Module):
    """Three samples of one model vote on each ticket."""

    def __init__(self, lm: dspy.LM) -> None:
        super().__init__()
        self.triage = self_consistency(Triage, lm, samples=3)

    def forward(self, ticket: str) -> dspy.Prediction:
        decision = self.triage(ticket=ticket)
        return dspy.Prediction(queue=f"{decision.team}{'-urgent' if decision.urgent else ''}")


def reply(team: str, urgent: bool) -> str:
    fields = {"reasoning": "It is about that.", "team": team, "urgent": urgent}
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items())


lm = ScriptedLM([reply("billing", True), reply("technical", True), reply("billing", True)], temperature=1.0)
print(Support(lm)(ticket="I was charged twice and cannot log in.").queue)
