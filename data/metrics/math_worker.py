"""The worker process that compares mathematical expressions: one JSON line in, one JSON line out.

`moa_dspy.data.metrics.mathematics` starts it by file name, so it imports nothing from this package. The parent process
kills it if a computation takes too long. The worker limits its own memory.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

_MEMORY_BYTES = 4 * 1024**3


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _equal(reference: str, answer: str) -> bool:
    from math_verify import parse, verify

    off: Any = None  # the stub says int; None switches the signal off
    parsed = [parse(f"${text}$", parsing_timeout=off) for text in (reference, answer)]
    return bool(parsed[0] and parsed[1] and verify(parsed[0], parsed[1], timeout_seconds=None))


def _answer(line: str) -> dict[str, object]:
    try:
        reference, answer = json.loads(line)
        return {"equal": _equal(reference, answer)}
    except Exception as error:  # noqa: BLE001 - an expression that the library cannot handle is not equal
        return {"equal": False, "error": type(error).__name__}


def main() -> None:
    """Answer requests until the pipe is closed."""
    _limit_memory()
    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401 - slow to import, so before "ready"

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(line)), flush=True)


if __name__ == "__main__":
    main()
