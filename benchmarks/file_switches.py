"""How often one question changes from one file of ours to another: a measure of detours in the code.

    uv run python -m benchmarks.file_switches

Two agents, one layer, nine LM calls on scripted models. Every Python call into the package is counted. A call is a
switch if its file differs from the file of the call before it. The testing kit is left out.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FrameType

import moa_dspy
from moa_dspy import AttentionMoA
from moa_dspy.testing import ScriptedLM

ROOT = Path(moa_dspy.__file__).resolve().parents[1]


@cache
def own(filename: str) -> str | None:
    """Return the file's path within the project, or None if it is not one of the package's."""
    if not filename.endswith(".py"):  # generated code, such as methods of dataclasses
        return None
    path = Path(filename).resolve()
    if not path.is_relative_to(ROOT) or ".venv" in path.parts or path.name in ("testing.py", Path(__file__).name):
        return None
    return str(path.relative_to(ROOT))


def calls_of_a_question() -> list[str]:
    """Return the file of each call, in order."""
    files: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (file := own(frame.f_code.co_filename)) is not None:
            files.append(file)

    program = AttentionMoA("question -> answer", [ScriptedLM("Paris", f"scripted/{name}") for name in "ab"], layers=1)
    program(question="warm up")

    async def profiled() -> None:
        sys.setprofile(note)
        try:
            await program.acall(question="What is the capital of France?")
        finally:
            sys.setprofile(None)

    asyncio.run(profiled())
    return files


def main() -> None:
    """Print the figures and the most frequent switches."""
    files = calls_of_a_question()
    switches = [(one, other) for one, other in pairwise(files) if one != other]
    print(
        f"{len(files)} calls in {len(set(files))} files, {len(switches)} switches, {len(switches) / 9:.0f} per LM call"
    )
    for (one, other), times in Counter(switches).most_common(40):
        print(f"{times:4} {one} -> {other}")


if __name__ == "__main__":
    main()
