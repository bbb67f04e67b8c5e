"""How a run handles slow or failing calls: timeouts, retries, deadlines, quorum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from moa_dspy.errors import ConfigurationError

__all__ = ["Tolerance"]


@dataclass(frozen=True)
class Tolerance:
    """How a run handles slow or failing calls.

    Args:
        timeout: seconds that one LM call may take. Waiting in a queue of this process does not count.
        retries: how often a call is repeated after a transient failure: rate limit, timeout, server error or
            connection error. The wait is the provider's Retry-After, or else doubles each time. Default: the LM's own
            ``num_retries``.
        layer_deadline: seconds after which a layer aggregates the answers it has.
        quorum: number of answers or critiques, out of N, after which a stage continues once ``grace`` is over. None
            waits for all.
        grace: seconds to wait for the others after the quorum is reached.
        patience: longest wait before a retry, in seconds. If a provider asks for more, the call fails.
        strict: whether the run fails as soon as a step fails. Steps cancelled by ``layer_deadline`` or ``quorum`` do
            not count as failed.

    Raises:
        ConfigurationError: if a value is not a number, or out of range.
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

    @classmethod
    def of(cls, value: Any) -> Self:
        """Return ``value`` if it is a tolerance, and the default tolerance for None.

        Raises:
            ConfigurationError: if it has another type.
        """
        if value is None:
            return cls()
        if not isinstance(value, cls):
            raise ConfigurationError(f"tolerance={value!r} is not a Tolerance; pass moa_dspy.Tolerance(...)")
        return value

    def _check(
        self, name: str, *, whole: bool = False, least: int = 0, above: int | None = None, needed: bool = False
    ) -> None:
        value = getattr(self, name)
        if value is None and not needed:
            return
        expected = f"from {least}" if above is None else f"above {above}"
        if not isinstance(value, int if whole else (int, float)) or isinstance(value, bool):
            raise ConfigurationError(f"{name}={value!r} is invalid; it must be a {'whole ' * whole}number {expected}")
        if not (value >= least if above is None else value > above):
            raise ConfigurationError(f"{name}={value!r} is out of range; it must be {expected}")
