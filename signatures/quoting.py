"""How one agent's text is shown to another: as data between tags that the text cannot close.

Everything here is a pure function of its input, so equal answers give equal prompts (which response caches and servers'
prefix caches depend on).
"""

from __future__ import annotations

import re

__all__ = ["clean", "quote"]

# C0 and C1 controls but for tab and newline, and the invisible characters that turn or hide text.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
# What adapters, chat templates and our own tags read as structure.
_FIELD_MARKER = re.compile(r"\[\[(?=\s*##)")
_TEMPLATE_TOKEN = re.compile(r"<\|(?=[A-Za-z_]+\|>)")
_TAG = re.compile(r"<(?=/?(?:answer|critique|conversation)\b)", re.IGNORECASE)
_TURN_TOKEN = re.compile(r"<(?=/?s>|/?INST\b|(?:start|end)_of_turn>)|\[(?=/?INST\])")


def clean(text: str) -> str:
    """Return ``text`` without characters that cannot be sent or seen, and with plain newlines.

    Lone surrogates become question marks, since no provider can receive them.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _INVISIBLE.sub("", text).encode("utf-8", "replace").decode("utf-8")


def quote(tag: str, text: str, **attributes: object) -> str:
    """Return ``text`` between ``<tag ...>`` and ``</tag>``, with what could pass for structure in it broken up.

    DSPy's field markers, the turn tokens of chat templates and our own tags lose their effect by one inserted space;
    the words stay readable.

    Args:
        tag: one of answer, critique, conversation.
        text: anything, of any length.
        **attributes: written into the opening tag in the given order.
    """
    body = clean(text).strip()
    body = _FIELD_MARKER.sub("[ [", body)
    body = _TEMPLATE_TOKEN.sub("< |", body)
    body = _TURN_TOKEN.sub(lambda match: f"{match.group()} ", body)
    body = _TAG.sub("< ", body)
    opening = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"<{tag}{opening}>\n{body}\n</{tag}>"
