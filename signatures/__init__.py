"""Signatures of the roles that agents play, derived from any task signature.

instructions    the instructions of each role
roles           the signature and the inputs of each role
quoting         one agent's text shown to another, as data
inputs          inputs of a task from one text
special_tokens  what a chat template may read as a special token, by its shape
"""

from moa_dspy.signatures.inputs import field_of_question, free_inputs, read_input
from moa_dspy.signatures.quoting import clean, quote
from moa_dspy.signatures.roles import (
    ADDED,
    ROLE_INPUT,
    NumberedPoint,
    Roles,
    TaskSignature,
    derive_roles,
    is_free_text,
    needed_inputs,
    read_json_value,
    split_critiques,
    task_signature,
)

__all__ = [
    "ADDED",
    "ROLE_INPUT",
    "NumberedPoint",
    "Roles",
    "TaskSignature",
    "clean",
    "derive_roles",
    "field_of_question",
    "free_inputs",
    "is_free_text",
    "needed_inputs",
    "quote",
    "read_input",
    "read_json_value",
    "split_critiques",
    "task_signature",
]
