"""Feedback for GEPA: describes to each predictor how its step affected the run.

GEPA asks a metric about one call of one predictor. The run's trace identifies the step of that call. The task's metric
scores every answer of the run. A critique, for example, is told whether the answer that it criticised became better or
worse, and whether the refinement followed its suggestion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy.evaluation.scoring import Judgement, Metric, accepts, judge_in_context
from moa_dspy.optimizers.analysis.stages import StageScore, StageScores, attribute
from moa_dspy.optimizers.prompts.demos import steps_of
from moa_dspy.program import AttentionMoA
from moa_dspy.trace import Stage, Step, Trace

__all__ = ["StageFeedback", "feedback_on"]

_STAGES: Final[dict[str, Stage]] = {
    "improve": "propose",
    "self_critique": "critique",
    "joint_critique": "critique",
}
_NUMBERS: Final = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class StageFeedback:
    """A metric for GEPA: returns the task's score, with feedback on the predictor's step.

    Args:
        metric: the task's metric. If it takes DSPy's five arguments, its own feedback is included.
        program: the program that is tuned.
        note: called with each judgement.
    """

    def __init__(
        self, metric: Metric, program: AttentionMoA, note: Callable[[Judgement], None] = lambda _: None
    ) -> None:
        self._metric, self._program, self._note = metric, program, note

    def __call__(
        self,
        example: dspy.Example,
        prediction: Any,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
    ) -> Any:
        """Return the score; with ``pred_name`` a ``dspy.Prediction(score=, feedback=)``."""
        if pred_name is None:
            judgement = judge_in_context(self._metric, example, prediction, trace)
            self._note(judgement)
            return judgement.score or 0.0
        extra = (trace, pred_name, pred_trace) if accepts(self._metric, 5) else ()
        judgement = judge_in_context(self._metric, example, prediction, *extra)
        score, comment = judgement.score or 0.0, judgement.feedback if extra and judgement.failure is None else ""
        comment = f"About the final answer: {comment}" if comment else ""
        record = getattr(prediction, "trace", None)
        if not isinstance(record, Trace):
            return dspy.Prediction(score=score, feedback=comment or f"The answer scored {score:g}.")
        scores = attribute(record, example, self._metric, self._program)
        step = _step_of(record, pred_name, pred_trace, trace, self._program)
        about_step = feedback_on(scores, step) if step is not None else _story(scores, record.layers)
        return dspy.Prediction(score=score, feedback=" ".join(part for part in (about_step, comment) if part))


def feedback_on(scores: StageScores, step: Step) -> str:
    """Return the feedback for a successful step of a run: its effect, then a summary of the run."""
    say = {
        "propose": _on_proposal,
        "agree": _on_agreement,
        "critique": _on_critique,
        "refine": _on_refinement,
        "aggregate": _on_aggregate,
        "synthesize": _on_synthesis,
        "dissent": _on_dissent,
    }[step.stage]
    return f"{say(scores, step)} {_story(scores, step.layer)}"


def _on_proposal(scores: StageScores, step: Step) -> str:
    own = _own(scores, step)
    given = scores.given(step)
    before = f" It was to improve on an answer that {_was(scores, given[0])}." if given else ""
    if len(given) > 1:
        before = f" It was to improve on {len(given)} answers, the best of which {_was(scores, max(given))}."
    others = [other for other in scores.select(step.layer, "propose") if other.step.agent != step.agent]
    opening = f"This answer {_was(scores, own)}.{before}"
    best = max(others, key=lambda other: other.score, default=None)
    if best is None or best.score <= own:
        return opening
    did = "was right with" if _yes_or_no(scores) else f"did better, with a score of {best.score:.2f}"
    text = best.step.text if len(best.step.text) <= 200 else f"{best.step.text[:200]}..."
    return f"{opening} Agent {best.step.agent} {did}: {text!r}."


def _on_dissent(scores: StageScores, step: Step) -> str:
    answers = list(scores.select(step.layer, "refine")) or list(scores.select(step.layer, "propose"))
    return f"It compared the agents' answers and did not change the result; {_count(scores, answers, 'answer')}."


def _on_agreement(scores: StageScores, step: Step) -> str:
    said = "say the same" if True in step.outputs.values() else "do not say the same"
    proposals = list(scores.select(step.layer, "propose"))
    return f"It decided that the answers {said}; {_count(scores, proposals, 'proposal')}."


def _on_critique(scores: StageScores, step: Step) -> str:
    if step.target is None:  # several critiques in one call
        parts = scores.trace.select(layer=step.layer, stage="critique", agent=step.agent)
        return " ".join(_on_critique(scores, part) for part in parts if part.target is not None and part.model is None)
    target = step.target
    proposal = next(scores.select(step.layer, "propose", target), None)
    refinement = next(scores.select(step.layer, "refine", target), None)
    whose = "its own answer" if step.target == step.agent else f"the answer of agent {target}"
    if proposal is None or refinement is None:
        return f"This critique was of {whose}, which was not refined."
    opening = f"This critique was of {whose}, which {_was(scores, proposal.score)}"
    change = refinement.score - proposal.score
    if not change:
        less = refinement.score < _best(scores)
        return f"{opening} and stayed so{': it did not help' if less else ''}."
    suggested = _suggests(step, refinement.step, proposal.step)
    if change > 0:
        how = "as this critique suggested" if suggested else "though not by what this critique suggested"
        return f"{opening}; after the critiques it became {_quality(scores, refinement.score)}, {how}."
    how = "a wrong suggestion of this critique" if suggested else "another critique, which this one did not prevent"
    return f"{opening}; after the critiques it became {_quality(scores, refinement.score)}, because of {how}."


def _on_refinement(scores: StageScores, step: Step) -> str:
    own, change = _own(scores, step), _change(scores, step, "the answer")
    if change:
        return f"This refinement {change}."
    if own < _best(scores):
        better = {_core(other.step) for other in scores.steps if other.score > own}
        critiques = _critiques_of(scores, step)
        ignored = [c.agent for c in critiques if any(_contains(c.text, answer) for answer in better)]
        advice = f", and did not take over the better answer that {_names(ignored)} suggested" if ignored else ""
        return f"This refinement kept an answer that {_was(scores, own)}{advice}."
    return f"This refinement rightly kept an answer that {_was(scores, own)}."


def _on_aggregate(scores: StageScores, step: Step) -> str:
    own, candidates = _own(scores, step), scores.candidates(step.layer)
    counted = _count(scores, candidates, "candidate answer")
    opening = f"{counted[:1].upper()}{counted[1:]}; the aggregate {_was(scores, own)}."
    better = [candidate.step.agent for candidate in candidates if candidate.score > own]
    return f"{opening} It should have followed {_names(better)}." if better else opening


def _on_synthesis(scores: StageScores, step: Step) -> str:
    newest = next(iter(scores.select(step.layer, "aggregate")), None)
    before, own = scores.layers[step.layer - 2], _own(scores, step)
    if newest is None:
        return f"The synthesis {_was(scores, own)}."
    decided = scores.decision(step.layer)
    fact = "improved on" if newest.score > before else "was worse than" if newest.score < before else "was as good as"
    verdict = "" if decided is None else f" The decision was that it {'improves' if decided else 'does not improve'}"
    if verdict:
        verdict += "." if decided == (newest.score > before) else ", which is wrong."
    return (
        f"The newest layer's answer {_was(scores, newest.score)} and {fact} the one before it, which "
        f"{_was(scores, before)}.{verdict} The synthesis {_was(scores, own)}."
    )


def _story(scores: StageScores, layer: int) -> str:
    """Return a summary: the scores of a layer's answers, and the score of the run's answer."""
    sentences = [_count(scores, list(scores.select(layer, "propose")), "proposal")]
    for refined in scores.select(layer, "refine"):
        change = _change(scores, refined.step, "its answer")
        sentences.append(change and f"the refinement of agent {refined.step.agent} {change}")
    aggregate = next(scores.select(layer, "aggregate"), None)
    sentences.append("" if aggregate is None else f"the aggregate {_was(scores, aggregate.score)}")
    summary = "; ".join(sentence for sentence in sentences if sentence)
    return f"In layer {layer}, {summary}. The final answer {_was(scores, scores.answer)}."


def _change(scores: StageScores, refinement: Step, answer: str) -> str:
    """Return how a refinement changed the score and which agents suggested it; empty if the score is the same."""
    before, own = next(iter(scores.given(refinement)), None), _own(scores, refinement)
    if before is None or before == own:
        return ""
    kind, what = "good", f"made {answer} {_quality(scores, own)}"
    if own < before:
        lost = "a right answer" if _yes_or_no(scores) else f"a better answer, which scored {before:.2f}"
        kind, what = "wrong", f"gave up {lost}"
    proposal = next(scores.select(refinement.layer, "propose", refinement.agent), None)
    critics = _critiques_of(scores, refinement)
    guilty = [] if proposal is None else [c.agent for c in critics if _suggests(c, refinement, proposal.step)]
    if guilty:
        itself = [f"{name} (itself)" if name == refinement.agent else name for name in guilty]
        return f"{what} because of a {kind} suggestion from {_names(itself)}"
    if proposal is None or not critics:
        return what
    return f"{what}, after critiques from {_names([c.agent for c in critics])}"


def _suggests(critique: Step, refinement: Step, proposal: Step) -> bool:
    """Return whether the critique contains the refinement's new answer."""
    answer = _core(refinement)
    return answer != _core(proposal) and _contains(critique.text, answer)


def _critiques_of(scores: StageScores, refinement: Step) -> list[Step]:
    steps = scores.trace.select(layer=refinement.layer, stage="critique", target=refinement.agent)
    return [step for step in steps if step.status == "ok"]


def _core(step: Step) -> str:
    """Return the answer's text without reasoning and decision, to search for in critiques."""
    values = [str(value) for name, value in step.outputs.items() if name not in ("reasoning", "improved")]
    return " ".join(values).strip().casefold()


def _contains(text: str, answer: str) -> bool:
    return bool(answer) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text.casefold()) is not None


def _own(scores: StageScores, step: Step) -> float:
    return next(scored.score for scored in scores.steps if scored.step is step or scored.step == step)


def _best(scores: StageScores) -> float:
    """Return the best score in the run; at least 1 if all scores are 0 or 1."""
    return max([1.0 if _yes_or_no(scores) else 0.0, *(scored.score for scored in scores.steps)])


def _yes_or_no(scores: StageScores) -> bool:
    return all(scored.score in (0.0, 1.0) for scored in scores.steps)


def _was(scores: StageScores, score: float) -> str:
    return f"was {_quality(scores, score)}" if _yes_or_no(scores) else f"scored {score:.2f}"


def _quality(scores: StageScores, score: float) -> str:
    if _yes_or_no(scores):
        return "right" if score else "wrong"
    return f"one that scores {score:.2f}"


def _count(scores: StageScores, answers: Sequence[StageScore], what: str) -> str:
    """Return the scores of several answers in words: "two of three proposals were right"."""
    if not answers:
        return ""
    if len(answers) == 1:
        return f"the only {what} {_was(scores, answers[0].score)}"
    if not _yes_or_no(scores):
        return f"the {what}s scored {', '.join(f'{answer.step.agent} {answer.score:.2f}' for answer in answers)}"
    right = [answer.step.agent for answer in answers if answer.score]
    number, of = (_NUMBERS[n] if n < len(_NUMBERS) else str(n) for n in (len(right), len(answers)))
    if len(right) in (0, len(answers)):
        return f"{'all' if right else 'none'} of the {of} {what}s {'were' if right else 'was'} right"
    return f"{number} of {of} {what}s {'was' if len(right) == 1 else 'were'} right ({', '.join(right)})"


def _names(agents: Sequence[str]) -> str:
    unique = list(dict.fromkeys(agents))
    if len(unique) == 1:
        return f"agent {unique[0]}"
    return f"agents {', '.join(unique[:-1])} and {unique[-1]}"


def _step_of(record: Trace, pred_name: str, pred_trace: Any, captured: Any, program: AttentionMoA) -> Step | None:
    """Return the step of a predictor's call: by its place in the captured DSPy trace, or by equal outputs.

    The trace has one entry for each successful step, in canonical order.
    """
    if not pred_trace:
        return None
    _, _, outputs = pred_trace[0]
    for step, (_, _, written) in zip(steps_of(record, captured or []), captured or [], strict=True):
        if written is outputs and step is not None:
            return step
    asked = [step for step in record.steps if step.status == "ok" and step.model is not None]
    role, _, index = pred_name.partition("[")
    stage = _STAGES.get(role, role)
    names = [spec.name for spec in program.architecture.agents]
    agent = names[int(index.rstrip("]"))] if index else None
    wanted = to_jsonable_python(dict(outputs), fallback=str)
    matching = [step for step in asked if step.stage == stage and step.outputs == wanted]
    return next((step for step in matching if agent in (None, step.agent)), None)
