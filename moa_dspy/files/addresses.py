"""Recognize addresses in the names of a program file.

A program file names models, and a provider's library may read an address out of a name: ``oobabooga/http://HOST/x``
sends the question to HOST. So a name from a file may hold no address in any form.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from moa_dspy.errors import ConfigurationError

__all__ = ["address_in", "check_model_name", "check_options"]

_ROUNDS: Final = 5  # of nested encodings
_LONGEST: Final = 500  # characters of a name
# Besides letters of any script and digits, the names of models have these signs.
_FOREIGN: Final = re.compile(r"[^\w ./:@+=,()-]")
_SCHEME: Final = re.compile(
    r"(?:^|[/:@=+])(?:https?|wss?|ftps?|sftp|ssh|file|unix|tcp|udp|grpcs?|data|s3|gs|git|ldaps?|smb|nfs|jar|javascript)"
    r":(?!:)",
    re.IGNORECASE,
)
_PORT: Final = re.compile(r"[\w-]*[a-z_-]:\d{2,5}(?=$|[/@:+=])|\blocalhost:", re.IGNORECASE)
_IPV4: Final = re.compile(
    r"(?<![\w.-])(?:0x[0-9a-f]+|\d{1,3})(?:\.(?:0x[0-9a-f]+|\d{1,3})){3}(?![\w.-])", re.IGNORECASE
)
_IP_NUMBER: Final = re.compile(r"(?:^|[/@=])(?:0x[0-9a-f]{8}|[1-4]\d{9})(?=$|[/:])", re.IGNORECASE)
_LOCAL_HOST: Final = re.compile(r"(?:^|[/@:=])localhost(?=$|[/:.])", re.IGNORECASE)
# A name may have a version after @, such as @20240229 or @latest, and names of some providers begin with @cf or @hf.
_USER: Final = re.compile(r"@(?!(?:\d[\w-]*|latest|default|stable|preview)(?:$|[/:]))(?!(?<=/@)[a-z]{2,3}/)")
_DOMAIN: Final = re.compile(
    r"(?:^|[/:@=])(?:[^\W_](?:[\w-]*[^\W_])?\.)+(?:com|net|org|edu|gov|mil|int|info|biz|name|pro|aero|coop|museum|arpa|"
    r"onion|xyz|top|site|online|store|shop|tech|cloud|click|link|live|space|website|host|page|app|dev|run|sh|zip|mov|"
    r"local|localhost|localdomain|internal|intranet|corp|home|lan|test|example|invalid|"
    r"a[cefgilmoqrstuwxz]|b[abdefghijmnorstvwyz]|c[acdfghiklmnoruvwxyz]|d[ejkmoz]|e[cegrstu]|f[ijkmor]|"
    r"g[abdefghilmnpqrstuwy]|h[kmnrtu]|i[delmnoqrst]|j[emop]|k[eghimnprwyz]|l[abcikrstuvy]|m[acdeghklmnopqrstuvwxyz]|"
    r"n[acefgilopruz]|om|p[aefghklmnrstwy]|qa|r[eosuw]|s[abcdeghiklmnorstuvxyz]|t[cdfghjklmnortvwz]|u[agksyz]|"
    r"v[aceginu]|w[fs]|xn--[\w-]+|y[et]|z[amw])\.?(?=$|[/:@])",
    re.IGNORECASE,
)
# Ollama names a model by the registry that it was pulled from. The name goes to the user's own server.
_REGISTRY: Final = re.compile(r"^(ollama(?:_chat)?/)(?:hf\.co|huggingface\.co|registry\.ollama\.ai)/")
_FORMS: Final = (
    (_SCHEME, "a scheme"),
    (_PORT, "a port"),
    (_IPV4, "an IP address"),
    (_IP_NUMBER, "an IP address"),
    (_LOCAL_HOST, "a host"),
    (_USER, "a host after @"),
    (_DOMAIN, "a host"),
)

_NUMBERS: Final = frozenset({"top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty"})


def address_in(name: str) -> str | None:
    """Return what in the name of a model is, or may be read as, an address; None if nothing is.

    Args:
        name: such as ``openai/gpt-4.1``. ``local/...`` is a path on this machine.
    """
    plain = _decoded(name[: _LONGEST + 1])
    if len(name) > _LONGEST:
        return f"more than {_LONGEST} characters"
    if plain is None:
        return "an encoded text"
    if "://" in plain:
        return "://"
    if plain.startswith("local/"):
        rest = plain.removeprefix("local/")
        return "the path of another machine" if rest.startswith(("//", "\\\\")) or _SCHEME.search(rest) else None
    if plain != name:
        return "an encoded text"
    if foreign := _FOREIGN.search(plain):
        return f"the character {foreign[0]!r}"
    if "//" in plain or ".." in plain or plain.startswith("/"):
        return "a path"
    plain = _REGISTRY.sub(r"\1", plain)
    return next((what for form, what in _FORMS if form.search(plain)), None)


def check_model_name(name: str, owner: str) -> None:
    """Raise ConfigurationError if the name of a model of ``owner`` holds an address."""
    found = address_in(name)
    if found is not None:
        raise ConfigurationError(
            f"the model of {owner}, {name!r:.200}, holds {found}: a program file names models and no addresses; "
            "name the model alone, and give its address when you load the program (lms=, or api_base in a --config "
            "file)"
        )


def check_options(options: Mapping[str, Any], owner: str) -> None:
    """Raise ConfigurationError if a sampling option has another value, so that nothing is hidden in it."""
    for name, value in options.items():
        if not _is_sampling_value(name, value):
            raise ConfigurationError(
                f"option {name} of {owner} is {value!r:.80}; it must be a sampling setting, such as a number"
            )


def _is_sampling_value(name: str, value: Any) -> bool:
    if value is None or name in _NUMBERS:
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    if name == "stop":
        return isinstance(value, str) or (
            isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
        )
    if name == "logit_bias":
        return isinstance(value, dict) and all(
            re.fullmatch(r"\d+", str(token)) and isinstance(bias, int | float) for token, bias in value.items()
        )
    words = value.values() if isinstance(value, dict) else (value,)  # reasoning_effort
    return all(isinstance(word, str) and re.fullmatch(r"\w{1,20}", word) for word in words)


def _decoded(name: str) -> str | None:
    """Return ``name`` without percent-encoding, entities and look-alike characters; None if there is no end to them."""
    for _ in range(_ROUNDS):
        plain = unicodedata.normalize("NFKC", html.unescape(unquote(name)))
        if plain == name:
            return name
        name = plain
    return None
