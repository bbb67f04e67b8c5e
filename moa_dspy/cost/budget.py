"""What a run may cost, how long it may wait and what it puts up with: two small values.

::

    moa = AttentionMoA(..., budget=Budget(calls=40, usd=0.05), tolerance=Tolerance(timeout=30, quorum=3, grace=2))
    moa(question="...", budget=Budget(seconds=20))        # for this call, within the program's own budget
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self, TypeGuard, TypeVar

from moa_dspy.errors import ConfigurationError

__all__ = ["Budget", "Tolerance", "limits_of"]

Limits = TypeVar("Limits", "Budget", "Tolerance")


@dataclass(frozen=True)
class Budget:
    """The most that one run may spend; None leaves a measure unlimited.

    No call is started that would exceed ``calls`` (retries count). ``tokens`` and ``usd`` are known only after a call,
    so nothing but calls under way can exceed them. At ``seconds`` calls under way are cancelled. A run that reaches its
    budget still answers, from what there is, and says ``stopped_by="budget"``.

    Args:
        calls: LM calls that are paid for or might be; at least 1. Calls that the response cache answers are counted
            while under way, since that is known only afterwards.
        tokens: prompt plus completion tokens, above 0.
        usd: dollars, above 0. A run whose models have no known price is refused, since nothing would limit it; models
            on this machine cost nothing.
        seconds: wall time, above 0.

    Raises:
        ConfigurationError: a limit is no number, or too small for a single proposal.
    """

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = field.name in ("calls", "tokens")
            if value is not None and not (_is_number(value, whole=whole) and value > 0):
                least = "at least 1" if whole else "above 0"
                raise ConfigurationError(
                    f"budget {field.name}={value!r} is too small for a single proposal; it must be {least}"
                )

    def within(self, other: Budget | None) -> Self:
        """Return the budget that keeps to both this one and ``other``.

        Raises:
            ConfigurationError: ``other`` is no budget.
        """
        if other is None:
            return self
        other = limits_of(Budget, other)
        tighter = {}
        for field in dataclasses.fields(self):
            given = [value for value in (getattr(self, field.name), getattr(other, field.name)) if value is not None]
            tighter[field.name] = min(given, default=None)
        return type(self)(**tighter)


@dataclass(frozen=True)
class Tolerance:
    """What a run puts up with before it goes on without something.

    Args:
        timeout: seconds that one LM call may take, waiting in a queue of this process not counted.
        retries: how often a call is tried again after a transient failure (rate limit, timeout, server or connection
            trouble), waiting as the provider's Retry-After says, or else twice as long each time; default: the LM's
            own ``num_retries``.
        layer_deadline: seconds after which a layer aggregates what there is.
        quorum: how many of N answers or critiques are enough to go on, once ``grace`` seconds have passed since they
            were there; None waits for all.
        grace: see ``quorum``.
        patience: the longest wait between two tries, in seconds; a provider that asks for more counts as failing.
        strict: fail at once when any step fails, instead of going on without it. What ``layer_deadline`` or ``quorum``
            leaves behind has not failed: one asks for those, and gets them in a strict run too.

    Raises:
        ConfigurationError: a value is no number, or out of range.
    """

    timeout: float | None = 600.0
    retries: int | None = None
    layer_deadline: float | None = None
    quorum: int | None = None
    grace: float = 0.0
    patience: float = 60.0
    strict: bool = False

    def __post_init__(self) -> None:
        self._check("retries", whole=True, least=0)
        self._check("quorum", whole=True, least=1)
        self._check("grace", least=0, needed=True)
        self._check("patience", above=0, needed=True)
        self._check("timeout", above=0)
        self._check("layer_deadline", above=0)
        if not isinstance(self.strict, bool):
            raise ConfigurationError(f"strict={self.strict!r} is out of range; it must be True or False")

    def _check(
        self, name: str, *, whole: bool = False, least: int = 0, above: int | None = None, needed: bool = False
    ) -> None:
        value = getattr(self, name)
        if value is None and not needed:
            return
        wanted = f"from {least}" if above is None else f"above {above}"
        if not _is_number(value, whole=whole):
            raise ConfigurationError(f"{name}={value!r} is no {'whole ' * whole}number; it must be one {wanted}")
        if not (value >= least if above is None else value > above):
            raise ConfigurationError(f"{name}={value!r} is out of range; it must be {wanted}")


def limits_of(kind: type[Limits], value: Any) -> Limits:
    """Return ``value`` where it is of this kind, and one without limits of its own for None.

    Raises:
        ConfigurationError: it is something else.
    """
    if value is None:
        return kind()
    if not isinstance(value, kind):
        name = kind.__name__
        raise ConfigurationError(f"{name.lower()}={value!r} is no {name}; write {name}(...), from moa_dspy")
    return value


def _is_number(value: Any, *, whole: bool) -> TypeGuard[float]:
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
