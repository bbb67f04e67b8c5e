"""One agent's text shown to another: as data between tags that the text cannot close.

All functions are pure. Equal answers give equal prompts, which response caches and prefix caches depend on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["clean", "quote", "quote_each"]

# C0 and C1 controls except tab and newline, characters that change the direction of the surrounding text, and
# deprecated or meaningless characters. Joiners, direction marks and variation selectors stay, because languages need
# them.
_MEANINGLESS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0001]")
# Unicode's default ignorable code points. They are invisible and may hide inside a tag.
_INVISIBLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Possessive, so that a long run of them is read only once.
_HIDDEN: Final = f"[{_INVISIBLE}]*+"
_GAP: Final = f"[\\s{_INVISIBLE}]*+"

_OWN_TAGS: Final = ("answer", "critique", "conversation")
# Tokens of chat templates: between angle brackets without bars, and between square brackets.
_ANGLE_TOKENS: Final = (
    *("s", "bos", "eos", "pad", "unk", "start_of_turn", "end_of_turn", "SYS"),
    *("think", "thinking", "tool_call", "tool_calls", "tool_response", "tool_result", "tools"),
)
_SQUARE_TOKENS: Final = (
    *("INST", "SYSTEM_PROMPT", "AVAILABLE_TOOLS", "TOOL_CALLS", "TOOL_RESULTS", "TOOL_CONTENT", "THINK"),
)


def _spelt(words: tuple[str, ...]) -> str:
    """Return a pattern of the words, with or without invisible characters inside them."""
    return "|".join(_HIDDEN.join(map(re.escape, word)) for word in words)


_TAG: Final = re.compile(
    f"([<\uff1c])({_GAP})(?:([/\uff0f])({_GAP}))?"
    f"(?=(?i:{_spelt(_OWN_TAGS)})(?![A-Za-z0-9_])|(?:{_spelt(_ANGLE_TOKENS)}){_GAP}[>\uff1e])"
)
_NAME: Final = r"[^\s<>|\uff5c]{1,80}"
_BARRED_TOKEN: Final = re.compile(
    f"<(?={_HIDDEN}(?:[|\uff5c]{_HIDDEN}{_NAME}[|\uff5c]?{_HIDDEN}>|{_NAME}[|\uff5c]{_HIDDEN}>))"
)
_SQUARE_TOKEN: Final = re.compile(f"\\[(?={_HIDDEN}/?{_HIDDEN}(?:{_spelt(_SQUARE_TOKENS)}){_HIDDEN}\\])")
_FIELD_MARKER: Final = re.compile(f"\\[{_HIDDEN}\\[(?={_GAP}#{_HIDDEN}#)")
_INVISIBLE_ONE: Final = re.compile(f"[{_INVISIBLE}]")


def clean(text: str) -> str:
    """Return a text without meaningless characters and with plain newlines.

    Lone surrogates become question marks, because no provider accepts them.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _MEANINGLESS.sub("", text).encode("utf-8", "replace").decode("utf-8")


def quote(tag: str, text: str, **attributes: object) -> str:
    """Return a text between `<tag ...>` and `</tag>`. Anything in the text that looks like structure is broken up.

    Spaces are inserted into DSPy's field markers, tokens of chat templates and our own tags, so that they lose their
    effect. This includes forms with spaces, wide characters or invisible characters. The words stay readable.

    Args:
        tag: answer, critique or conversation.
        text: any text of any length.
        **attributes: attributes of the opening tag, in this order.
    """
    body = clean(text).strip()
    body = _FIELD_MARKER.sub("[ [", body)
    body = _BARRED_TOKEN.sub("< ", body)
    body = _SQUARE_TOKEN.sub("[ ", body)
    body = _TAG.sub(_broken_tag, body)
    opening = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"<{tag}{opening}>\n{body}\n</{tag}>"


def quote_each(tag: str, texts: Iterable[str], *, counter: str = "number") -> str:
    """Return texts between their tags, one below the other. The attribute ``counter`` numbers them from 1."""
    return "\n\n".join(quote(tag, text, **{counter: number}) for number, text in enumerate(texts, 1))


def _broken_tag(match: re.Match[str]) -> str:
    """Return the beginning of a tag with a space after its bracket and after its slash."""
    bracket, before, slash, after = match.groups()
    spaced = [bracket, _INVISIBLE_ONE.sub("", before) or " "]
    if slash is not None:
        spaced += [slash, _INVISIBLE_ONE.sub("", after) or " "]
    return "".join(spaced)
