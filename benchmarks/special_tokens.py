"""How many special tokens the quoting of peers' text breaks up, and how often it changes ordinary code and markup.

    uv run python -m benchmarks.special_tokens --tokens FOLDER --corpus FOLDER...

`--tokens` is a folder with tokenizer configurations and parsers of model families, such as the unpacked wheels of vllm,
sglang, transformers and mistral-common. Taken are the special tokens listed in `.json` files, and in `.py` files the
string constants that stand in brackets. `--corpus` are folders with ordinary files: Python, C, JavaScript, HTML,
Markdown, LaTeX.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moa_dspy.signatures.special_tokens import broken

KINDS = {".py": "Python", ".c": "C", ".h": "C", ".js": "JavaScript", ".html": "HTML", ".xml": "HTML", ".svg": "HTML",
         ".md": "Markdown", ".rst": "Markdown", ".tex": "LaTeX"}  # fmt: skip
# A whole constant in brackets that is no pattern, no message and no list of calls.
_TOKEN = re.compile(
    r"</?[^\s<>()*\\?^]{1,60}>|\[/?[A-Za-z_|][\w|]{1,40}\]|\u25c1[^\s]{1,40}\u25b7|\][<~][^()]{1,40}\[?"
)
_PARSERS = ("tokenization", "processing", "reasoning", "tool_parser", "function_call", "detector", "conversation")


def main() -> None:
    """Print the tokens that pass unbroken, and the changed lines of each kind of file."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tokens", type=Path)
    options.add_argument("--corpus", type=Path, nargs="*", default=[])
    arguments = options.parse_args()
    if arguments.tokens is not None:
        tokens = sorted({token for path in arguments.tokens.rglob("*") for token in tokens_in(path)})
        passed = [token for token in tokens if broken(f"x {token} y") == f"x {token} y"]
        print(f"{len(tokens) - len(passed)} of {len(tokens)} tokens are broken up; not these:", *passed, sep="  ")
    print("| files | lines | changed | changed of 1,000 |\n|---|---|---|---|")
    for kind, (lines, changed) in changes(arguments.corpus).items():
        print(f"| {kind} | {lines:,} | {changed:,} | {1000 * changed / lines:.2f} |")


def tokens_in(path: Path) -> Iterator[str]:
    """Return the special tokens that a tokenizer's file or a parser's source contains."""
    if path.suffix == ".json" and path.is_file():
        try:
            listed: Any = json.loads(path.read_text(encoding="utf-8")).get("special_tokens") or []
        except (ValueError, AttributeError):
            return
        yield from (token["token_str"] if isinstance(token, dict) else str(token) for token in listed)
    elif path.suffix == ".py" and any(word in str(path) for word in _PARSERS):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _TOKEN.fullmatch(node.value.strip()):
                yield node.value.strip()


def changes(folders: list[Path]) -> dict[str, tuple[int, int]]:
    """Return the number of lines and of changed lines, by kind of file. Files that are not UTF-8 are left out."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for path in (path for folder in folders for path in folder.rglob("*")):
        if (kind := KINDS.get(path.suffix)) is None or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")[:100_000]
        except UnicodeDecodeError:
            continue
        before, after = text.split("\n"), broken(text).split("\n")
        counts[kind]["lines"] += len(before)
        counts[kind]["changed"] += sum(one != other for one, other in zip(before, after, strict=True))
    return {kind: (count["lines"], count["changed"]) for kind, count in sorted(counts.items())}


if __name__ == "__main__":
    main()
