"""FLASK: twelve skills, each scored 1 to 5 by a judge (Ye et al. 2023, arXiv 2307.10928)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.data.benchmark import Answered, Benchmark, json_lines
from moa_dspy.data.judges import OFFICIAL, JudgeMetric, SkillJudge, answer_in, fill, official_file, protocols_of, send
from moa_dspy.data.metrics.metric import field_of
from moa_dspy.data.metrics.ratings import parse_scores, skill_score
from moa_dspy.data.sources import Row, parse_structure, read_file
from moa_dspy.errors import ConfigurationError

__all__ = ["RUBRIC", "SKILLS", "Flask", "SkillScores", "aggregate", "judge_prompt", "parse_scores", "skill_name"]

RUBRIC = {
    "logical robustness": "the reasoning holds step by step, and would hold for other cases of the same kind",
    "logical correctness": "the final answer is right",
    "logical efficiency": "the solution takes no needless step and no needlessly costly one",
    "factuality": "what is stated as fact is true and, where it matters, supported",
    "commonsense understanding": "the answer fits how people, things and situations ordinarily behave",
    "comprehension": "the answer does what was asked, implied needs included",
    "insightfulness": "the answer offers something new or unexpected that is worth knowing",
    "completeness": "everything needed is explained, in enough breadth and depth",
    "metacognition": "limits of knowledge and missing information are recognised and said",
    "readability": "the answer is well ordered and easy to read",
    "conciseness": "nothing in it is superfluous",
    "harmlessness": "nothing in it is biased, harmful or unsafe",
}
"""Our description of each skill, for our own judge."""

SKILLS = tuple(RUBRIC)
HIGHEST = 5

_ORIGIN = "kaistAI/FLASK"
_PROMPT_FILES = ("judge_prompts.jsonl", "gpt_review/src/prompt.jsonl", "src/prompt.jsonl", "src/ver3/prompt.jsonl")
_RUBRIC_FILES = (
    "skillset.json",
    "skillset_description.json",
    "metadata_annotation/skillset/src/skillset_description.json",
    "skillset_label/src/skillset.json",
)
WITH_SAMPLE_ANSWER = 2
"""`prompt_id` of the official prompt that shows the reference answer to the judge."""


def skill_name(label: str) -> str | None:
    """Return the skill named by a judge's label ("Commonsense", "robustness"), or None.

    As in the authors' tables, the first word decides, or the second if the first is "logical".
    """
    words = label.lower().replace("_", " ").split()
    if not words:
        return None
    key = words[1] if words[0] == "logical" and len(words) > 1 else words[0]
    return next((skill for skill in SKILLS if key in skill.split() and key not in ("logical", "understanding")), None)


@dataclass(frozen=True)
class SkillScores(Mapping[str, float]):
    """Mean score by skill, with the number of excluded values. It can be used as a dict of the means.

    Attributes:
        means: mean by skill, over the instances with a score for it.
        scored: number of these instances by skill.
        not_applicable: number of "N/A" by skill.
        invalid: number of values that are not a score from 1 to 5, by skill.
        missing: number of replies without a skill that the instance requires, by skill.
        unknown: number of labels that match none of the twelve skills, by label.
        unparsed: number of replies without a readable dict.
        reviews: number of all replies.
    """

    means: dict[str, float]
    scored: dict[str, int]
    not_applicable: dict[str, int]
    invalid: dict[str, int]
    missing: dict[str, int]
    unknown: dict[str, int]
    unparsed: int
    reviews: int

    def __getitem__(self, skill: str) -> float:
        return self.means[skill_name(skill) or skill]

    def __iter__(self) -> Iterator[str]:
        return iter(self.means)

    def __len__(self) -> int:
        return len(self.means)


def aggregate(
    reviews: Iterable[str | Mapping[str, Any] | None], skills: Iterable[Iterable[str]] | None = None
) -> SkillScores:
    """Return the mean score by skill. "N/A", invalid values and unreadable replies are excluded and counted.

    Args:
        reviews: judge replies as text, or the results of `parse_scores`. None counts as unparsed.
        skills: the skills that each instance requires. If given, missing ones are counted.
    """
    replies = list(reviews)
    wanted = [tuple(labels) for labels in skills] if skills is not None else [()] * len(replies)
    if len(wanted) != len(replies):
        raise ValueError(f"skills must be given for each of the {len(replies)} reviews; got {len(wanted)}")
    scores: dict[str, list[float]] = {skill: [] for skill in SKILLS}
    not_applicable, invalid, missing, unknown = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    unparsed = 0
    for reply, labels in zip(map(_parsed, replies), wanted, strict=True):
        for label, score in reply.items():
            skill = skill_name(label)
            if skill is None:
                unknown[label] += 1
            elif score is None:
                not_applicable[skill] += 1
            elif math.isnan(score):
                invalid[skill] += 1
            else:
                scores[skill].append(score)
        if reply:
            missing.update(_skills(labels) - _skills(reply))
        else:
            unparsed += 1
    return SkillScores(
        means={skill: math.fsum(values) / len(values) for skill, values in scores.items() if values},
        scored={skill: len(values) for skill, values in scores.items() if values},
        not_applicable=dict(not_applicable),
        invalid=dict(invalid),
        missing=dict(missing),
        unknown=dict(unknown),
        unparsed=unparsed,
        reviews=len(replies),
    )


def _parsed(reply: str | Mapping[str, Any] | None) -> Mapping[str, float | None]:
    if isinstance(reply, str):
        return parse_scores(reply)
    return {label: skill_score(value) for label, value in (reply or {}).items()}


def _skills(labels: Iterable[str]) -> set[str]:
    """Return the skills named by a judge's labels."""
    return {skill for label in labels if (skill := skill_name(label))}


def judge_prompt(
    templates: Iterable[Mapping[str, Any]],
    item: Mapping[str, Any],
    response: str,
    rubric: Iterable[Mapping[str, Any]],
    prompt_id: int = WITH_SAMPLE_ANSWER,
) -> tuple[str, str]:
    """Return the system message and the user message of the official judge request.

    Args:
        templates: the lines of the official prompt file.
        item: `instruction`, `answer` and `skill` (a list) of the instance.
        response: the answer to judge.
        rubric: the entries of the official `skillset.json` (`Skill`, `Criteria`, `Scoring` from 1 to 5).
        prompt_id: the id of the template.

    Raises:
        ConfigurationError: if there is no such template, or the rubric lacks a skill.
    """
    chosen = next((row for row in templates if int(row["prompt_id"]) == prompt_id), None)
    if chosen is None:
        raise ConfigurationError(f"the FLASK judge prompts have no prompt_id {prompt_id}")
    entries = list(rubric)
    values = {
        **chosen["defaults"],
        "question": str(item["instruction"]),
        "response": response,
        "skills": "".join(_rubric_text(str(skill), entries) for skill in item["skill"]),
        "num": "3",
        "sample_answer": str(item["answer"]),
    }
    return str(chosen["system_prompt"]), fill(chosen["prompt_template"], values)


def _rubric_text(skill: str, rubric: Iterable[Mapping[str, Any]]) -> str:
    entry = next((row for row in rubric if skill in row["Skill"]), None)
    if entry is None:
        raise ConfigurationError(f"the FLASK rubric has no skill {skill!r}")
    levels = "".join(f"\nScore {level}: {entry['Scoring'][str(level)]}" for level in range(1, HIGHEST + 1))
    return f"\n{entry['Skill']}: {entry['Criteria']}{levels}\n\n"


class FollowInstruction(dspy.Signature):
    """Follow the instruction."""

    instruction: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Flask(Benchmark):
    """1740 instances, of which 89 form the split "hard". The category is the difficulty."""

    name = "flask"
    title = "FLASK"
    source = "arXiv 2307.10928, kaistAI/FLASK (evaluation_set)"
    licence = "none stated"
    signature = FollowInstruction
    splits = ("test", "hard")
    sizes = {"test": 1740, "hard": 89}
    files = {
        "test": ("flask_evaluation.jsonl", "evaluation.jsonl", "evaluation_set/flask_evaluation.jsonl"),
        "hard": ("flask_hard_evaluation.jsonl", "hard.jsonl", "evaluation_set/flask_hard_evaluation.jsonl"),
    }
    needs_judge = True
    official_outputs = "model_output/outputs/<name>.jsonl"
    official_judgments = "gpt_review/outputs/<name>_review.jsonl"

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """Return an example. The authors' older names (`question_id`, `text`, `metrics`) are also read."""
        return dspy.Example(
            id=str(row["idx"] if "idx" in row else row.get("question_id", position)),
            instruction=row["instruction"] if "instruction" in row else row["text"],
            answer=row["answer"],
            skills=list(parse_structure(row["skill"] if "skill" in row else row["metrics"])),
            domains=list(parse_structure(row.get("domain") or [])),
            category=str(row.get("difficulty", "")),
            task=row.get("task"),
        ).with_inputs("instruction")

    def metric(self, lm: dspy.BaseLM | None = None, prompts: Path | str | None = None) -> JudgeMetric:
        """Return the mean of the scores over 5. `prompts` has the judge prompts and the rubric; a clone fits."""
        return ScoredSkills(SkillJudge(lm) if prompts is None else OfficialSkillJudge(lm, prompts))

    def summarize(self, details: Iterable[Mapping[str, Any]], path: Path | str | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Return the mean by skill, with the counts of the excluded values."""
        items = list(details)
        table = aggregate((item["scores"] for item in items), (item["skills"] for item in items))
        counts = {name: value for name, value in vars(table).items() if name not in ("means", "reviews")}
        return {"skills": table.means, **counts, "protocols": protocols_of(items)}

    def format_outputs(self, answers: Iterable[Answered], name: str) -> str:  # noqa: ARG002 - the format has no name
        """Return the authors' `model_output` lines: `question_id` and `text`."""
        return json_lines({"question_id": item.number, "text": str(item.outputs["answer"])} for item in answers)

    def format_judgments(self, answers: Iterable[Answered], name: str, judge: str) -> str:
        """Return the authors' review lines, which their `aggregate_skill.py` reads. Invalid values are left out."""
        return json_lines(
            {
                "idx": item.number,
                "question_id": item.number,
                "instruction": item.example.instruction,
                "answer": item.example.answer,
                "task": item.example.get("task"),
                "skill": list(item.example.skills),
                "domain": list(item.example.get("domains") or ()),
                "domain_labeled": list(item.example.get("domains") or ()),
                "difficulty": item.example.category,
                "difficulty_labeled": item.example.category,
                "model": name,
                "judge": judge,
                "target_txt": str(item.outputs["answer"]),
                "review": item.details.get("review", ""),
                "score": {
                    label.lower().replace("_", " "): "N/A" if score is None else score
                    for label, score in item.details["scores"].items()
                    if score != "invalid"
                },
            }
            for item in answers
        )


class OfficialSkillJudge(SkillJudge):
    """Scores with the official prompts and rubric, at temperature 0. The reply ends with a dict."""

    protocol = OFFICIAL

    def __init__(self, lm: dspy.BaseLM | None, prompts: Path | str) -> None:
        super().__init__(lm)
        self.templates = list(read_file(official_file(prompts, "flask", _PROMPT_FILES, _ORIGIN)))
        self.rubric = list(read_file(official_file(prompts, "flask", _RUBRIC_FILES, _ORIGIN)))

    def forward(self, instruction: str, answer: str, skills: Mapping[str, str], reference: str = "") -> dspy.Prediction:
        """Score an answer. Only the names of `skills` are used; the official rubric defines their meanings."""
        item = {"instruction": instruction, "answer": reference, "skill": list(skills)}
        system, prompt = judge_prompt(self.templates, item, answer, self.rubric)
        response = send(self._lm(self.assess), prompt, system, max_tokens=1024)
        reply = str(response.text or "")
        return dspy.Prediction(scores=parse_scores(answer_in(reply, response)), reasons=reply, protocol=self.protocol)


def _meaning(skill: str) -> str:
    name = skill_name(skill)
    if name is None:
        raise ConfigurationError(f"unknown FLASK skill {skill!r}; there are: {', '.join(SKILLS)}")
    return RUBRIC[name]


class ScoredSkills(JudgeMetric):
    """Scores the skills that an instance requires."""

    def __init__(self, scorer: SkillJudge) -> None:
        super().__init__()
        self.scorer = scorer

    def check_examples(self, examples: Sequence[dspy.Example]) -> list[str]:
        """Raise ConfigurationError if the rubric does not describe a skill."""
        for skill in sorted({skill for example in examples for skill in example.skills}):
            if isinstance(self.scorer, OfficialSkillJudge):
                _rubric_text(skill, self.scorer.rubric)
            _meaning(skill)
        return []

    def judge(self, example: dspy.Example, prediction: Any) -> tuple[float | None, str, dict[str, Any]]:
        """Return the mean over the scored skills, divided by 5; no score if a skill is missing or invalid."""
        reply = self.scorer(
            instruction=example.instruction,
            answer=str(field_of(prediction, "answer", "prediction")),
            skills={skill: _meaning(skill) for skill in example.skills},
            reference=example.answer,
        )
        scores: dict[str, float | str | None] = {
            label: "invalid" if score is not None and math.isnan(score) else score  # JSON has no NaN
            for label, score in _parsed(reply.scores).items()
        }
        wanted = _skills(example.skills)
        valid = {k: score for k, score in scores.items() if isinstance(score, float) and skill_name(k) in wanted}
        judged = {skill_name(label) for label, score in scores.items() if score != "invalid"}
        incomplete = not valid or not wanted <= judged
        details = {
            "scores": scores,
            "skills": list(example.skills),
            "protocol": reply.protocol,
            "unparsed": int(incomplete),
            "review": str(reply.reasons),
        }
        listed = ", ".join(f"{skill} {score:g} of 5" for skill, score in valid.items())
        mean = None if incomplete else math.fsum(valid.values()) / len(valid) / HIGHEST
        return mean, f"{listed}. {reply.reasons}", details
