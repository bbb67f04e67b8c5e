"""Replies of the model that writes prompts: an unreadable one costs a candidate, not the optimization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import dspy
from dspy.utils.exceptions import AdapterParseError, LMError

from moa_dspy._dspy import last_prefix, postprocess, with_postprocess
from moa_dspy.errors import PromptModelInterruptError
from moa_dspy.evaluation.scoring import failure_of
from moa_dspy.runtime.failures import programming_error

__all__ = ["PromptModelAdapter"]

Outputs: TypeAlias = list[dict[str, Any]]

_PATIENCE: Final = 3
"""The optimizer ends if this many replies fail before any proposal could be read: their cause is probably the model."""

_PROPOSALS: Final = frozenset({"proposed_instruction", "new_instruction"})
"""Outputs that are new instructions. Without one of them, an optimizer has nothing to try."""


class PromptModelAdapter(dspy.Adapter):
    """Adapter of the calls that DSPy's optimizers make to the model that writes prompts.

    If a completion cannot be read, it is left out, and ``failures`` notes it. If no completion of a call can be read,
    or the call fails, the current instruction takes its place where the call shows it. Else the error is raised, and
    DSPy does without. ``of_programs`` is the adapter that the caller configured, which programs use.
    """

    def __init__(
        self, inner: dspy.Adapter, program: dspy.Module, failures: list[str], of_programs: dspy.Adapter | None = None
    ) -> None:
        super().__init__()
        self.of_programs = of_programs
        self._inner, self._program, self._failures = inner, program, failures
        self._proposals = self._failed = 0

    def __call__(
        self,
        lm: Any,
        lm_kwargs: dict[str, Any],
        signature: Any,
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> Outputs:
        """Call the model; see ``dspy.Adapter``.

        Raises:
            PromptModelInterruptError: if the first replies with proposals all fail.
        """
        proposes = not _PROPOSALS.isdisjoint(signature.output_fields)
        try:
            outputs = self._filled(
                signature, with_postprocess(self._inner, self._readable)(lm, lm_kwargs, signature, demos, inputs)
            )
        except (AdapterParseError, LMError) as error:
            bug = programming_error(error)
            if bug is not None:
                raise bug from error
            self._note(error)
            self._failed += proposes
            if not self._proposals and self._failed >= _PATIENCE:
                raise PromptModelInterruptError(self._failures[-1]) from error
            current = self._current(signature, inputs)
            if current is None:
                raise
            return [current]
        self._proposals += proposes
        return outputs

    async def acall(
        self,
        lm: Any,
        lm_kwargs: dict[str, Any],
        signature: Any,
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> Outputs:
        """Call the model as the configured adapter does. DSPy's optimizers make no asynchronous calls."""
        outputs: Outputs = await self._inner.acall(lm, lm_kwargs, signature, demos, inputs)
        return outputs

    def _readable(self, processed: Any, original: Any, outputs: list[Any], lm: Any, lm_kwargs: dict[str, Any]) -> Any:
        """Parse each completion on its own. Raise only if none can be read."""
        values: Outputs = []
        errors: list[AdapterParseError] = []
        for output in outputs:
            try:
                parsed = postprocess(self._inner, processed, original, [output], lm, lm_kwargs)
                values += self._filled(original, parsed)
            except AdapterParseError as error:
                errors.append(error)
        if errors and not values:
            raise errors[0]
        for left_out in errors:
            self._note(left_out)
        return values

    def _filled(self, signature: Any, outputs: Outputs) -> Outputs:
        """Return the outputs whose proposal is not empty. Raise if there are none."""
        filled = [one for one in outputs if all(str(one[name] or "").strip() for name in _PROPOSALS & one.keys())]
        if not filled:
            raise AdapterParseError(
                adapter_name=type(self._inner).__name__,
                signature=signature,
                lm_response=str(outputs),
                message="The proposed instruction is empty.",
            )
        return filled

    def _note(self, error: Exception) -> None:
        self._failures.append(failure_of(error, "a reply of the prompt model was left out: ").message)

    def _current(self, signature: Any, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the instruction and prefix that a call is to improve, as its outputs; None if it shows none."""
        values: dict[str, Any] = {}
        if "basic_instruction" in inputs:
            instruction = inputs["basic_instruction"]
            values = {
                "proposed_instruction": instruction,
                "proposed_prefix_for_output_field": last_prefix(self._program, instruction),
            }
        elif inputs.get("attempted_instructions"):  # each with its prefix and its score; the best one is the last
            instruction, prefix, _ = (text.partition(": ")[2] for text in inputs["attempted_instructions"][-3:])
            values = {"proposed_instruction": instruction, "proposed_prefix_for_output_field": prefix}
        if any(values.get(name) is None for name in signature.output_fields):
            return None
        return {name: values[name] for name in signature.output_fields}
