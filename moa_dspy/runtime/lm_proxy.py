"""A proxy of a user's LM that passes each call to a counting function. The LM itself is not changed.

A proxy delegates to one LM and shares its state: attributes set during a call are set on the LM. Methods of the LM run
with the proxy as ``self``, so DSPy's engine reads the proxy's setting of no retries. ``isinstance`` sees the LM's
class.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Awaitable, Callable
from types import MethodType
from typing import Any, Final

import dspy
from dspy.utils import DummyLM

from moa_dspy._dspy import ENGINE_STATE

__all__ = ["lm_of", "proxy_of", "redirect"]

Through = Callable[..., Awaitable[Any]]

# A subclass that defines only these names behaves like DSPy's class.
_HARMLESS: Final = frozenset(
    {"__init__", "__module__", "__doc__", "__qualname__", "__annotations__", "__static_attributes__"}
)


class _Proxy:
    """The attributes and methods common to all proxies."""

    __slots__ = ("_moa_lm", "acall", *ENGINE_STATE)

    def __init__(self, lm: dspy.BaseLM, through: Through) -> None:
        set_own = functools.partial(object.__setattr__, self)
        set_own("_moa_lm", lm)
        set_own("__dict__", vars(lm))
        set_own("acall", functools.partial(through, lm))
        # The run makes and counts retries. At temperature 0 a rollout id still separates equal requests in the cache,
        # so DSPy's warning does not apply.
        for name, value in ENGINE_STATE.items():
            set_own(name, value)

    __class__: Any = property(lambda self: type(lm_of(self)))  # what isinstance sees

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the LM directly. Only asynchronous calls are counted."""
        return lm_of(self)(*args, **options)

    def __copy__(self) -> Any:
        return copy.copy(lm_of(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(lm_of(self), memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return lm_of(self).__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(lm_of(self))


class _CustomProxy(_Proxy):
    """A proxy of a class with its own methods, properties or slots. It looks up all attributes on the LM."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        if name in vars(_Proxy):
            return object.__getattribute__(self, name)
        lm = object.__getattribute__(self, "_moa_lm")
        value = getattr(lm, name)
        if type(value) is MethodType and value.__self__ is lm:
            return MethodType(value.__func__, self)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in vars(_Proxy):
            setattr(lm_of(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(lm_of(self), name)


# DSPy decides by an LM's class whether to use its own engine, so each of its classes has a proxy class. An LM with a
# custom forward gets the one of BaseLM.
class _PlainLMProxy(_Proxy, dspy.LM):
    pass


class _CustomLMProxy(_CustomProxy, dspy.LM):
    pass


class _DummyLMProxy(_CustomProxy, DummyLM):
    pass


class _BaseLMProxy(_CustomProxy, dspy.BaseLM):
    pass


def proxy_of(lm: dspy.BaseLM, through: Through) -> dspy.BaseLM:
    """Return a proxy of ``lm``. It calls ``through``, with the LM and the arguments, in place of the LM's ``acall``."""
    kind: Any = type(lm)
    return _proxy_class(kind)(lm, through)


def redirect(proxy: Any, call: Through) -> None:
    """Let a proxy pass its calls to another function, without the LM as an argument."""
    object.__setattr__(proxy, "acall", call)


def lm_of(lm: Any) -> Any:
    """Return the LM behind a proxy, or ``lm`` itself if it is not a proxy."""
    return object.__getattribute__(lm, "_moa_lm") if issubclass(type(lm), _Proxy) else lm


@functools.lru_cache(maxsize=256)
def _proxy_class(kind: Any) -> Any:
    for base, proxy in ((dspy.LM, _CustomLMProxy), (DummyLM, _DummyLMProxy)):
        if issubclass(kind, base) and kind.forward is base.forward and kind.aforward is base.aforward:
            own = set[str]().union(*(vars(one) for one in kind.__mro__[: kind.__mro__.index(base)]))
            return _PlainLMProxy if base is dspy.LM and own <= _HARMLESS else proxy
    return _BaseLMProxy
