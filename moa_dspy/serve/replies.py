"""Completions, chunks and models, as the types of the ``openai`` package. What OpenAI lacks is in an object ``moa``."""

from __future__ import annotations

from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage, chat_completion
from openai.types.chat.chat_completion_chunk import Choice, ChoiceDelta
from openai.types.completion_usage import PromptTokensDetails

from moa_dspy.json_safe import escaped_json, json_safe, json_text
from moa_dspy.prediction import Prediction
from moa_dspy.program import AttentionMoA
from moa_dspy.serve.programs import outputs_of
from moa_dspy.serve.runs import ServedRun
from moa_dspy.signatures import is_free_text
from moa_dspy.trace import Step, Trace

__all__ = ["ChunkMaker", "answer_of", "completion", "step_line"]

_VERBS = {
    "propose": "answers",
    "agree": "compares the answers",
    "critique": "criticises",
    "refine": "refines its answer",
    "aggregate": "combines the answers",
    "synthesize": "compares the layers",
    "dissent": "reports where the answers differ",
}


def answer_of(program: AttentionMoA, prediction: Prediction) -> str:
    """Return an answer as the content of a message: plain text, or JSON with a key for each output."""
    outputs = outputs_of(program, prediction)
    if is_free_text(program.task):
        return str(json_safe(next(iter(outputs.values()))))
    return json_text(json_safe(outputs), indent=None)


def completion(run: ServedRun, prediction: Prediction, *, with_trace: bool) -> ChatCompletion:
    """Return a whole answer."""
    message = ChatCompletionMessage(role="assistant", content=answer_of(run.program, prediction))
    choice = chat_completion.Choice(
        index=0, message=message, finish_reason=_finish_reason(prediction.trace), logprobs=None
    )
    extra: dict[str, Any] = {"moa": _figures(run, prediction.trace, with_trace)}
    return ChatCompletion(
        id=_id(run),
        object="chat.completion",
        created=run.created,
        model=f"moa/{run.model}",
        choices=[choice],
        usage=_usage(prediction.trace),
        **extra,
    )


class ChunkMaker:
    """Makes the chunks of one stream. They have one id."""

    def __init__(self, run: ServedRun, *, with_trace: bool, usage_apart: bool) -> None:
        self._run, self._with_trace, self._usage_apart = run, with_trace, usage_apart

    def delta(self, **parts: Any) -> str:
        """Return a chunk with parts of a message, as JSON."""
        return self._json([Choice(index=0, delta=ChoiceDelta(**parts), finish_reason=None)])

    def end(self, trace: Trace) -> list[str]:
        """Return the last chunks: the end of the message, and what the run used.

        Both are in one chunk, or in two if the client asked for the usage apart, as OpenAI does.
        """
        choices = [Choice(index=0, delta=ChoiceDelta(), finish_reason=_finish_reason(trace))]
        used: dict[str, Any] = {"usage": _usage(trace), "moa": _figures(self._run, trace, self._with_trace)}
        if self._usage_apart:
            return [self._json(choices), self._json([], **used)]
        return [self._json(choices, **used)]

    def _json(self, choices: list[Choice], **extra: Any) -> str:
        run = self._run
        if self._usage_apart:
            extra.setdefault("usage", None)
        chunk = ChatCompletionChunk(
            id=_id(run),
            object="chat.completion.chunk",
            created=run.created,
            model=f"moa/{run.model}",
            choices=choices,
            **extra,
        )
        return escaped_json(chunk.to_json(indent=None, exclude_unset=True))


def step_line(step: Step) -> str:
    """Return a finished step as one line."""
    who = f"{step.agent} {_VERBS[step.stage]}" if step.model else f"{step.agent}: {step.stage}"
    about = ""
    if step.stage == "critique":
        about = " its own answer" if step.target == step.agent else f" {step.target or 'all answers'}"
    failed = "" if step.status == "ok" else f" ({step.status})"
    return f"Layer {step.layer}: {who}{about}{failed}"


def _id(run: ServedRun) -> str:
    return f"chatcmpl-{run.id}"


def _finish_reason(trace: Trace) -> Any:
    """Return ``length`` if the text of the answer was cut at ``max_tokens``."""
    answer = trace.outputs[-1] if trace.outputs else {}
    written = (step for step in reversed(trace.steps) if step.model and answer.items() <= step.outputs.items())
    step = next(written, None)
    return "length" if step is not None and step.truncated else "stop"


def _usage(trace: Trace) -> CompletionUsage:
    tokens = trace.tokens
    return CompletionUsage(
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        total_tokens=tokens.total,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=tokens.cached),
    )


def _figures(run: ServedRun, trace: Trace, with_trace: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"trace": trace.model_dump(mode="json")} if with_trace else {}
    return {"trace_id": run.id, **trace.figures, **record}
