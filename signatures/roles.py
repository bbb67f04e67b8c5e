"""The signatures of the roles, derived from the signature of the task.

Each role reads the task's inputs first and the parts that differ between calls last: the task, then the agent's own
answer, then a peer's. This gives servers the longest common prefix to reuse.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import functools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import NoneType
from typing import Any, Final, TypeAlias, cast, get_args

import dspy
import pydantic
from pydantic_core import PydanticUndefined, to_jsonable_python

from moa_dspy._dspy import annotation_allows_none, default_instructions
from moa_dspy.errors import ConfigurationError
from moa_dspy.parsing.phrases import undecorated
from moa_dspy.signatures import instructions as texts
from moa_dspy.signatures.quoting import quote, quote_each

__all__ = [
    "ADDED",
    "ROLE_INPUT",
    "NumberedPoint",
    "Roles",
    "TaskSignature",
    "derive_roles",
    "is_free_text",
    "needed_inputs",
    "read_json_value",
    "split_critiques",
    "task_signature",
]

TaskSignature: TypeAlias = type[dspy.Signature]

ADDED: Final = "moa_added"
"""The key that marks an output field as added by the program. A reply may lack it."""

ROLE_INPUT: Final = "moa_role_input"
"""The key that marks an input field that only one role reads. All other inputs are the task's."""

_OWN, _PEER, _CRITIQUES = "own_answer", "peer_answer", "critiques"
_PREVIOUS, _CANDIDATES, _ROUNDS = "previous_answer", "candidate_answers", "rounds"
_CONVERSATION, _REASONING, _CRITIQUE, _IMPROVED = "conversation", "reasoning", "critique", "improved"
_COMPARED, _SAME, _PEERS = "answers_to_compare", "same", "peer_answers"
_REPORTED = ("consensus", "contradictions", "unique_points", "blind_spots")
_NAMES = (
    *(_OWN, _PEER, _CRITIQUES, _PREVIOUS, _CANDIDATES, _ROUNDS, _CONVERSATION, _CRITIQUE, _IMPROVED),
    *(_COMPARED, _SAME, _PEERS, *_REPORTED),
)
# Field names that dspy.Signature cannot handle.
_RESERVED_NAMES = frozenset({"fields", "input_fields", "instructions", "output_fields", "signature"})


# The line before a critique in a reply with several: "Answer 2:", "### Critique of answer 2 (a peer's)", "Critique 2:",
# "<critique number=2>".
_NUMBERED: Final = re.compile(
    r"^[ \t#*_>\-\[(]{0,8}(?:(?:(?:critique|review|feedback|suggestions|comments)\s+(?:of|for|on|to)\s+)?(?:the\s+)?"
    r"answer|critique|review|feedback)[ \t]*+(?:(?:number|no\.|#)[ \t]*+)?(\d{1,4})[\])]?(?:[ \t]*\([^()\n]{0,40}\))?"
    r"[ \t*_]{0,4}(?:[:\u2013\u2014\uff1a-]+[ \t*_]{0,4}|$)"
    r"|(?:^[ \t]*|(?<=>))<(?:critique|answer)\s[^<>\n]{0,40}?(\d{1,4})[\"']?\s*>",
    re.IGNORECASE | re.MULTILINE,
)
_EXACT: Final = decimal.Context(decimal.MAX_PREC, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[])
_CLOSING: Final = re.compile(r"</(?:critique|answer)>\s*\Z", re.IGNORECASE)
_MARKS: Final = 1000


class NumberedPoint(pydantic.BaseModel):
    """A statement about numbered answers.

    Attributes:
        point: the statement.
        answers: numbers of the answers.
    """

    point: str
    answers: list[int] = pydantic.Field(default_factory=list)


@dataclass(frozen=True)
class Roles:
    """The signature of each role, and the functions that build its inputs.

    A role is made when it is first read: making the class of a signature takes DSPy a quarter of a millisecond.

    Attributes:
        task: the task, with a reasoning field if its outputs are not free text.
        described: the task's instructions, as every role is told them.
        history: name of the task's input of type `dspy.History`.
        reasoning: name of the output that leads to the answer and is not part of it: the added field, or a text output
            of the task called `reasoning` beside other outputs.
        names: the names of our fields in this task, by their standard names.
    """

    task: TaskSignature
    described: str
    history: str | None
    reasoning: str | None
    names: Mapping[str, str]

    @functools.cached_property
    def propose(self) -> TaskSignature:
        """Return the role that writes the first answer. It reads only the task's inputs."""
        return self.task.with_instructions(self.described)

    @functools.cached_property
    def improve(self) -> TaskSignature:
        """Return the role that writes an answer in a later layer. It also reads the previous layer's output."""
        return self._answering(texts.IMPROVE, _PREVIOUS)

    @functools.cached_property
    def critique(self) -> TaskSignature:
        """Return the role that writes suggestions for a peer's answer."""
        return self._role(texts.CRITIQUE, (_OWN, _PEER), {self.names[_CRITIQUE]: (str, dspy.OutputField())})

    @functools.cached_property
    def self_critique(self) -> TaskSignature:
        """Return the role that writes suggestions for the agent's own answer."""
        return self._role(texts.SELF_CRITIQUE, (_OWN,), {self.names[_CRITIQUE]: (str, dspy.OutputField())})

    @functools.cached_property
    def joint_critique(self) -> TaskSignature:
        """Return the role that writes suggestions for several answers."""
        return self._role(texts.JOINT_CRITIQUE, (_OWN, _PEERS), {self.names[_CRITIQUES]: (str, dspy.OutputField())})

    @functools.cached_property
    def refine(self) -> TaskSignature:
        """Return the role that rewrites the agent's answer with the help of its critiques."""
        return self._answering(texts.REFINE, _OWN, _CRITIQUES)

    @functools.cached_property
    def aggregate(self) -> TaskSignature:
        """Return the role that writes one answer from all agents' answers."""
        return self._answering(texts.AGGREGATE, _CANDIDATES)

    @functools.cached_property
    def synthesize(self) -> TaskSignature:
        """Return the role that decides whether the newest layer improves, and writes one answer from all layers'."""
        outputs: list[tuple[str, Any]] = list(self.task.output_fields.items())
        field = dspy.OutputField(desc="true if the newest answer improves on the one before it, else false")
        after_reasoning = int(outputs[0][0] == self.reasoning)
        outputs.insert(after_reasoning, (self.decision, (bool, field)))
        return self._role(texts.SYNTHESIZE, (_ROUNDS,), dict(outputs))

    @functools.cached_property
    def agree(self) -> TaskSignature:
        """Return the role that decides whether several answers say the same."""
        field = dspy.OutputField(desc="true if all say the same, else false")
        return self._role(texts.AGREE, (_COMPARED,), {self.sameness: (bool, field)})

    @functools.cached_property
    def dissent(self) -> TaskSignature:
        """Return the role that states what several answers agree on and where they differ."""
        reported = {self.names[name]: (list[NumberedPoint], dspy.OutputField()) for name in _REPORTED}
        return self._role(texts.DISSENT, (_COMPARED,), reported)

    def _answering(self, instructions: str, *extra: str) -> TaskSignature:
        """Return a role that writes the task's outputs."""
        alone = (texts.ALONE,) if is_free_text(self.task) else ()
        return self._role(" ".join((instructions, *alone)), extra, self.task.output_fields)

    def _role(self, instructions: str, extra: Sequence[str], outputs: Mapping[str, Any]) -> TaskSignature:
        """Return a role that reads the task's inputs and then further ones, told its own instructions first."""
        inputs: dict[str, Any] = dict(self.task.input_fields)
        if self.history is not None:
            del inputs[self.history]
            inputs = {self.names[_CONVERSATION]: (str, dspy.InputField()), **inputs}
        for name in extra:
            field: Any = dspy.InputField()
            field.json_schema_extra[ROLE_INPUT] = True
            inputs[self.names[name]] = (str, field)
        told = f"{instructions} {texts.MATERIAL}\n\nThe task: {self.described}"
        return dspy.make_signature({**inputs, **outputs}, told)

    def answer_text(self, outputs: Mapping[str, Any]) -> str:
        """Return the task's outputs as the text that other agents read.

        A single output is written as it is. Several become `name: value` lines. Values that are not text become JSON.
        """
        fields = self.task.output_fields
        if len(fields) == 1:
            (name,) = fields
            return _as_text(outputs[name])
        return "\n".join(f"{name}: {_as_text(outputs[name])}" for name in fields)

    def for_propose(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of `propose`: those of the task."""
        return dict(inputs)

    def for_improve(self, inputs: Mapping[str, Any], previous: str) -> dict[str, Any]:
        """Return the inputs of `improve`: the task and the previous layer's output."""
        return self._with(inputs, {_PREVIOUS: quote("answer", previous)})

    def for_critique(self, inputs: Mapping[str, Any], own: str, peer: str) -> dict[str, Any]:
        """Return the inputs of `critique`: the task, the critic's own answer, and the answer to criticise."""
        return self._with(inputs, {_OWN: quote("answer", own), _PEER: quote("answer", peer)})

    def for_self_critique(self, inputs: Mapping[str, Any], own: str) -> dict[str, Any]:
        """Return the inputs of `self_critique`: the task and the agent's own answer."""
        return self._with(inputs, {_OWN: quote("answer", own)})

    def for_joint_critique(
        self, inputs: Mapping[str, Any], own: str, peers: Sequence[str], *, own_too: bool
    ) -> dict[str, Any]:
        """Return the inputs of `joint_critique`: the task, the critic's own answer, and its peers' answers.

        The answers to criticise are numbered from 1, the critic's own first if it is one of them.
        """
        quoted = quote("answer", own, **({"number": 1} if own_too else {}))
        numbered = (quote("answer", text, number=number) for number, text in enumerate(peers, 1 + own_too))
        return self._with(inputs, {_OWN: quoted, _PEERS: "\n\n".join(numbered)})

    def for_refine(self, inputs: Mapping[str, Any], own: str, critiques: Sequence[str]) -> dict[str, Any]:
        """Return the inputs of `refine`: the task, the agent's answer, and its critiques without authors."""
        return self._with(inputs, {_OWN: quote("answer", own), _CRITIQUES: quote_each("critique", critiques)})

    def for_aggregate(self, inputs: Mapping[str, Any], answers: Sequence[str]) -> dict[str, Any]:
        """Return the inputs of `aggregate`: the task and the answers in the order of the agents, without names."""
        return self._with(inputs, {_CANDIDATES: quote_each("answer", answers)})

    def for_synthesize(self, inputs: Mapping[str, Any], rounds: Sequence[str]) -> dict[str, Any]:
        """Return the inputs of `synthesize`: the task, the accepted outputs and the new aggregate, oldest first."""
        return self._with(inputs, {_ROUNDS: quote_each("answer", rounds, counter="round")})

    def for_agree(self, inputs: Mapping[str, Any], answers: Sequence[str]) -> dict[str, Any]:
        """Return the inputs of `agree`: the task and the answers to compare, without names."""
        return self._with(inputs, {_COMPARED: quote_each("answer", answers)})

    def for_dissent(self, inputs: Mapping[str, Any], answers: Sequence[str]) -> dict[str, Any]:
        """Return the inputs of `dissent`: the task and the answers to compare, numbered from 1, without names."""
        return self.for_agree(inputs, answers)

    @property
    def sameness(self) -> str:
        """Return the name of the output field for whether answers say the same."""
        return self.names[_SAME]

    @property
    def decision(self) -> str:
        """Return the name of the output field for whether the newest layer improves."""
        return self.names[_IMPROVED]

    def decision_of(self, outputs: Mapping[str, Any]) -> bool:
        """Return whether a synthesis decided that the newest layer is better than the one before it."""
        return bool(outputs[self.decision])

    def task_outputs(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return those outputs of a role that are outputs of the task."""
        return {name: outputs[name] for name in self.task.output_fields}

    def jsonable(self, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the task's outputs as JSON values."""
        return {name: to_jsonable_python(value, fallback=str) for name, value in self.task_outputs(outputs).items()}

    @functools.cached_property
    def voted(self) -> tuple[str, ...]:
        """Return the names of the outputs that are compared in a vote: all except the reasoning."""
        return tuple(name for name in self.task.output_fields if name != self.reasoning)

    def vote_key(self, outputs: Mapping[str, Any]) -> str:
        """Return the key of an answer in votes and gates. Equal keys are one answer.

        In free text, case, spacing, and markup and punctuation around the text are ignored. Other outputs are compared
        by value: the decimals 1.0 and 1.00 are equal, and so are sets in any order.

        Args:
            outputs: the task's outputs, or their JSON values.
        """
        values = self.jsonable(outputs)
        return json.dumps({name: self._compared(name, values[name]) for name in self.voted}, sort_keys=True)

    def _compared(self, name: str, value: Any) -> Any:
        """Return the part of a vote's key that is made of an output's JSON value."""
        if self._is_text(name):
            return None if value is None else _folded(str(value))
        try:
            read = read_json_value(self._types[name], value)
            if _is_whole(read, value):
                return _by_value(read)
        except Exception:  # noqa: BLE001, S110 - validators and constructors of a user's type may raise anything
            pass
        return _by_value(value)

    @functools.cached_property
    def _types(self) -> dict[str, pydantic.TypeAdapter[Any]]:
        kinds: dict[str, Any] = {name: self.task.output_fields[name].annotation for name in self.voted}
        return {name: pydantic.TypeAdapter(kind) for name, kind in kinds.items()}

    def _is_text(self, name: str) -> bool:
        annotation: Any = self.task.output_fields[name].annotation
        return annotation is str or (
            annotation_allows_none(annotation) and set(get_args(annotation)) == {str, NoneType}
        )

    @property
    def compares_text(self) -> bool:
        """Return whether equality of answers depends on free text, which may say the same in other words."""
        return any(map(self._is_text, self.voted))

    def _with(self, inputs: Mapping[str, Any], extra: Mapping[str, str]) -> dict[str, Any]:
        values = dict(inputs)
        if self.history is not None:
            turns = values.pop(self.history, None)
            values = {self.names[_CONVERSATION]: _conversation(turns), **values}
        return {**values, **{self.names[name]: text for name, text in extra.items()}}


def task_signature(signature: str | TaskSignature) -> TaskSignature:
    """Return a signature as a class.

    Raises:
        ConfigurationError: if it is no signature, or has no input or no output.
    """
    if isinstance(signature, str) and "->" not in signature:
        raise ConfigurationError(f"signature {signature!r} has no output; write it as 'question -> answer'")
    try:
        # dspy.Signature looks up the types named in a string in the frames of its callers.
        parsed: Any = cast("Any", dspy.Signature)(signature) if isinstance(signature, str) else signature
    except (ValueError, TypeError, SyntaxError, NameError) as error:
        reserved = sorted(_RESERVED_NAMES & set(re.findall(r"\w+", str(signature))))
        why = f"DSPy uses the name {reserved[0]} itself; rename the field" if reserved else error
        raise ConfigurationError(f"signature {signature!r} cannot be read: {why}") from error
    if not (isinstance(parsed, type) and issubclass(parsed, dspy.Signature)):
        raise ConfigurationError(f"a signature is a string such as 'question -> answer' or a class, not {signature!r}")
    task = cast("TaskSignature", parsed)
    for kind, fields in (("input", task.input_fields), ("output", task.output_fields)):
        if not fields:
            raise ConfigurationError(f"signature {task.signature!r} has no {kind}; write it as 'question -> answer'")
    return task


def split_critiques(text: str, count: int) -> dict[int, str]:
    """Return the critiques in a reply of `joint_critique`, by the number of the answer, from 1 to `count`.

    A critique begins below a line with its number, and ends before the line of a later number. A number that is
    missing, out of order or followed by nothing has no critique.
    """
    marks = [match for match in islice(_NUMBERED.finditer(text), _MARKS) if 1 <= int(match[1] or match[2]) <= count]
    kept: list[re.Match[str]] = []
    for match in marks:
        if not kept or int(match[1] or match[2]) > int(kept[-1][1] or kept[-1][2]):
            kept.append(match)
    found: dict[int, str] = {}
    for match, following in zip(kept, [*kept[1:], None], strict=False):
        end = len(text) if following is None else following.start()
        found[int(match[1] or match[2])] = _CLOSING.sub("", text[match.end() : end]).strip()
    return {number: critique for number, critique in found.items() if critique}


def needed_inputs(task: TaskSignature) -> tuple[str, ...]:
    """Return the inputs that every call must give: those without a default whose type does not allow None."""
    return tuple(
        name
        for name, field in task.input_fields.items()
        if field.default is PydanticUndefined
        and field.annotation is not dspy.History
        and not annotation_allows_none(field.annotation)
    )


def is_free_text(signature: TaskSignature) -> bool:
    """Return whether a whole completion is the answer: there is exactly one output, and it is plain text."""
    fields = list(signature.output_fields.values())
    return len(fields) == 1 and fields[0].annotation is str


def derive_roles(signature: str | TaskSignature, *, reasoning: bool = True) -> Roles:
    """Derive the role signatures from a task signature.

    Args:
        signature: any DSPy signature, with any number and type of inputs and outputs, also `dspy.History`.
        reasoning: add a reasoning field if an output is not free text, so that a critique can refer to the steps.

    Raises:
        ConfigurationError: as `task_signature`.
    """
    task = task_signature(signature)
    history = next((name for name, field in task.input_fields.items() if field.annotation is dspy.History), None)
    described = task.instructions
    if described == default_instructions(task):
        described = _plain_task(task, history)
    typed = any(field.annotation is not str for field in task.output_fields.values())
    lead = _own_reasoning(task)
    if reasoning and typed and _REASONING not in task.output_fields:
        lead = _free_name(_REASONING, task)
        field: Any = dspy.OutputField(desc="the steps that lead to the answer, briefly")
        field.json_schema_extra[ADDED] = True
        task = task.prepend(lead, field, str)
    names = {name: _free_name(name, task) for name in _NAMES}
    return Roles(task, described, history, lead, names)


def _own_reasoning(task: TaskSignature) -> str | None:
    """Return `reasoning` if the task has a text output of this name beside other outputs."""
    field = task.output_fields.get(_REASONING)
    return _REASONING if field is not None and field.annotation is str and len(task.output_fields) > 1 else None


def _free_name(name: str, task: TaskSignature) -> str:
    """Return our field name, with underscores added if the task already has a field of that name."""
    while name in task.fields:
        name += "_"
    return name


def _plain_task(task: TaskSignature, history: str | None) -> str:
    def readable(fields: Mapping[str, Any]) -> str:
        return " and ".join(name.replace("_", " ") for name in fields if name != history or len(fields) == 1)

    return texts.PLAIN_TASK.format(inputs=readable(task.input_fields), outputs=readable(task.output_fields))


def read_json_value(kind: pydantic.TypeAdapter[Any], value: Any) -> Any:
    """Return a value with its type again, from its JSON value.

    Raises:
        pydantic.ValidationError: if the type does not read what it writes.
    """
    try:
        return kind.validate_python(value)
    except pydantic.ValidationError:  # strict types take texts for dates and enums only from JSON
        return kind.validate_json(json.dumps(value))


def _by_value(value: Any) -> Any:
    """Return a JSON value. It is the same for equal values."""
    if isinstance(value, pydantic.BaseModel):
        value = {name: getattr(value, name) for name in type(value).model_fields} | (value.model_extra or {})
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC)
    elif isinstance(value, decimal.Decimal):
        value = value.normalize(_EXACT) if value else 0
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Mapping):
        return {json.dumps(_by_value(key)): _by_value(part) for key, part in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(_by_value, value), key=json.dumps)
    if isinstance(value, (list, tuple)):
        return list(map(_by_value, value))
    return to_jsonable_python(value, fallback=str)


def _is_whole(read: Any, value: Any) -> bool:
    """Return whether a value that was read from a JSON value has all of it. Fields with two names may be lost."""
    if not isinstance(value, (dict, list)):
        return True
    written = to_jsonable_python(read, fallback=str)
    return written == value or json.dumps(_in_order(written)) == json.dumps(_in_order(value))


def _in_order(value: Any) -> Any:
    """Return a JSON value with all lists sorted, because sets are written in any order."""
    if isinstance(value, dict):
        return {name: _in_order(value[name]) for name in sorted(value)}
    return sorted(map(_in_order, value), key=json.dumps) if isinstance(value, list) else value


@functools.lru_cache(maxsize=64)  # the gate, the vote and the trace of a run compare the same answers
def _folded(text: str) -> str:
    """Return a text without what does not distinguish answers; not empty unless the text is."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", "".join(map(_unraised, text)))
    return " ".join((undecorated(plain) or plain).casefold().split())


def _unraised(letter: str) -> str:
    """Mark a raised letter, which NFKC would make a usual one: 10\u2075 is not 105."""
    return f"^{letter}" if unicodedata.decomposition(letter).startswith("<super>") else letter


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(to_jsonable_python(value, fallback=str), ensure_ascii=False)


def _conversation(history: dspy.History | None) -> str:
    if history is None or not history.messages:
        return "(this is the first turn)"
    turns = [
        "\n".join(f"{key}: {_as_text(value)}" for key, value in _shown(turn).items() if value not in (None, ""))
        for turn in history.messages
    ]
    return quote("conversation", "\n\n".join(turn for turn in turns if turn))


def _shown(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a turn by the names that readers see: its role, or the task's fields."""
    return {str(turn["role"]): turn.get("content")} if "role" in turn else turn
