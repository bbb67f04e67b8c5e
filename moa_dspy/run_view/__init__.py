"""One run as a page: from a trace, inside the report, and live from the events of a run."""

from moa_dspy.errors import ConfigurationError
from moa_dspy.run_view.page import event_data, run_page, visible_signs
from moa_dspy.run_view.view import AgentView, LayerView, RunView, TimeBar
from moa_dspy.run_view.word_diff import Piece, word_diff

__all__ = [
    "AgentView",
    "ConfigurationError",
    "LayerView",
    "Piece",
    "RunView",
    "TimeBar",
    "event_data",
    "run_page",
    "visible_signs",
    "word_diff",
]
