"""Reading what models write: reasoning, turns, fields and values in their texts.

Nothing here knows DSPy. Replies of agents, judges and metrics are read by the same rules.
"""

from moa_dspy.parsing.choices import read_bool, read_choice
from moa_dspy.parsing.fields import find_fields, marked_text, without_end
from moa_dspy.parsing.numbers import read_number
from moa_dspy.parsing.reasoning import EDGES, PLAIN, SplitReply, split_reasoning
from moa_dspy.parsing.values import UnreadableError, is_closed, parse_value

__all__ = [
    "EDGES",
    "PLAIN",
    "SplitReply",
    "UnreadableError",
    "find_fields",
    "is_closed",
    "marked_text",
    "parse_value",
    "read_bool",
    "read_choice",
    "read_number",
    "split_reasoning",
    "without_end",
]
