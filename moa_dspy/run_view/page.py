"""The page of one run.

A finished run is plain HTML: nothing on the page runs. A live page has one script, which gets the run's events and
writes the texts of models as text only. The page's content security policy allows this script alone, by its digest.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from dataclasses import asdict
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from markupsafe import Markup

import moa_dspy
from moa_dspy.display import environment
from moa_dspy.errors import ConfigurationError
from moa_dspy.json_safe import escaped_json
from moa_dspy.run_view.view import RunView
from moa_dspy.trace import Step, StepStarted, Trace

__all__ = ["event_data", "run_page", "visible_signs"]

_FORBIDDEN: Final = (*range(0x80, 0xA0), *range(0xD800, 0xE000), *range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF)
_REORDERING: Final = (*range(0x2028, 0x202F), *range(0x2066, 0x2070), *range(0xFFF9, 0xFFFC), 0xE0000, 0xE0001)
_SIGNS: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: "\u2421",
    **dict.fromkeys((*_FORBIDDEN, *_REORDERING), "\ufffd"),
}
_UNSEEN: Final = re.compile(f"[{re.escape(''.join(map(chr, _SIGNS)))}]")  # faster than str.translate on a large page


def run_page(
    trace: Trace | None = None, *, events: str | None = None, stop: str | None = None, title: str | None = None
) -> str:
    """Return a run as one HTML page that needs no other file.

    Args:
        trace: the finished run. With ``events``, what is known of it so far.
        events: address of a stream of server-sent events, for a run in progress. The data of each event is the JSON
            text of a ``StepStarted``, a ``Step`` or, at the end, the ``Trace``, as ``event_data`` writes what ``watch``
            gives. An event may come twice.
        stop: address to which a POST stops the run.
        title: title of the page. Default: the run's first text input.

    Raises:
        ConfigurationError: if there is neither a trace nor events, or an address is not http(s).
    """
    if trace is None and events is None:
        raise ConfigurationError("a page shows a trace or the events of a run; give one of them")
    addresses = [address for address in (events, stop) if address is not None]
    script = Markup("")
    if events is not None:
        script = Markup(_file("run.js"))  # noqa: S704 (our own file)
    page = (
        _environment()
        .get_template("run.html.j2")
        .render(
            view=RunView.of(trace or Trace(steps=(), outputs=())),
            live=events is not None,
            events=events,
            stop=stop,
            title=title or _title(trace),
            script=script,
            policy=_policy(str(script), addresses),
            version=moa_dspy.__version__,
        )
    )
    return visible_signs(page)


def event_data(event: StepStarted | Step | Trace) -> str:
    """Return an event of ``watch`` as the data of a server-sent event, in one line, for ``run_page(events=...)``."""
    return json.dumps(asdict(event)) if isinstance(event, StepStarted) else escaped_json(event.model_dump_json())


def visible_signs(page: str) -> str:
    r"""Return ``page`` with visible signs for characters that HTML forbids or that reorder a line.

    ``\r\n`` becomes ``\n``.
    """
    return _UNSEEN.sub(lambda match: _SIGNS[ord(match[0])], page.replace("\r\n", "\n"))


def _title(trace: Trace | None) -> str:
    texts = [value for value in ({} if trace is None else trace.inputs).values() if isinstance(value, str)]
    first = " ".join(texts[0].split()) if texts else ""
    return (first if len(first) <= 200 else f"{first[:199]}…") or "A run of moa-dspy"


def _policy(script: str, addresses: list[str]) -> str:
    """Return the content security policy: own style, at most one script, and requests to these addresses alone."""
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", "base-uri 'none'", "form-action 'none'"]
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        rules.append(f"script-src 'sha256-{digest}'")
        rules.append(f"connect-src {' '.join(dict.fromkeys(map(_origin, addresses)))}")
    return "; ".join(rules)


def _origin(address: str) -> str:
    parts = urlsplit(address)
    if not parts.scheme and not parts.netloc:
        return "'self'"
    if parts.scheme not in ("http", "https") or not parts.netloc or any(sign in parts.netloc for sign in " ;,'\""):
        raise ConfigurationError(
            f"{address!r} is not an http(s) address; give a path, or an address such as http://..."
        )
    return f"{parts.scheme}://{parts.netloc}"


def _file(name: str) -> str:
    return files("moa_dspy.run_view").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> Any:
    return environment(["moa_dspy.run_view"], _as_text)


def _as_text(value: Any) -> Any:
    """Return a value as the page prints it: None as nothing, and values without a text of their own as JSON."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (bool, dict, list, tuple)) else value
