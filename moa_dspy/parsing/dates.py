"""Dates in a model's text, where it is clear which day is meant."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

__all__ = ["iso_date"]

_NAMES: Final = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTHS: Final = {form: number for number, name in enumerate(_NAMES, 1) for form in (name, name[:3])} | {"sept": 9}
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
        name = parts.get("name")
        month, day = _MONTHS.get(name.lower(), 0) if name else int(parts["month"]), int(parts["day"])
    try:
        return date(int(parts["year"]), month, day).isoformat()
    except ValueError:
        return None
