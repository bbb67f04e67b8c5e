"""Proposals written by a DSPy module, such as ``dspy.ReAct`` with tools, on the agent's model.

Every call that the module makes goes through the step, like that of a predictor. So it is counted, budgeted and traced.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import dspy
from dspy.lm15 import Request

from moa_dspy.errors import ConfigurationError
from moa_dspy.runtime.adapters import lenient
from moa_dspy.runtime.lm_proxy import redirect
from moa_dspy.runtime.outputs import is_added

__all__ = ["ModulePredictor"]

_CHAT: Final = lenient(dspy.ChatAdapter())
_SETTINGS: Final = {"temperature": "temperature", "max_tokens": "max_tokens", "max_completion_tokens": "max_tokens"}


class ModulePredictor:
    """A module in place of the predictor that writes an agent's proposal.

    Args:
        module: takes the task's inputs and returns its outputs.
        predictor: the predictor of this role. It has no part in the call; a plan rehearses it.
        adapter: the adapter that DSPy is configured with.
        agent: name of the agent, for messages.
    """

    def __init__(self, module: dspy.Module, predictor: dspy.Predict, adapter: dspy.Adapter | None, agent: str) -> None:
        self.lm, self.signature, self.demos = predictor.lm, predictor.signature, predictor.demos
        self.fields: dict[str, Any] = {}  # no output is decided by its probability
        self._module, self._adapter, self._agent = module, adapter or _CHAT, agent

    async def acall(self, *, lm: Any, signature: Any, config: Mapping[str, Any], demos: Any, **inputs: Any) -> Any:
        """Run the module on the agent's model with the agent's settings, and return the task's outputs.

        Raises:
            ConfigurationError: if the module does not return all of them.
        """
        del demos
        redirect(lm, functools.partial(_configured, lm.acall, dict(config)))
        with dspy.context(lm=lm, adapter=self._adapter, trace=None):
            prediction = await self._module.acall(**inputs)
        outputs = {}
        for name, field in signature.output_fields.items():
            value = prediction.get(name) if isinstance(prediction, (dspy.Prediction, dict)) else None
            if value is None and not is_added(field):
                raise ConfigurationError(
                    f"the module of agent {self._agent!r} returned no {name!r}; it must take the task's inputs and "
                    f"return a dspy.Prediction with {', '.join(signature.output_fields)}"
                )
            outputs[name] = "" if value is None else value
        return dspy.Prediction(**outputs)


async def _configured(call: Any, config: dict[str, Any], *args: Any, **options: Any) -> Any:
    """Make a call with the agent's sampling settings, which the module's own predictors do not know."""
    if args and isinstance(args[0], Request):
        settings = {_SETTINGS[name]: value for name, value in config.items() if name in _SETTINGS}
        request = replace(args[0], config=replace(args[0].config, **settings))
        rollout = {"rollout_id": config["rollout_id"]} if "rollout_id" in config else {}
        return await call(request, *args[1:], **{**rollout, **options})
    return await call(*args, **{**config, **options})
