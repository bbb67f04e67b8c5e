"""What a written value is read as."""

from __future__ import annotations

from typing import Any, Final

import pytest

from moa_dspy.parsing import UnreadableError, parse_value

UNREADABLE: Final = "unreadable"


def assert_read(kind: Any, written: Any, value: Any) -> None:
    """The value is read with its type, or refused if it is ``UNREADABLE``."""
    if value == UNREADABLE:
        with pytest.raises(UnreadableError):
            parse_value(written, kind)
    else:
        found = parse_value(written, kind)
        assert found == value
        assert type(found) is type(value)
