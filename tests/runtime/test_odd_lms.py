"""Language models of unusual classes: no class is made out of a user's class, and a bug in it is no model failure."""

from __future__ import annotations

import abc
import asyncio
import copy
import functools
import pickle
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, TypeVar

import dspy
import pytest
from support.runs import in_format

from moa_dspy import Agent, AllProposalsFailedError, AttentionMoA, Budget
from moa_dspy.cost.own_price import own_price
from moa_dspy.testing import ScriptedLM

SIGNATURE = "question -> answer"
T = TypeVar("T")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DSPy's, of LMs with a forward


def completion(model: str) -> Any:
    choice = SimpleNamespace(message=SimpleNamespace(content="an answer", tool_calls=None), finish_reason="stop")
    return SimpleNamespace(model=model, choices=[choice], usage={"prompt_tokens": 7, "completion_tokens": 2})


class Tagged(ScriptedLM):
    """Its subclasses need a keyword."""

    def __init_subclass__(cls, *, tag: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.tag = tag


class OfTag(Tagged, tag="x"):
    pass


class Final(ScriptedLM):
    def __init_subclass__(cls, **options: Any) -> None:
        raise TypeError("no subclasses, please")


class Positional(ScriptedLM):
    def __init__(self, number: int, /, *, must: str) -> None:
        super().__init__(in_format, f"own/{number}{must}")


class NoArguments(ScriptedLM):
    def __init__(self) -> None:
        super().__init__(in_format)


class Strict(type):
    def __new__(mcs, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> Any:
        if name.startswith("_"):
            raise TypeError(f"{name} is no good name")
        return super().__new__(mcs, name, bases, space)


class OfStrictMeta(ScriptedLM, metaclass=Strict):
    pass


class Abstract(ScriptedLM, abc.ABC):
    @abc.abstractmethod
    def name(self) -> str: ...


class Concrete(Abstract):
    def name(self) -> str:
        return "concrete"


class Slots(ScriptedLM):
    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen = 0
        super().__init__(in_format)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        self.seen += 1
        return await super().acall(*args, **kwargs)


class Property(ScriptedLM):
    @property
    def temperature(self) -> float:
        return 0.5


class ModelProperty(ScriptedLM):
    """Its model's name is computed."""

    @property
    def model(self) -> str:
        return "own/computed"

    @model.setter
    def model(self, value: str) -> None:
        pass


class Cached(ScriptedLM):
    @functools.cached_property
    def table(self) -> dict[str, int]:
        return {"a": 1}

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        assert self.table == {"a": 1}
        return await super().acall(*args, **kwargs)


class Getattr(ScriptedLM):
    def __getattr__(self, name: str) -> Any:
        if name == "magic":
            return 42
        raise AttributeError(name)


class Frozen(ScriptedLM):
    """Refuses new attributes after its construction."""

    def __init__(self) -> None:
        super().__init__(in_format)
        object.__setattr__(self, "closed", True)

    def __setattr__(self, name: str, value: Any) -> None:
        if "closed" in vars(self) and name not in vars(self):
            raise AttributeError(f"{name} cannot be set")
        super().__setattr__(name, value)


class Equal(ScriptedLM):
    """Equal to everything, and so without a hash."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Falsy(ScriptedLM):
    def __bool__(self) -> bool:
        return False


class Length(ScriptedLM):
    def __len__(self) -> int:
        return 0


class Of(ScriptedLM, Generic[T]):
    pass


class Mixin:
    notes: ClassVar[list[str]] = []

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        self.notes.append("called")
        return await super().acall(*args, **kwargs)  # type: ignore[misc]


class Mixed(Mixin, ScriptedLM):
    pass


class NoCopy(ScriptedLM):
    def __copy__(self) -> Any:
        raise TypeError("not to be copied")

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("not to be copied")


class NoRepr(ScriptedLM):
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class SyncOnly(dspy.BaseLM):
    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return completion(self.model)


class AsyncOnly(dspy.BaseLM):
    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return completion(self.model)


class OwnCall(dspy.BaseLM):
    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        return ["an answer"]


class Named(dspy.BaseLM):
    """Takes what DSPy passes by name only, and no more."""

    def forward(self, *, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return completion(self.model)


def local() -> Any:
    class Local(ScriptedLM):
        pass

    return Local(in_format)


def with_method() -> Any:
    """An LM whose forward is set on the object."""
    lm = SyncOnly("own/patched", cache=False)
    lm.forward = lambda prompt=None, messages=None, **kwargs: completion("own/patched")  # type: ignore[method-assign]
    return lm


ODD: dict[str, Any] = {
    "subclasses need a keyword": lambda: OfTag(in_format),
    "no subclasses": lambda: Final(in_format),
    "positional and required arguments": lambda: Positional(1, must="x"),
    "no arguments": NoArguments,
    "metaclass": lambda: OfStrictMeta(in_format),
    "abstract base": lambda: Concrete(in_format),
    "slots": Slots,
    "property": lambda: Property(in_format),
    "computed model": lambda: ModelProperty(in_format),
    "cached property": lambda: Cached(in_format),
    "getattr": lambda: Getattr(in_format),
    "frozen": Frozen,
    "equal to all": lambda: Equal(in_format),
    "falsy": lambda: Falsy(in_format),
    "of length zero": lambda: Length(in_format),
    "generic": lambda: Of[int](in_format),
    "mixin": lambda: Mixed(in_format),
    "no copies": lambda: NoCopy(in_format),
    "no repr": lambda: NoRepr(in_format),
    "sync only": lambda: SyncOnly("own/sync", cache=False),
    "async only": lambda: AsyncOnly("own/async", cache=False),
    "acall of its own": lambda: OwnCall("own/call"),
    "by name only": lambda: Named("own/named", cache=False),
    "local class": local,
    "forward on the object": with_method,
}


@pytest.mark.parametrize("kind", ODD)
def test_an_lm_of_any_class_can_have_a_price_of_its_own(kind: str) -> None:
    lm = ODD[kind]()
    priced = Agent(lm, price={"prompt": 1, "completion": 2})
    moa = AttentionMoA(SIGNATURE, [priced, priced], layers=1, attention="none")
    prediction = moa(question="?", budget=Budget(usd=1))
    assert prediction.answer == "an answer"
    assert prediction.trace.cost_usd > 0
    assert own_price(lm) is None


@pytest.mark.parametrize("kind", ODD)
def test_an_lm_of_any_class_answers_and_is_left_as_it_is(kind: str) -> None:
    lm = ODD[kind]()
    before = type(lm).__subclasses__()
    moa = AttentionMoA(SIGNATURE, [lm, lm], layers=2)
    prediction = moa(question="?")
    assert prediction.answer == "an answer"
    assert {step.status for step in prediction.trace.steps if step.stage != "synthesize"} == {"ok"}
    assert moa.agents[0].lm is lm
    assert type(lm).__subclasses__() == before
    assert asyncio.run(moa.acall(question="?")).answer == "an answer"


def test_what_a_class_with_slots_notes_is_there_afterwards() -> None:
    lm = Slots()
    trace = AttentionMoA(SIGNATURE, [lm], layers=1, attention="none", aggregation="none")(question="?").trace
    assert lm.seen == trace.calls == 1


@pytest.mark.parametrize("kind", [SyncOnly, AsyncOnly])
def test_an_lm_that_was_pickled_or_copied_works(kind: Any) -> None:
    lm = kind("own/model", cache=False)
    for one in (pickle.loads(pickle.dumps(lm)), copy.deepcopy(lm), lm.copy(temperature=0.5)):
        assert AttentionMoA(SIGNATURE, [one, one], layers=1)(question="?").answer == "an answer"


BUGS: dict[str, BaseException] = {
    "type": TypeError("missing keyword"),
    "attribute": AttributeError("no such attribute"),
    "name": NameError("undefined"),
    "import": ImportError("no such module"),
    "not implemented": NotImplementedError("later"),
}


def raising(error: BaseException, form: str) -> Any:
    class Buggy(dspy.BaseLM):
        pass

    def forward(self: Any, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        raise error

    async def aforward(self: Any, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        raise error

    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise error

    setattr(Buggy, form, {"forward": forward, "aforward": aforward, "acall": acall}[form])
    return Buggy("own/buggy", cache=False)


@pytest.mark.parametrize("form", ["forward", "aforward", "acall"])
@pytest.mark.parametrize("kind", BUGS)
def test_a_bug_in_an_lm_is_raised_as_it_is(kind: str, form: str) -> None:
    moa = AttentionMoA(SIGNATURE, [raising(BUGS[kind], form)], layers=1, attention="none", aggregation="none")
    with pytest.raises(type(BUGS[kind]), match=str(BUGS[kind])):
        moa(question="?")


@pytest.mark.parametrize("form", ["forward", "aforward", "acall"])
@pytest.mark.parametrize("error", [ValueError("bad reply"), OSError("no line"), StopIteration("end"), KeyError("x")])
def test_another_exception_of_an_lm_is_a_failure_of_its_agent_alone(error: Exception, form: str) -> None:
    good = ScriptedLM(in_format)
    options: dict[str, Any] = {"layers": 1, "attention": "none", "aggregation": "vote"}
    assert AttentionMoA(SIGNATURE, [good, raising(error, form)], **options)(question="?").answer == "an answer"
    with pytest.raises(AllProposalsFailedError):
        AttentionMoA(SIGNATURE, [raising(error, form)], **options)(question="?")
