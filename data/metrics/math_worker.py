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


def _with_symbols_of(reference: list[Any], answer: list[Any]) -> list[Any]:
    """Return the answer with the symbols of the reference. The library assumes that `i` is real in one, not in both."""
    known = {symbol.name: symbol for part in reference for symbol in getattr(part, "free_symbols", ())}
    return [
        part.xreplace({symbol: known[symbol.name] for symbol in part.free_symbols if symbol.name in known})
        if hasattr(part, "xreplace")
        else part
        for part in answer
    ]


def main() -> None:
    """Answer requests until the pipe is closed."""
    _limit_memory()
    logging.disable(logging.CRITICAL)
    from math_verify import parse, verify  # slow to import, so before "ready"

    off: Any = None  # the stub says int; None switches the signal off
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            reference, answer = (parse(f"${text}$", parsing_timeout=off) for text in json.loads(line))
            answer = _with_symbols_of(reference, answer)
            equal = bool(
                reference and answer and verify(reference, answer, allow_set_relation_comp=True, timeout_seconds=None)
            )
        except Exception:  # noqa: BLE001 - an expression that the library cannot handle is not equal
            equal = False
        print(json.dumps({"equal": equal}), flush=True)


if __name__ == "__main__":
    main()
