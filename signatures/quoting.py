"""One agent's text shown to another: as data between tags that the text cannot close.

All functions are pure. Equal answers give equal prompts, which response caches and prefix caches depend on.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Final

from moa_dspy.signatures.special_tokens import GAP, HIDDEN, broken, spaced

__all__ = ["clean", "quote", "quote_each"]

# C0 and C1 controls except tab and newline, characters that change the direction of the surrounding text, and
# deprecated or meaningless characters. Joiners, direction marks and variation selectors stay, because languages need
# them.
_MEANINGLESS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0001]")
_OWN_TAG: Final = re.compile(
    f"([<\uff1c])({GAP})(?:([/\uff0f])({GAP}))?"
    f"(?=(?i:{'|'.join(HIDDEN.join(word) for word in ('answer', 'critique', 'conversation'))})(?![A-Za-z0-9_]))"
)
_FIELD_MARKER: Final = re.compile(f"\\[{HIDDEN}\\[(?={GAP}#{HIDDEN}#)")


def clean(text: str) -> str:
    """Return a text without meaningless characters and with plain newlines.

    Lone surrogates become question marks, because no provider accepts them.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _MEANINGLESS.sub("", text).encode("utf-8", "replace").decode("utf-8")


@functools.lru_cache(maxsize=64)  # each answer is shown to several critics
def quote(tag: str, text: str, **attributes: object) -> str:
    """Return a text between `<tag ...>` and `</tag>`. Anything in the text that looks like structure is broken up.

    Spaces are inserted into DSPy's field markers, tokens of chat templates and our own tags, so that they lose their
    effect. This includes forms with spaces, wide characters or invisible characters. The words stay readable.

    Args:
        tag: answer, critique or conversation.
        text: any text of any length.
        **attributes: attributes of the opening tag, in this order.
    """
    body = _quotable(text)
    opening = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"<{tag}{opening}>\n{body}\n</{tag}>"


@functools.lru_cache(maxsize=64)  # and again under another number
def _quotable(text: str) -> str:
    body = clean(text).strip()
    body = _FIELD_MARKER.sub("[ [", body)
    return broken(_OWN_TAG.sub(spaced, body))


def quote_each(tag: str, texts: Iterable[str], *, counter: str = "number") -> str:
    """Return texts between their tags, one below the other. The attribute ``counter`` numbers them from 1."""
    return "\n\n".join(quote(tag, text, **{counter: number}) for number, text in enumerate(texts, 1))
