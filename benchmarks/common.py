"""What the measurements share: the provider's process, programs on it, and how figures are written down."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy

from moa_dspy import AttentionMoA

__all__ = ["TASK", "Row", "arguments", "lm_at", "moa_at", "provider", "question", "spread", "table"]

TASK = "question -> answer"
Row = Sequence[str]


@contextmanager
def provider(latency: float, sigma: float = 0.0, words: int = 40) -> Iterator[str]:
    """A running provider process; yields its base URL."""
    command = [sys.executable, "-S", str(Path(__file__).with_name("server.py"))]
    options = ["--median", str(latency), "--sigma", str(sigma), "--words", str(words)]
    with subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.stdin.close()
            process.wait(timeout=10)


def lm_at(url: str, model: str = "model") -> dspy.LM:
    """An ordinary ``dspy.LM`` on the provider."""
    return dspy.LM(f"openai/{model}", api_base=url, api_key="loopback", cache=False, temperature=1.0, num_retries=0)


def moa_at(url: str, agents: int, layers: int) -> AttentionMoA:
    """A program whose agents are as many models on the provider."""
    return AttentionMoA(TASK, [lm_at(url, f"model-{i}") for i in range(agents)], layers=layers)


def question(number: int) -> str:
    """The question of that number."""
    return f"Question {number}: which town is the capital of country {number}, and since when has it been?"


def arguments(description: str | None, argv: Sequence[str] | None, **defaults: float | str) -> argparse.Namespace:
    """The command line: one option per default, of its type."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n", maxsplit=1)[0])
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    return parser.parse_args(argv)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and the least and the greatest of the values."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(rows: Sequence[Row]) -> None:
    """Print the rows, of which the first is the head, in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"(load {load} on {os.cpu_count()} CPUs)")
