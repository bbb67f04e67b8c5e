"""Dates in a model's text, where it is clear which day is meant."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

__all__ = ["iso_date"]

_MONTHS: Final = {
    name: number
    for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)  # noqa: SIM905
}
_DAY: Final = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_NAME: Final = r"(?P<name>[a-z]{3,9})\.?"
_YEAR: Final = r"(?P<year>\d{4})"
_FORMS: Final = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"{_YEAR}(?P<mark>[-/. ])(?P<month>\d{{1,2}})(?P=mark){_DAY}",
        rf"{_YEAR}(?P<month>\d\d)(?P<day>\d\d)",
        rf"{_YEAR} ?[年년] ?(?P<month>\d{{1,2}}) ?[月월] ?(?P<day>\d{{1,2}}) ?[日일]",
        rf"(?:[a-z]{{3,9}},? )?{_NAME} {_DAY},? {_YEAR}",
        rf"(?:[a-z]{{3,9}},? )?{_DAY}[ -](?:of )?{_NAME}[ ,-]{{1,2}}{_YEAR}",
        rf"(?P<day>\d{{1,2}})\.(?P<month>\d{{1,2}})\.{_YEAR}",
        rf"(?P<one>\d{{1,2}})(?P<mark>[/-])(?P<other>\d{{1,2}})(?P=mark){_YEAR}",
    )
)


def iso_date(text: str) -> str | None:
    """Return the date that a text is, as in ISO 8601; None if it is none, or if it is not clear which day is meant.

    | read | not read |
    |---|---|
    | `2024/05/01`, `20240501`, `May 1st, 2024`, `1 May 2024`, `01.05.2024`, `5/13/2024` | `05/01/2024`, `May 2024` |
    """
    match = next((found for form in _FORMS if (found := form.fullmatch(text.strip()))), None)
    if match is None:
        return None
    parts = match.groupdict()
    if "one" in parts:
        # Which of the two is the month depends on the country, unless one of them can be no month.
        months = {int(parts["one"]), int(parts["other"])}
        if len(months) == 2 and max(months) <= 12:
            return None
        month, day = min(months), max(months)
    else:
        name = (parts.get("name") or "").lower()
        month = _MONTHS.get(name[:3], 0) if name else int(parts["month"])
        day = int(parts["day"])
        if name and not _is_month(name):
            return None
    try:
        return date(int(parts["year"]), month, day).isoformat()
    except ValueError:
        return None


def _is_month(name: str) -> bool:
    return name in ("sept", *_MONTHS) or date(2000, _MONTHS.get(name[:3], 1), 1).strftime("%B").lower() == name
