"""The programs of a server as models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openai.types import Model

from moa_dspy.program import AttentionMoA
from moa_dspy.serve.problems import Problem
from moa_dspy.serve.programs import facts_of

__all__ = ["Served"]


@dataclass
class Served:
    """The programs of a server.

    Args:
        programs: by name.
    """

    programs: Mapping[str, AttentionMoA]
    created: int = field(default_factory=lambda: int(time.time()))
    _facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def find(self, model: str) -> tuple[str, AttentionMoA]:
        """Return the name and the program of a model, with or without ``moa/``.

        Raises:
            Problem: if there is none.
        """
        name = model.removeprefix("moa/")
        if name not in self.programs:
            known = ", ".join(f"moa/{each}" for each in self.programs)
            raise Problem(f"there is no model {model[:100]!r}; there are: {known}", 404, code="model_not_found")
        return name, self.programs[name]

    async def model(self, name: str) -> dict[str, Any]:
        """Return a program as a model in OpenAI's format, with what is known about it."""
        if name not in self._facts:
            self._facts[name] = await asyncio.to_thread(facts_of, self.programs[name])
        facts = self._facts[name]
        return Model(id=f"moa/{name}", created=self.created, object="model", owned_by="moa-dspy", **facts).to_dict()
