"""MT-Bench: 80 two-turn questions, graded 1 to 10 by a judge (Zheng et al. 2023, arXiv 2306.05685)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.data.benchmark import Answered, Benchmark, Hub, json_lines
from moa_dspy.data.judges import OFFICIAL, GradeJudge, JudgeMetric, answer_in, fill, official_file, protocols_of, send
from moa_dspy.data.metrics.metric import field_of
from moa_dspy.data.metrics.ratings import UNPARSED, parse_score
from moa_dspy.data.sources import Row, parse_structure, read_file
from moa_dspy.errors import ConfigurationError

__all__ = ["UNPARSED", "JudgePrompt", "MtBench", "average", "judge_prompt", "parse_score"]

WITH_REFERENCE = ("math", "reasoning", "coding")
"""Categories that are judged against a reference answer."""

TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}
"""Temperature of the answering model by category; 0 for all other categories."""

HIGHEST = 10

_CLONED = "fastchat/llm_judge/data"
_REFERENCES = "reference_answer_gpt-4.jsonl"
_REFERENCE_FOLDERS = ("", "mt_bench", f"{_CLONED}/mt_bench")
_PROMPTS = ("judge_prompts.jsonl", f"{_CLONED}/judge_prompts.jsonl")
_TEMPLATES = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")


class JudgePrompt(str):
    """The user message for a judge, with the rest of the request as attributes.

    Attributes:
        system: the system message.
        name: the official name of the template, such as `"single-math-v1"`.
    """

    system: str
    name: str

    def __new__(cls, text: str, *, system: str, name: str) -> JudgePrompt:
        """Create a text with its system message and template name."""
        prompt = super().__new__(cls, text)
        prompt.system, prompt.name = system, name
        return prompt


def average(scores: Iterable[float]) -> float:
    """Return the mean over the scores of all judged turns that are not -1; NaN if there are none.

    This is not the mean of turn means.
    """
    parsed = [float(score) for score in scores if score != UNPARSED]
    return math.fsum(parsed) / len(parsed) if parsed else math.nan


def judge_prompt(
    templates: Mapping[str, Mapping[str, Any]] | Iterable[Mapping[str, Any]],
    question: Mapping[str, Any],
    answers: Sequence[str] | Mapping[str, Any],
    turn: int,
    reference: Sequence[str] | Mapping[str, Any] | None = None,
) -> JudgePrompt:
    """Return the official single-answer judge prompt for one turn, byte for byte.

    Args:
        templates: the lines of the official `judge_prompts.jsonl`, or a mapping of them by name.
        question: a line of `question.jsonl` (`turns`, `category`). The category decides whether the reference is used;
            without a category, the reference is used if it is given.
        answers: the model's answers, one for each turn so far, or a FastChat answer line.
        turn: 1 or 2.
        reference: the reference answers, one for each turn, or a FastChat answer line.

    Returns:
        The user message, with the system message as `.system`.

    Raises:
        ConfigurationError: if a template, an answer or a needed reference is missing.
    """
    if turn not in (1, 2):
        raise ConfigurationError(f"turn must be 1 or 2, got {turn!r}")
    category = question.get("category")
    with_reference = category in WITH_REFERENCE if category else reference is not None
    if with_reference and reference is None:
        raise ConfigurationError(f"a {category} question is judged with its reference answer, and none was given")
    template = _template(templates, f"single-{'math-' if with_reference else ''}v1{'-multi-turn' if turn == 2 else ''}")
    questions, texts = question["turns"], _turns(answers)
    if len(questions) < turn or len(texts) < turn:
        raise ConfigurationError(
            f"turn {turn} needs {turn} questions and answers; got {len(questions)} and {len(texts)}"
        )
    values = {"question": questions[turn - 1], "answer": texts[turn - 1]}
    columns = {
        "question": questions[: len(texts)],
        "answer": texts,
        "ref_answer": _turns(reference) if with_reference else [],
    }
    values |= {f"{name}_{n}": text for name, column in columns.items() for n, text in enumerate(column, start=1)}
    try:
        text = fill(template["prompt_template"], values)
    except KeyError as error:
        raise ConfigurationError(
            f"judge prompt {template['name']!r} asks for {error}, which turn {turn} does not have"
        ) from None
    return JudgePrompt(text, system=str(template["system_prompt"]), name=str(template["name"]))


def _turns(answers: Sequence[str] | Mapping[str, Any] | None) -> list[str]:
    if isinstance(answers, Mapping):
        return [str(text) for text in answers["choices"][0]["turns"]]
    return [answers] if isinstance(answers, str) else list(answers or ())


def _template(templates: Mapping[str, Mapping[str, Any]] | Iterable[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    rows = templates.items() if isinstance(templates, Mapping) else ((row["name"], row) for row in templates)
    by_name: dict[str, Mapping[str, Any]] = {str(key): dict(row) for key, row in rows}
    if name not in by_name:
        raise ConfigurationError(f"no judge prompt named {name!r}; there are: {', '.join(sorted(by_name)) or 'none'}")
    return {"name": name, **by_name[name]}


class ContinueConversation(dspy.Signature):
    """Answer the person's question; it may refer to what was said before."""

    history: dspy.History = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class MtBench(Benchmark):
    """80 questions in eight categories, each with a follow-up question.

    `run` runs both turns and returns a prediction with `answers`. If a program is called only once, as by
    `dspy.Evaluate`, it answers the first turn, and only that turn is judged.
    """

    name = "mt_bench"
    title = "MT-Bench"
    source = "arXiv 2306.05685, lm-sys/FastChat (fastchat/llm_judge/data)"
    licence = "Apache-2.0"
    signature = ContinueConversation
    sizes = {"test": 80}
    hub = Hub("HuggingFaceH4/mt_bench_prompts", splits={"test": "train"})
    files = {"test": ("question.jsonl", "mt_bench/question.jsonl", f"{_CLONED}/mt_bench/question.jsonl")}
    needs_judge = True
    official_outputs = "model_answer/<name>.jsonl"
    official_judgments = "model_judgment/<judge>_single.jsonl"

    def rows(self, split: str, path: Path | str | None, *, streaming: bool) -> Iterator[tuple[str, Row]]:
        """Yield the questions, with GPT-4's reference answers if the folder has them."""
        references = _references(self.folders(path))
        for part, row in super().rows(split, path, streaming=streaming):
            reference = references.get(str(row.get("question_id", row.get("prompt_id"))))
            yield part, {**row, "reference": reference, "official": True} if reference else row

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """Return an example. The hub's column `prompt` has the turns. Its short references are not the judge's."""
        turns = list(parse_structure(row["turns"] if "turns" in row else row["prompt"]))
        return dspy.Example(
            id=str(row["question_id"] if "question_id" in row else row.get("prompt_id", position)),
            category=row["category"],
            turns=turns,
            question=turns[0],
            history=dspy.History(messages=[]),
            reference=list(parse_structure(row.get("reference") or [])),
            official_reference=bool(row.get("official")),
        ).with_inputs("history", "question")

    def generation(self, example: dspy.Example) -> dict[str, Any]:
        """Return the temperature of the example's category."""
        return {"temperature": TEMPERATURES.get(example.category, 0.0)}

    def run(self, program: Any, example: dspy.Example) -> dspy.Prediction:
        """Run both turns. The history of the second turn contains the first turn with its answer."""
        history: list[dict[str, str]] = []
        for question in example.turns:
            prediction = program(history=dspy.History(messages=list(history)), question=question)
            history.append({"question": question, "answer": prediction.answer})
        return _conversation(history)

    async def arun(self, program: Any, example: dspy.Example) -> dspy.Prediction:
        """Run both turns, for async callers."""
        history: list[dict[str, str]] = []
        for question in example.turns:
            prediction = await program.acall(history=dspy.History(messages=list(history)), question=question)
            history.append({"question": question, "answer": prediction.answer})
        return _conversation(history)

    def metric(self, lm: dspy.BaseLM | None = None, prompts: Path | str | None = None) -> JudgeMetric:
        """Return the mean score of the turns divided by 10. `prompts` is the folder with `judge_prompts.jsonl`."""
        return GradedTurns(GradeJudge(lm) if prompts is None else OfficialGradeJudge(lm, prompts))

    def summarize(self, details: Iterable[Mapping[str, Any]], path: Path | str | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Return the averages over all turns, by turn and by category, and the number of unreadable turns."""
        items = list(details)
        by_category: dict[str, list[float]] = {str(item["category"]): [] for item in items}
        for item in items:
            by_category[str(item["category"])].extend(item["scores"])
        scores = [score for item in items for score in item["scores"]]
        turns = max((len(item["scores"]) for item in items), default=0)
        return {
            "average": average(scores),
            "turns": [average(item["scores"][n] for item in items if len(item["scores"]) > n) for n in range(turns)],
            "categories": {category: average(values) for category, values in by_category.items()},
            "unparsed": sum(score == UNPARSED for score in scores),
            "protocols": protocols_of(items),
        }

    def format_outputs(self, answers: Iterable[Answered], name: str) -> str:
        """Return FastChat's `model_answer` lines, one per question, with both turns in one choice."""
        return json_lines(
            {
                "question_id": item.number,
                "answer_id": hashlib.sha256(f"{name}\n{item.example.id}\n{item.outputs}".encode()).hexdigest()[:22],
                "model_id": name,
                "choices": [{"index": 0, "turns": [str(text) for text in item.outputs["answers"]]}],
                "tstamp": item.finished,
            }
            for item in answers
        )

    def format_judgments(self, answers: Iterable[Answered], name: str, judge: str) -> str:
        """Return FastChat's `model_judgment` lines, one per turn, which `show_result.py` aggregates."""
        return json_lines(
            {
                "question_id": item.number,
                "model": name,
                "judge": [judge, prompt],
                "judgment": reply,
                "score": score,
                "turn": turn,
                "tstamp": item.finished,
            }
            for item in answers
            for turn, (score, prompt, reply) in enumerate(
                zip_longest(*(item.details.get(name, ()) for name in ("scores", "prompts", "replies")), fillvalue=""), 1
            )  # records of earlier versions have scores only
        )


def _conversation(history: Sequence[Mapping[str, str]]) -> dspy.Prediction:
    return dspy.Prediction(answers=[turn["answer"] for turn in history], answer=history[-1]["answer"])


def _references(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Return GPT-4's reference answers by question, from the first folder that has them."""
    for folder in folders:
        for file in (
            folder / _REFERENCES,
            *(folder / base / "reference_answer/gpt-4.jsonl" for base in _REFERENCE_FOLDERS),
        ):
            if file.is_file():
                return {str(row["question_id"]): _turns(row) for row in read_file(file)}
    return {}


class OfficialGradeJudge(GradeJudge):
    """Grades with the official prompts, at temperature 0. The score is in double brackets.

    Attributes:
        templates: the prompts by name.
        references: GPT-4's answers by question, if they are in the folder of the prompts.
    """

    protocol = OFFICIAL

    def __init__(self, lm: dspy.BaseLM | None, prompts: Path | str) -> None:
        super().__init__(lm)
        file = official_file(prompts, "mt_bench", _PROMPTS, "lm-sys/FastChat, fastchat/llm_judge/data")
        rows = [row for row in read_file(file) if {"name", "prompt_template", "system_prompt"} <= row.keys()]
        self.templates = {name: dict(_template(rows, name)) for name in _TEMPLATES}
        self.references = _references([file.parent, file.parent / "mt_bench"])

    def forward(
        self,
        questions: Sequence[str],
        answers: Sequence[str],
        reference: str | Sequence[str] = "",
        category: str | None = None,
    ) -> dspy.Prediction:
        """Grade the last of the answers. Without a reference for each turn, the prompt without one is used."""
        question = {"turns": list(questions), "category": category if reference else None}
        prompt = judge_prompt(self.templates, question, answers, len(answers), reference or None)
        response = send(self._lm(self.grade), prompt, prompt.system)
        reply = str(response.text or "")
        score = parse_score(answer_in(reply, response))
        read = None if score == UNPARSED else score
        return dspy.Prediction(score=read, reasons=reply, prompt=prompt.name, protocol=self.protocol)


class GradedTurns(JudgeMetric):
    """Grades every answered turn."""

    def __init__(self, grader: GradeJudge) -> None:
        super().__init__()
        self.grader = grader

    def check_examples(self, examples: Sequence[dspy.Example]) -> list[str]:
        """Return which questions cannot follow the official protocol because a reference answer is missing."""
        deviating: dict[str, list[str]] = {}
        for example in examples:
            protocol, _ = self._material(example)
            if protocol != self.grader.protocol:
                deviating.setdefault(protocol, []).append(example.id)
        return [
            f"{protocol}: {len(ids)} of {len(examples)} questions (ids {', '.join(ids)}); for the official protocol "
            f"put {_REFERENCES} of lm-sys/FastChat beside the questions or the prompts"
            for protocol, ids in deviating.items()
        ]

    def judge(self, example: dspy.Example, prediction: Any) -> tuple[float | None, str, dict[str, Any]]:
        """Return the mean over the turns, divided by 10; no score if a turn cannot be read."""
        answers = [str(a) for a in prediction.get("answers") or [field_of(prediction, "answer", "prediction")]]
        protocol, references = self._material(example)
        turns: dict[str, Any] = {"reference": references, "category": example.category}
        replies = [
            self.grader(questions=example.turns[:n], answers=answers[:n], **turns) for n in range(1, len(answers) + 1)
        ]
        scores = [UNPARSED if reply.score is None else float(reply.score) for reply in replies]
        details = {
            "scores": scores,
            "category": example.category,
            "protocol": protocol,
            "unparsed": scores.count(UNPARSED),
            "prompts": [reply.get("prompt") or reply.protocol for reply in replies],
            "replies": [str(reply.reasons) for reply in replies],
        }
        feedback = "\n\n".join(
            f"Turn {n}: {s:g} of 10. {r.reasons}" for n, (s, r) in enumerate(zip(scores, replies, strict=True), 1)
        )
        return (None if UNPARSED in scores else average(scores) / HIGHEST), feedback, details

    def _material(self, example: dspy.Example) -> tuple[str, list[str]]:
        """Return the protocol of an example, and its reference answers: one for each turn, or none at all."""
        official = self.grader.references.get(example.id)
        references = [str(text) for text in official or example.reference]
        if len(references) < len(example.turns):
            official, references = None, []
        elif example.official_reference:
            official = references
        if self.grader.protocol != OFFICIAL or example.category not in WITH_REFERENCE or official:
            return self.grader.protocol, references
        return f"official prompts, {'other references' if references else 'no reference'}", references
