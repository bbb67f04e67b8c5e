"""Signatures of the roles that agents play, derived from any task signature.

Knows only dspy and the errors: what the roles are asked, what they read in which order, and how one agent's text is
shown to another.
"""

from moa_dspy.signatures.quoting import clean, quote
from moa_dspy.signatures.roles import Roles, TaskSignature, derive_roles, is_free_text, needed_inputs, task_signature

__all__ = [
    "Roles",
    "TaskSignature",
    "clean",
    "derive_roles",
    "is_free_text",
    "needed_inputs",
    "quote",
    "task_signature",
]
