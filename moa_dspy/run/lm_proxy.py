"""A view of a user's LM whose calls go through somebody else, who counts them; the LM itself is left as it is.

A view has the LM's class, and shares all of its state: history, callbacks, connections, and whatever a subclass keeps.
So nothing that an LM notes down in a call is lost, and any number of views of one LM may be asked at once.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from types import MemberDescriptorType
from typing import Any, TypeAlias, cast

import dspy

from moa_dspy.run.concurrency import place_taken
from moa_dspy.run.threads import in_thread

__all__ = ["Send", "view_of"]

Send: TypeAlias = Callable[..., Awaitable[Any]]


def view_of(lm: dspy.BaseLM, through: Callable[..., Awaitable[Any]]) -> dspy.BaseLM:
    """Return a view of ``lm`` whose every ``acall(...)`` becomes ``through(lm, send, ...)``.

    ``send(...)`` makes the call, and tries once: retries are made, and counted, by whoever asks. An LM that can only be
    called by threads is called in one of its own, and keeps its place among the calls under way until that ends.
    """
    kind: Any = _view_class(cast("Any", type(lm)))
    view: dspy.BaseLM = object.__new__(kind)
    object.__setattr__(view, "__dict__", vars(lm))
    kind._moa_lm.__set__(view, lm)
    kind._moa_through.__set__(view, functools.partial(through, lm))
    return view


@functools.cache
def _view_class(kind: Any) -> Any:
    """``kind`` with what a view has of its own; properties and slots, since attributes are the LM's."""

    def acall(view: Any) -> Callable[..., Awaitable[Any]]:
        return functools.partial(view._moa_through, vars(view).get("acall") or _sender(kind, view))

    own = {
        **{name: _slot_of_lm(name) for name in _slots(kind)},
        "__slots__": ("_moa_lm", "_moa_through"),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "acall": property(acall),
        "num_retries": property(lambda _: 0, lambda _view, _value: None),
        # At temperature 0 a rollout still keeps equal requests apart in the cache; no warning is due.
        "_warned_zero_temp_rollout": property(lambda _: True, lambda _view, _value: None),
    }
    return type(kind.__name__, (kind,), own)


def _slots(kind: type[Any]) -> list[str]:
    """The names of what ``kind`` keeps outside its ``__dict__``."""
    members = [item for base in kind.__mro__ for item in vars(base).items()]
    return [name for name, member in members if isinstance(member, MemberDescriptorType)]


def _slot_of_lm(name: str) -> property:
    return property(lambda view: getattr(view._moa_lm, name), lambda view, value: setattr(view._moa_lm, name, value))


def _sender(kind: type[Any], view: Any) -> Send:
    if _is_for_threads(kind, view):
        return functools.partial(_in_thread, functools.partial(kind.__call__, view))
    return functools.partial(kind.acall, view)


async def _in_thread(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    place = place_taken()
    place.hold()

    def to_its_end() -> Any:
        try:
            return call(*args, **options)
        finally:
            place.let_go()

    return await in_thread(to_its_end)


def _is_for_threads(kind: type[Any], lm: Any) -> bool:
    """Whether ``lm`` has a way to be called, but no asynchronous one."""
    if kind.acall not in (dspy.BaseLM.acall, dspy.LM.acall):
        return False
    own_base = dspy.LM if issubclass(kind, dspy.LM) else dspy.BaseLM
    if kind.forward is not own_base.forward or "forward" in vars(lm):
        return kind.aforward is own_base.aforward and "aforward" not in vars(lm)
    engine = getattr(lm, "_engine_spec", "auto")
    return not isinstance(engine, str) and lm._async_engine_spec is None
