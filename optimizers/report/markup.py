"""HTML as a tree: what is put into it is text or the value of an attribute, and never becomes markup.

::

    el("td", "0.5 < 1", cls="number", colspan=2)     # <td class="number" colspan="2">0.5 &lt; 1</td>
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias
from xml.etree import ElementTree as ET

__all__ = ["Child", "Node", "add", "document", "el", "visible"]

Node: TypeAlias = ET.Element
Child: TypeAlias = ET.Element | str | None

# What runs or is read as another language; the page's own style sheet is put in by ``document``.
_REFUSED: Final = frozenset({"script", "style", "iframe", "object", "embed", "link", "base", "meta"})
_UNSEEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]|\r\n?")
_PICTURES: Final = 0x2400
_DELETE: Final = 0x7F

# Nothing is fetched and nothing runs, whatever a text on the page may say.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def el(tag: str, *children: Child, **attributes: str | float | bool | None) -> Node:
    """Return an element.

    Args:
        tag: its name.
        *children: elements and texts, in their order; None is left out.
        **attributes: by name, ``cls`` for ``class`` and ``_`` for ``-``; None and False are left out, True is the name
            alone.

    Raises:
        ValueError: elements of this name could run or load something.
    """
    if tag in _REFUSED:
        raise ValueError(f"a report has no <{tag}>")
    node = ET.Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            key = "class" if name == "cls" else name.replace("_", "-")
            node.set(key, "" if value is True else visible(str(value)))
    return add(node, *children)


def add(node: Node, *children: Child) -> Node:
    """Put further children into an element, and return it."""
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            _append_text(node, visible(child))
        else:
            node.append(child)
    return node


def document(title: str, style: str, *body: Child) -> str:
    """Return a whole page that needs nothing from elsewhere.

    Args:
        title: in the browser's tab.
        style: the style sheet; the program's own text.
        *body: what is on the page.
    """
    sheet = ET.Element("style")
    sheet.text = style
    head = el("head")
    for attributes in (
        {"charset": "utf-8"},
        {"http-equiv": "Content-Security-Policy", "content": _POLICY},
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
        {"name": "color-scheme", "content": "light dark"},
    ):
        head.append(ET.Element("meta", attributes))
    add(head, el("title", title), sheet)
    page = el("html", head, el("body", *body), lang="en")
    return f"<!doctype html>\n{ET.tostring(page, encoding='unicode', method='html')}\n"


def visible(text: str) -> str:
    r"""Return ``text`` with a visible stand-in for every character that HTML forbids; ``\r\n`` is a line's end."""
    return _UNSEEN.sub(lambda found: _stand_in(found.group()), text)


def _stand_in(text: str) -> str:
    if text == "\r\n":
        return "\n"
    code = ord(text)
    if code < 0x20:
        return chr(_PICTURES + code)
    return chr(_PICTURES + 0x21) if code == _DELETE else "\ufffd"


def _append_text(node: Node, text: str) -> None:
    if len(node):
        node[-1].tail = (node[-1].tail or "") + text
    else:
        node.text = (node.text or "") + text
