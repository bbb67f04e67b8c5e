"""Reading what models write: reasoning, turns, fields and values in their texts.

    marks        tags and tokens, by shape and position
    turns        what chat templates put around an answer
    reasoning    reasoning and the answer after it

Nothing here knows DSPy. Replies of agents, judges and metrics are read by the same rules.
"""

from moa_dspy.parsing.reasoning import Split, split_reasoning

__all__ = ["Split", "split_reasoning"]
