"""Make model output storable: it can contain text and numbers that JSON and UTF-8 cannot represent."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["json_safe"]


def json_safe(value: Any) -> Any:
    """Return ``value`` with lone surrogates replaced by ``?`` and NaN and infinities by their names.

    Args:
        value: strings, numbers, and lists and dictionaries of them.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {json_safe(key): json_safe(part) for key, part in value.items()}
    return [json_safe(part) for part in value] if isinstance(value, (list, tuple)) else value
