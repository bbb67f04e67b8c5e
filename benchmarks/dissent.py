"""Are planted minorities reported, and is agreement a probability?

    uv run python -m benchmarks.dissent --worlds 100 --questions 1000

A world has three to seven agents, of which fewer than half are planted: they are sure of other answers. Its dissent
must name each other answer with exactly the agents that gave it, and so must the report of a simulated model. Then
simulated agents answer questions: agreement, before and after ``calibrate`` on one half, against the scores of the
other half.

``--recorded FOLDER`` adds the solutions that two real models gave to the problems of GSM8K's test set. The folder has
OpenAI's file ``example_model_solutions.jsonl``, or a part of it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import arguments, table
from moa_dspy import Agent, AttentionMoA
from moa_dspy.data import gsm8k
from moa_dspy.optimizers import calibrate, expected_calibration_error
from moa_dspy.testing import INDEPENDENT, ScriptedLM, SimulatedLM, prompt_of

_TASKS = ("question -> answer", "question -> answer: int")
_QUESTION = "How many?"


class Figures(NamedTuple):
    """Worlds whose minorities were reported exactly; calibration errors of agreement, raw and fitted, by setting."""

    reported: int
    errors: dict[str, tuple[float, float]]


def main(argv: Sequence[str] | None = None) -> Figures:
    """Print and return the figures."""
    options = arguments(__doc__, argv, worlds=100, questions=1000, recorded="")
    reported = sum(is_reported(seed) for seed in range(options.worlds))
    print(f"planted minorities are reported in {reported} of {options.worlds} worlds\n")
    settings: dict[str, Mapping[str, Any]] = {"shared errors": {}, "independent errors": dict(INDEPENDENT)}
    errors = {name: calibration_errors(options.questions, skill) for name, skill in settings.items()}
    if options.recorded:
        errors["recorded solutions of two real models"] = recorded_errors(Path(options.recorded))
    rows = [(name, f"{raw:.3f}", f"{fitted:.3f}") for name, (raw, fitted) in errors.items()]
    table([("agents with", "error of agreement", "after calibrate"), *rows])
    return Figures(reported, errors)


def is_reported(seed: int) -> bool:
    """Return whether the dissent of a world is exactly what was planted."""
    world = random.Random(seed)
    count = world.randint(3, 7)
    beliefs = dict.fromkeys(range(count), "7")
    for agent in world.sample(range(count), world.randint(1, (count - 1) // 2)):
        beliefs[agent] = world.choice(["8", "9"])
    agents = [
        Agent(SimulatedLM({_QUESTION: belief}, knows=1, seed=agent, model=f"sim/{agent}"), name=f"a{agent}")
        for agent, belief in beliefs.items()
    ]
    program = AttentionMoA(world.choice(_TASKS), agents, layers=world.randint(1, 2), attention="none", dissent=True)
    trace = program(question=_QUESTION).trace
    planted: dict[str, list[str]] = {}
    for agent, belief in beliefs.items():
        if belief != "7":
            planted.setdefault(belief, []).append(f"a{agent}")
    told = {str(dissent.outputs["answer"]): list(dissent.agents) for dissent in trace.dissent}
    report = trace.dissent_report
    reported = {} if report is None else {one.point: list(one.agents) for one in report.contradictions}
    return told == planted == reported and trace.agreement == list(beliefs.values()).count("7") / count


def calibration_errors(questions: int, skill: Mapping[str, Any]) -> tuple[float, float]:
    """Return the calibration errors of five simulated agents."""
    answers = {f"Question {number:05}?": str(number % 50) for number in range(questions)}
    agents = [SimulatedLM(answers, knows=0.6, seed=seed, model=f"sim/{seed}", **skill) for seed in range(5)]
    program = AttentionMoA("question -> answer", agents, layers=1, attention="none", aggregation="vote")
    return _errors(program, answers)


def recorded_errors(folder: Path) -> tuple[float, float]:
    """Return the same for two real models, whose recorded solutions of word problems are read as typed answers."""
    path = next(iter(sorted(folder.glob("*solutions*.jsonl"))))
    solved = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answers = {one["question"]: float(gsm8k.final_number(one["ground_truth"]) or "nan") for one in solved}
    models = [name for name, value in solved[0].items() if isinstance(value, dict)]
    agents = [ScriptedLM(_recorded(name, solved), model=f"recorded/{name}") for name in models]
    program = AttentionMoA("question -> answer: float", agents, layers=1, attention="none", aggregation="vote")
    return _errors(program, answers)


def _recorded(model: str, solved: Sequence[Mapping[str, Any]]) -> Callable[[Any], str]:
    solutions = {one["question"]: one[model]["solution"] for one in solved}
    return lambda request: solutions[prompt_of(request).partition("Question: ")[2].rpartition("\n\n")[0]]


def _errors(program: AttentionMoA, answers: Mapping[str, Any]) -> tuple[float, float]:
    """Return the calibration error of agreement on half of the questions: raw, and fitted on the other half."""
    runs = []
    for question, answer in answers.items():
        prediction = program(question=question)
        runs.append((prediction.trace.agreement, float(prediction.answer == answer)))
    half = len(runs) // 2
    fitted = calibrate(runs[:half])
    raw = [(agreement or 0.0, score) for agreement, score in runs[half:]]
    return (
        expected_calibration_error(raw),
        expected_calibration_error([(fitted(agreement), score) for agreement, score in raw]),
    )


if __name__ == "__main__":
    main()
