"""How one agent's text is shown to another: as data between tags that the text cannot close.

Everything here is a pure function of its input, so equal answers give equal prompts (which response caches and servers'
prefix caches depend on).
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["clean", "quote"]

# C0 and C1 controls but for tab and newline, what turns the direction of the text around it, and characters that are
# deprecated or mean nothing inside a text. Joiners, direction marks and variation selectors stay: languages need them.
_MEANINGLESS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0001]")
# What shows nothing, and so may hide inside what looks like a tag: Unicode's default ignorable code points.
_UNSEEN: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Possessive, so that a megabyte of them is passed over once.
_HIDDEN: Final = f"[{_UNSEEN}]*+"
_GAP: Final = f"[\\s{_UNSEEN}]*+"

_OWN_TAGS: Final = ("answer", "critique", "conversation")
# What chat templates write between angle brackets, without bars, and between square ones.
_ANGLE_TOKENS: Final = (
    *("s", "bos", "eos", "pad", "unk", "start_of_turn", "end_of_turn", "SYS"),
    *("think", "thinking", "tool_call", "tool_calls", "tool_response", "tool_result", "tools"),
)
_SQUARE_TOKENS: Final = (
    *("INST", "SYSTEM_PROMPT", "AVAILABLE_TOOLS", "TOOL_CALLS", "TOOL_RESULTS", "TOOL_CONTENT", "THINK"),
)


def _spelt(words: tuple[str, ...]) -> str:
    """A pattern for each of ``words``, with or without unseen characters in it."""
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
_UNSEEN_ONE: Final = re.compile(f"[{_UNSEEN}]")


def clean(text: str) -> str:
    """Return ``text`` without characters that cannot be sent or mean nothing, and with plain newlines.

    Lone surrogates become question marks, since no provider can receive them.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _MEANINGLESS.sub("", text).encode("utf-8", "replace").decode("utf-8")


def quote(tag: str, text: str, **attributes: object) -> str:
    """Return ``text`` between ``<tag ...>`` and ``</tag>``, with what could pass for structure in it broken up.

    DSPy's field markers, the tokens of chat templates and our own tags, however they are spaced, widened or hidden,
    lose their effect by inserted spaces; the words stay readable.

    Args:
        tag: one of answer, critique, conversation.
        text: anything, of any length.
        **attributes: written into the opening tag in the given order.
    """
    body = clean(text).strip()
    body = _FIELD_MARKER.sub("[ [", body)
    body = _BARRED_TOKEN.sub("< ", body)
    body = _SQUARE_TOKEN.sub("[ ", body)
    body = _TAG.sub(_broken_tag, body)
    opening = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"<{tag}{opening}>\n{body}\n</{tag}>"


def _broken_tag(match: re.Match[str]) -> str:
    """The beginning of a tag with a space after its bracket and after its slash."""
    bracket, before, slash, after = match.groups()
    spaced = [bracket, _UNSEEN_ONE.sub("", before) or " "]
    if slash is not None:
        spaced += [slash, _UNSEEN_ONE.sub("", after) or " "]
    return "".join(spaced)
