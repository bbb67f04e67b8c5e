"""Where a number takes back the one before it."""

from __future__ import annotations

import re
from typing import Final

from moa_dspy.parsing.phrases import CORRECTED

__all__ = ["correction_start"]

# The number ends its sentence, perhaps with the unit of the one before: "no, 3 steps were needed" takes nothing back.
_CORRECTION: Final = re.compile(
    rf"{CORRECTED}[\s,.:;—–]*(?:wait[\s,]*)?(?:it['’]?s |it is |that['’]?s |(?P<said>it should be |make (?:it|that) ))?"
    r"(?=[*_]{0,2}[-−$€£]*(?:\d[\d.,]*\d|\d)%?(?:[\s\d.,$+*/×·÷()−-]{1,60}=\s?[$€£]?(?:\d[\d.,]*\d|\d))?"
    r"(?P<unit>\s?[^\W\d_]{1,20})?[*_]{0,2}(?:[.;)]{0,2}\s*(?:\n|\Z)|[.;]\s|,\s(?:because|since|as|not)\b))",
    re.IGNORECASE,
)


def correction_start(statement: str) -> int:
    """Return where a number begins that replaces the one before it: `9, no, 18`, `9 cats. Wait, 18 cats`. Or 0."""
    match = _CORRECTION.search(statement)
    if match is None:
        return 0
    unit = (match["unit"] or "").strip()
    is_sure = not unit or match["said"] or re.search(rf"\d\s?{unit}\b", statement[: match.start()])
    return match.end() if is_sure else 0
