"""The agreement gate: a run ends with its proposals if these agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from moa_dspy.errors import ConfigurationError

__all__ = ["Agreement", "Comparison", "Gate", "GateChoice", "agreement_of", "gate_of", "rule_of"]

Comparison: TypeAlias = Literal["text", "meaning"]

_ROUNDING: Final = 1e-9


class Agreement(NamedTuple):
    """How far answers agree.

    Attributes:
        share: share of the answers that belong to the largest group of equal answers.
        first: index of the first answer of that group. Of groups of one size, the one with the earliest answer counts.
        group: number of answers in it.
    """

    share: float
    first: int
    group: int


@dataclass(frozen=True, kw_only=True)
class Gate:
    """End a run with its proposals if these agree. Use it as ``AttentionMoA(..., gate=Gate(...))``.

    The run ends with the answer of the largest group of equal proposals if the group holds the required share of the
    answers and more than half of the agents that were asked. Otherwise the layer goes on as without a gate.

    Args:
        agreement: the required share of equal answers, above 0.5 and at most 1. Failed proposals have no answer.
        first: number of agents that are asked first, at least 2. The others are asked only if those disagree. None
            asks all at once.
        compare: how free text is compared. ``"text"``: equal texts; case, spacing, and markup and punctuation around
            the text do not count. ``"meaning"``: if the texts differ, one call asks the aggregator's model whether all
            of them say the same. Typed outputs are compared by value.

    Raises:
        ConfigurationError: if a value is out of range.
    """

    agreement: float = 1.0
    first: int | None = None
    compare: Comparison = "text"

    def __post_init__(self) -> None:
        share, first = self.agreement, self.first
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0.5 < share <= 1:
            raise ConfigurationError(
                f"gate agreement={share!r} is not a majority; give a share above 0.5 and at most 1, such as 0.8"
            )
        object.__setattr__(self, "agreement", float(share))
        if first is not None and (isinstance(first, bool) or not isinstance(first, int) or first < 2):
            raise ConfigurationError(f"gate first={first!r} is out of range; give at least 2 agents, or None for all")
        if self.compare not in get_args(Comparison):
            raise ConfigurationError(f"gate compare={self.compare!r} is unknown; use 'text' or 'meaning'")

    def __str__(self) -> str:
        """Return the gate as ``gate_of`` reads it: ``unanimous``, or the settings that are not the default."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        shown = (f"{name}={value}" for name, value in values.items())
        return ",".join(shown) or "unanimous"

    def rounds(self, agents: int) -> tuple[int, ...]:
        """Return how many of ``agents`` agents have been asked each time agreement is measured; none for one agent."""
        if agents < 2:
            return ()
        return (agents,) if self.first is None or self.first >= agents else (self.first, agents)

    def accepts(self, agreement: Agreement | None, asked: int) -> bool:
        """Return whether an agreement of ``asked`` agents suffices."""
        if agreement is None:
            return False
        return 2 * agreement.group > asked and agreement.share >= self.agreement - _ROUNDING


GateChoice: TypeAlias = Literal["off", "unanimous"] | Gate
"""A gate as in ``AttentionMoA(gate=...)``. ``"unanimous"`` is ``Gate()``."""


def agreement_of(keys: Iterable[str | None]) -> Agreement | None:
    """Return how far answers agree; None if fewer than two agents answered.

    Args:
        keys: a key for each agent, equal for equal answers; None if the agent has no answer.
    """
    numbered = [(number, key) for number, key in enumerate(keys) if key is not None]
    if len(numbered) < 2:
        return None
    key, group = Counter(key for _, key in numbered).most_common(1)[0]
    return Agreement(group / len(numbered), next(number for number, other in numbered if other == key), group)


def gate_of(value: Any) -> GateChoice:
    """Return the gate that ``value`` describes.

    Args:
        value: ``"off"``, ``"unanimous"``, a share, a ``Gate``, a mapping of its arguments, or a text such as ``0.8`` or
            ``first=2,agreement=0.8``.

    Raises:
        ConfigurationError: if it is none of these, or an argument is unknown or out of range.
    """
    if isinstance(value, str):
        value = _parsed(value)
    if value is None or value == "off":
        return "off"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = Gate(agreement=value)
    if isinstance(value, Mapping):
        known = [one.name for one in fields(Gate)]
        if unknown := [name for name in value if name not in known]:
            raise ConfigurationError(f"a gate has no argument {unknown[0]!r}; the arguments are {', '.join(known)}")
        value = Gate(**value)
    if not isinstance(value, Gate):
        raise ConfigurationError(
            f"gate={value!r} is unknown; use 'off', 'unanimous', a share such as 0.8, or Gate(...)"
        )
    return "unanimous" if value == Gate() else value


def rule_of(choice: GateChoice) -> Gate | None:
    """Return the gate of a choice; None if it is off."""
    return None if choice == "off" else Gate() if choice == "unanimous" else choice


def _parsed(text: str) -> Any:
    """Return the value that a text on the command line stands for."""
    text = text.strip()
    if text in ("off", "unanimous"):
        return {"off": "off", "unanimous": Gate()}[text]
    pairs: Sequence[tuple[str, str, str]] = [part.strip().partition("=") for part in text.split(",")]
    values = {name.strip() if sign else "agreement": (rest if sign else name).strip() for name, sign, rest in pairs}
    try:
        numbers: dict[str, Any] = {"agreement": float, "first": int}
        return {name: numbers.get(name, str)(value) for name, value in values.items()}
    except ValueError:
        raise ConfigurationError(
            f"gate {text!r} cannot be read; write off, unanimous, a share such as 0.8, or settings such as "
            "first=2,agreement=0.8,compare=meaning"
        ) from None
