"""The reader: turns a model's whole response into reasoning, text, end, usage and probabilities.

It stands in front of every adapter. DSPy passes only texts to adapters. Whether a text is an answer depends on the
rest of the response: the finish reason, a refusal, an error inside a successful response, and reasoning fields.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from dspy.lm15 import DataPart, Message, RefusalPart, Request, Response, TextPart, ThinkingPart

from moa_dspy._dspy import repair_bodies, repair_litellm
from moa_dspy.json_safe import json_safe
from moa_dspy.parsing import EDGES, PLAIN, split_reasoning
from moa_dspy.parsing.ends import End, end_of
from moa_dspy.runtime.bodies import MARKER, counts_are_doubtful, repair_body, repair_chunk, repair_error
from moa_dspy.runtime.contents import flat_content, member, reasoning_fields, split_content, words_in

__all__ = [
    "VISIBLE",
    "Completion",
    "End",
    "Text",
    "any_visible",
    "as_text",
    "is_visible",
    "prompt_in",
    "read",
    "text_in",
    "texts_in",
    "with_texts",
]

Text: TypeAlias = str | Sequence[Mapping[str, Any]]

# Letters and symbols in Unicode that are invisible: Hangul fillers, and Braille without dots.
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
VISIBLE: Final = re.compile("[!-~]")
"""Matches a visible character in ASCII, which nearly every text has."""

# Where providers say why a reply ended.
_REASONS: Final = ("finish_reason", "native_finish_reason", "stop_reason", "finishReason", "done_reason")
_MESSAGE_MAX: Final = 4000  # cut again after credentials are redacted

repair_bodies(repair_body, repair_error, repair_chunk)
repair_litellm(flat_content)


@dataclass(frozen=True)
class Completion:
    """What a response contains.

    Attributes:
        text: the answer, without reasoning and without marks of the chat template.
        reasoning: the reasoning, from fields of the response and from its text.
        end: how the reply ended.
        answered: whether the answer was begun. If not, the reply ended during the reasoning.
        words: the provider's words for a refusal or an error.
        code: the provider's code for an error: an HTTP status or a name.
        usage_doubtful: whether the provider's usage is no usage and was repaired, or must be estimated.
        logprobs: tokens with log-probabilities; empty if the provider gave none.
    """

    text: str
    reasoning: str = ""
    end: End = "finished"
    answered: bool = True
    words: str = ""
    code: str = ""
    usage_doubtful: bool = False
    logprobs: tuple[Any, ...] = ()


def read(reply: Any, response: Any = None, keep: Collection[str] = ()) -> list[Completion]:
    """Read an LM's return value; one completion for each of its texts.

    Args:
        reply: what the LM returned: a ``dspy.lm15.Response``, or texts or dictionaries of one response.
        response: the whole response, if ``reply`` is only part of it: a ``Response``, or an object or dictionary in
            OpenAI's format.
        keep: names of tags in the text that are output fields.
    """
    if isinstance(reply, Response):
        return [_completion(_of_response(reply), keep)]
    outputs = list(reply) if isinstance(reply, Sequence) and not isinstance(reply, str) else []
    wholes = list(response) if isinstance(response, tuple) else [response]
    completions = []
    for number, output in enumerate(outputs):
        whole = wholes[number] if number < len(wholes) else wholes[0]
        raw = _of_response(whole) if isinstance(whole, Response) else _of_body(whole, number)
        text = output.get("text") if isinstance(output, Mapping) else output
        reasoning = output.get("reasoning_content") if isinstance(output, Mapping) else None
        raw = replace(raw, text=str(text or "") or raw.text, reasoning=raw.reasoning or str(reasoning or ""))
        completions.append(_completion(raw, keep))
    return completions


def with_texts(reply: Any, completions: Sequence[Completion]) -> Any:
    """Return an LM's return value with the texts of its completions."""
    if isinstance(reply, Response):
        (completion,) = completions
        return _with_text(reply, completion.text)
    outputs: list[Any] = []
    for output, completion in zip(reply, completions, strict=True):
        if isinstance(output, Mapping):
            outputs.append({**output, "text": completion.text or None})
        else:
            outputs.append(completion.text or None)
    return outputs


def text_in(reply: Any) -> str:
    """Return the first text in an LM's return value, as the model wrote it."""
    if isinstance(reply, Response):
        return _text_of(reply)
    first = next(iter(reply or ()), None)
    return str((first.get("text") if isinstance(first, Mapping) else first) or "")


def texts_in(reply: Any, body: Any = None) -> list[str]:
    """Return the texts in an LM's return value, with reasoning and refusals that are outside of them.

    Args:
        reply: the return value.
        body: the response, where DSPy returns only its texts. Some refusals are only there.
    """
    if isinstance(reply, Response):
        others = [part.text for part in reply.message.parts if isinstance(part, (ThinkingPart, RefusalPart))]
        texts, body = [*others, _text_of(reply)], reply
    else:
        outputs = reply if isinstance(reply, Sequence) else ()
        named = [output if isinstance(output, Mapping) else {"text": output} for output in outputs]
        texts = [str(output.get(name) or "") for output in named for name in ("reasoning_content", "text")]
    if any(texts) or body is None:
        return texts
    raw = _of_response(body) if isinstance(body, Response) else _of_body(body, 0)
    return [raw.reasoning, raw.text, raw.words if raw.end == "refused" else ""]


def prompt_in(arguments: Sequence[Any], options: Mapping[str, Any]) -> Text:
    """Return the prompt in an LM's arguments: a text, or messages, which may contain images."""
    asked = arguments[0] if arguments else options.get("messages")
    if isinstance(asked, Request):
        return "\n\n".join([str(asked.system or ""), *(message.text or "" for message in asked.messages)])
    return asked or ""


def as_text(prompt: Text) -> str:
    """Return a prompt as one text. Images and files are left out."""
    if isinstance(prompt, str):
        return prompt
    contents = [message if isinstance(message, str) else message.get("content") for message in prompt]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [{"text": content}])]
    return "\n\n".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and part.get("text"))


def any_visible(outputs: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Return whether a named output contains something visible. A value that is not text always does."""
    values = (outputs[name] for name in names if name in outputs)
    return any(not isinstance(value, str) or is_visible(value) for value in values)


def is_visible(text: str) -> bool:
    """Return whether ``text`` contains a visible character."""
    if VISIBLE.search(text):
        return True
    return any(unicodedata.category(letter)[0] not in "CMZ" and letter not in _BLANK for letter in text)


def _completion(raw: Completion, keep: Collection[str]) -> Completion:
    """Return a completion whose text is only the answer."""
    if PLAIN.fullmatch(raw.text) and not raw.reasoning and is_visible(raw.text):
        text = (raw.text if raw.text.isascii() else json_safe(raw.text)).strip(EDGES)
        return raw if text == raw.text else replace(raw, text=text)
    split = split_reasoning(json_safe(raw.text), keep)
    reasoning, text, answered = [json_safe(raw.reasoning), split.reasoning], split.text, split.ended
    if not is_visible(text) and is_visible(raw.reasoning):
        # Some servers put the whole reply into the reasoning field, with the answer after a closing tag.
        inner = split_reasoning(reasoning[0], keep)
        text, answered = (inner.text, True) if inner.reasoning and inner.ended else ("", False)
    if raw.end == "truncated" and not is_visible(text):
        answered = False
    joined = "\n\n".join(part for part in reasoning if part.strip())
    return replace(raw, text=text, reasoning=joined, answered=answered)


def _of_response(response: Response) -> Completion:
    """Return the parts of a canonical response. What DSPy has no place for is in the provider's body."""
    parts, text = response.message.parts, _text_of(response)
    raw = _of_body(response.provider_data, 0)
    refusal = "\n".join(part.text for part in parts if isinstance(part, RefusalPart))
    thinking = "\n\n".join(part.text for part in parts if isinstance(part, ThinkingPart))
    end: End = raw.end
    if end == "finished" and response.finish_reason in ("length", "content_filter"):
        end = "truncated" if response.finish_reason == "length" else "filtered"
    if end == "finished" and refusal and not is_visible(text):
        end = "refused"
    return Completion(
        text=text or raw.text,
        reasoning=thinking or raw.reasoning,
        end=end,
        words=raw.words or refusal,
        code=raw.code,
        usage_doubtful=raw.usage_doubtful,
        logprobs=tuple(response.logprobs or ()),
    )


def _text_of(response: Response) -> str:
    """Return the text of a response: its parts with nothing between, as providers mean them."""
    return "".join(part.text for part in response.message.parts if isinstance(part, TextPart))


def _of_body(body: Any, number: int) -> Completion:
    """Return the parts of a response in a provider's own format, as far as they can be found."""
    if not body:
        return Completion("")
    choices = member(body, "choices") or member(body, "candidates")
    choice = choices[number] if isinstance(choices, Sequence) and len(choices) > number else None
    message = member(choice, "message") or member(body, "message")
    content = member(message, "content") if message is not None else member(choice, "text")
    parts = split_content(content)
    reasoning = [*parts.reasoning, *reasoning_fields(message)]
    refusal = words_in(member(message, "refusal")) or "\n".join(parts.refusals)
    error = next(
        (found for found in (member(choice, "error"), member(message, "error"), member(body, "error")) if found), None
    )
    if error is None and choices is None and str(member(body, "object")) == "error":
        error = body
    text, end, code = parts.text, _end_of(body, choice, message), ""
    words = refusal
    if error is not None:
        end, code, words = "failed", str(member(error, "code") or member(error, "type") or ""), words_in(error)
    elif refusal and not is_visible(text):
        end = "refused"
    elif end == "failed":
        code = code or "server"
    usage = member(body, "usage")
    return Completion(
        text=text,
        reasoning="\n\n".join(dict.fromkeys(part for part in reasoning if part.strip())),
        end=end,
        words=json_safe(words)[:_MESSAGE_MAX] if words else "",
        code=code,
        usage_doubtful=bool(member(body, MARKER)) or (isinstance(usage, Mapping) and counts_are_doubtful(usage)),
    )


def _end_of(body: Any, choice: Any, message: Any) -> End:
    """Return how a reply ended, by the words of its provider."""
    details = member(body, "incomplete_details")
    words = [member(part, name) for part in (choice, message, body) for name in _REASONS]
    words += [member(details, "reason"), member(member(body, "promptFeedback"), "blockReason")]
    return end_of(" ".join(word for word in words if isinstance(word, str)))


def _with_text(response: Response, text: str) -> Response:
    """Return a response with another text. Its other parts stay, except decoded JSON, which the text replaces."""
    others = [part for part in response.message.parts if not isinstance(part, (TextPart, DataPart))]
    parts = [*(part for part in others if isinstance(part, ThinkingPart)), TextPart(text=text)]
    parts += [part for part in others if not isinstance(part, ThinkingPart)]
    return replace(response, message=Message(role="assistant", parts=tuple(parts)))
