"""How often a set of held-out examples has decided. Each further decision adds to the probability of an error.

The count is kept in DSPy's response cache, in memory and on disk. Without a cache nothing is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import dspy

from moa_dspy.evaluation.fingerprint import content_of, digest
from moa_dspy.files.program_file import digest_of
from moa_dspy.optimizers.measuring import Metric, metric_name
from moa_dspy.program import AttentionMoA

__all__ = ["count_decision", "reuse_note", "set_digest"]


def set_digest(examples: Iterable[dspy.Example]) -> str:
    """Return the digest of the content of examples, in any order."""
    return digest(sorted(map(content_of, examples)))


def count_decision(examples: Sequence[dspy.Example], metric: Metric, programs: Iterable[AttentionMoA]) -> int:
    """Count a decision between programs on examples.

    Returns:
        The number of other decisions on these examples. The same decision again, such as that of a call which continues
        out of the cache, is not another one.
    """
    request = {"moa_dspy": "decisions", "examples": set_digest(examples)}
    decision = digest([metric_name(metric), *sorted(map(digest_of, programs))])
    others = [one for one in dspy.cache.get(request) or [] if one != decision]
    dspy.cache.put(request, [*others, decision])
    return len(others)


def reuse_note(reused: int, alpha: float) -> str:
    """Return what reuse means for a decision, as a sentence to append; empty without reuse."""
    if not reused:
        return ""
    times = "once" if reused == 1 else f"{reused} times"
    return (
        f" These examples have decided {times} before. Of {reused + 1} decisions one is "
        f"false with a probability of up to {min(1.0, (reused + 1) * alpha):.3g}, not {alpha:.3g}: use new examples."
    )
