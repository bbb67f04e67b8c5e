"""Remove credentials from text that is kept or shown: a provider may repeat the key that it refuses.

``redacted`` is applied where text of a provider, a server or a library becomes a ``Failure`` or a message. A credential
is recognized by its shape, by what stands before it, or because this process knows it: as a setting of a language model
(``remember``) or as the value of an environment variable.
"""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

__all__ = ["REDACTED", "redacted", "remember"]

REDACTED: Final = "[redacted]"

_SHORTEST: Final = 8  # characters of a known credential; shorter ones would remove ordinary words
_MOST: Final = 1_000  # remembered credentials
_SECRET_NAME: Final = re.compile(
    r"(?:^|[_-])(?:(?:api|access|private|secret|subscription|account|auth|master|signing|encryption|service|license)?"
    r"[_-]?key(?:[_-]?id)?|apikey|token|secret|password|passwd|passphrase|credentials?|bearer|authorization|cookie)"
    r"(?:[_-]?\d+)?$",
    re.IGNORECASE,
)
_WORD: Final = r"[^\s\"'`<>,;&{}()\[\]\\]"
_QUOTE: Final = r"[\"'`\\]{0,3}"
_SEPARATOR: Final = (
    rf"(?P<sep>{_QUOTE}\s{{0,3}}(?:=>?|:|%3D|%3A)\s{{0,3}}(?:%22|{_QUOTE})|\s+(?:is|was|of)\s+{_QUOTE}|"
    rf"\s+(?:provided|given|used|received|sent|value)\s{{0,3}}[:=]?\s{{0,3}}{_QUOTE})(?:(?:Bearer|Basic|Token|ApiKey)\s+)?"
)
# Names whose values are credentials: api_key=..., "x-api-key": "...", Authorization: Bearer ...
_STRONG: Final = (
    r"[\w-]{0,40}?(?:api[ _-]?keys?|apikey|(?:secret[ _-]?)?access[ _-]?key(?:[ _-]?id)?|secret[ _-]?key|"
    r"(?:private|subscription|account|license|auth|function|shared|master|service)[ _-]?key|"
    r"(?:access|refresh|auth|id|bearer|session|security|api|service|client)[ _-]?token|"
    r"secret|passw(?:or)?d|passphrase|authorization|credentials?|x-(?:amz|goog)-signature|client[ _-]?assertion)"
)
# Names that have other meanings, too: only values that are no words are removed.
_WEAK: Final = r"(?:[\w-]{0,40}[_-])?(?:key|token|sig|pwd|auth|cookie|jwt|pat)"
_SHAPES: Final = (
    # A private key in PEM format, also if the end is missing.
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    # An Authorization header without its name.
    re.compile(
        rf"(?P<keep>\b(?:Bearer(?:[ :=]|%20)+{_QUOTE}|AWS4-HMAC-SHA256 Credential=))"
        rf"(?:{_WORD}{{16,}}|(?={_WORD}{{0,15}}[\d_.=-]){_WORD}{{6,}})",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<keep>\bBasic )(?=\S{0,200}[\dA-Z=])[A-Za-z0-9+/]{12,}={0,2}"),
    # User name and password in an address.
    re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]{1,20}://)[^\s/@\"'<>]{1,300}(?=@)", re.IGNORECASE),
    # JSON web tokens.
    re.compile(r"\beyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?"),
    # Keys whose prefix names their kind or owner: OpenAI, Anthropic, OpenRouter, xAI, Groq, Hugging Face, GitHub, ...
    re.compile(r"(?<![A-Za-z0-9])(?:sk|hf|gsk|csk|xai|nvapi|pplx|r8|ghp|gho|ghu|ghs|ghr)[-_][A-Za-z0-9*][\w*.-]{6,}"),
    re.compile(
        r"(?<![A-Za-z0-9_])(?:pk|rk|ak|fk|fw|tgp|jina|pa|esecret|github_pat|glpat|xox[abeprs]|dapi|lsv2|tvly|key|api|"
        r"dop_v1|npm|pypi|shpat|whsec|voy|cpk|nvcf|sess|secret|token|apikey)[-_](?=[\w-]{0,200}\d)[\w-]{14,}"
    ),
    # Google, Amazon, Databricks, Telegram.
    re.compile(r"\bAIza[\w-]{20,}|\bya29\.[\w.-]{10,}|\b1//0[\w-]{20,}|\bGOCSPX-[\w-]{10,}"),
    re.compile(r"\b(?:A3T[A-Z0-9]|AKIA|ASIA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{12,}\b"),
    re.compile(r"\bABSK[A-Za-z0-9+/=]{20,}|\bdapi[0-9a-f]{32}\b|\b\d{8,10}:AA[\w-]{30,}"),
    # name=value, name: value, "name": "value"
    re.compile(rf"(?P<keep>(?<![A-Za-z0-9]){_STRONG}{_SEPARATOR})(?!\[redacted)(?P<it>{_WORD}{{6,}})", re.IGNORECASE),
    re.compile(rf"(?P<keep>(?<![A-Za-z0-9]){_WEAK}{_SEPARATOR})(?!\[redacted)(?P<weak>{_WORD}{{6,}})", re.IGNORECASE),
)
_ORDINARY: Final = re.compile(
    r"[A-Za-z]{1,20}(?:[_'/.-][A-Za-z]{1,20}){0,5}|[\d.,:%/-]{1,12}|\$?[A-Z_]{1,40}|\w{1,20}\[.*", re.ASCII
)

_SCHEME: Final = re.compile(r"^\s*(?:Bearer|Basic|Token)\s+", re.IGNORECASE)

_known: dict[str, None] = {}
_lock: Final = threading.Lock()


def redacted(text: str) -> str:
    """Return ``text`` with every credential replaced by ``[redacted]``."""
    for value in _known_values():
        if value in text:
            text = text.replace(value, REDACTED)
    for shape in _SHAPES:
        text = shape.sub(_replacement, text)
    return text


def remember(settings: Mapping[str, Any]) -> None:
    """Remember the credentials among the settings of a language model, so that they are removed wherever they appear.

    Args:
        settings: such as ``lm.kwargs``. Headers and other mappings inside are searched, too.
    """
    for value in _credentials(settings, 0):
        with _lock:
            _known.pop(value, None)
            _known[value] = None
            while len(_known) > _MOST:
                del _known[next(iter(_known))]


def _replacement(match: re.Match[str]) -> str:
    found = match.groupdict()
    value = found.get("weak") or found.get("it")
    if value is not None:
        assigned = "weak" not in found and re.search(r"[=\"'`%]", found["sep"]) is not None
        if not assigned and _ORDINARY.fullmatch(value.strip(".!?:*")):
            return match[0]  # a word of a sentence, a number, or the name of a variable
    return f"{found.get('keep') or ''}{REDACTED}"


def _known_values() -> Iterator[str]:
    """Yield the known credentials and the forms in which they appear in addresses and headers, longest first."""
    with _lock:
        known = set(_known)
    known |= {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    long = {value.strip() for value in known if len(value.strip()) >= _SHORTEST}
    forms = long | {quote(value, safe="") for value in long} | {quote_plus(value) for value in long}
    forms |= {base64.b64encode(value.encode(errors="replace")).decode() for value in long}
    yield from sorted(forms, key=lambda form: (-len(form), form))


def _credentials(settings: Mapping[str, Any], depth: int) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and depth < 3:
            yield from _credentials(value, depth + 1)
        elif isinstance(value, str) and _SECRET_NAME.search(str(name)):
            yield _SCHEME.sub("", value)  # a header's value without its scheme
