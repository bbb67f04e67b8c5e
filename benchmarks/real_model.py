"""Does an ensemble of one small model pay? Contenders on GSM8K, on generated tasks and on a classification task.

    uv run python -m benchmarks.real_model --model local/FILE.gguf --data FOLDER --out FOLDER --task gsm8k

One row per contender: share of right answers with its interval, the paired difference from the single model, calls
and tokens of a problem, tokens per right answer. Every problem is written to ``--out`` as soon as it is answered, and
replies are kept in a cache there: the same command resumes, and contenders share their samples.

``--stages`` also prints which stages are right, from the records. ``--profile NAME`` prints the stage profile of one
contender instead of the table: where critiques, refinements and the aggregation gain and lose. ``--calibrate NAME``
fits the probability that an answer is right to the agreement of one contender, and tests it on other problems
(``--on``). ``--prompts`` also tunes the first contender on problems 0 to 59; the model writes its own instructions.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import dspy

from moa_dspy import (
    Agent,
    AttentionMoA,
    Budget,
    Gate,
    load,
    mixture_of_agents,
    self_consistency,
    self_moa,
    single_model,
)
from moa_dspy.data import gsm8k
from moa_dspy.data.metrics.metric import Metric, Verdict
from moa_dspy.evaluation import EvaluateResult, Gain, Score, evaluate
from moa_dspy.local import local_lm
from moa_dspy.optimizers import calibrate, compile as tune, expected_calibration_error, measure, profile

Domain = Literal[
    "Culture", "Math", "Coding", "Humanities", "Language", "Social Science", "Natural Science", "Technology", "Health",
    "History",
]  # fmt: skip
_GENERATED: Final = 600


class WordProblem(dspy.Signature):
    """Solve the word problem."""

    question: str = dspy.InputField()
    answer: float = dspy.OutputField()


class Count(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    answer: int = dspy.OutputField()


class Decide(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    answer: bool = dspy.OutputField()


class Classify(dspy.Signature):
    """Name the field of knowledge that the instruction belongs to."""

    instruction: str = dspy.InputField()
    domain: Domain = dspy.OutputField()


def word_problems(folder: Path) -> Iterator[dspy.Example]:
    """Yield the problems of GSM8K's test set in their order."""
    for line in (folder / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines():
        problem = json.loads(line)
        number = gsm8k.final_number(problem["answer"])
        yield dspy.Example(question=problem["question"], answer=float(number or "nan")).with_inputs("question")


def boolean_expressions(_: Path) -> Iterator[dspy.Example]:
    """Yield random boolean expressions, in the manner of BIG-Bench Hard's task of this name."""
    dice = random.Random(1)

    def expression(depth: int) -> str:
        if not depth:
            return dice.choice(["", "not "]) + dice.choice(["True", "False"])
        one, two = expression(depth - 1), expression(dice.randrange(depth))
        text = f"{one} {dice.choice(['and', 'or'])} {two}"
        return f"{dice.choice(['', 'not '])}( {text} )" if depth < 3 else text

    for _number in range(_GENERATED):
        text = expression(3)
        value = _boolean(ast.parse(text, mode="eval").body)
        yield dspy.Example(question=f"What is the value of {text}?", answer=value).with_inputs("question")


def _boolean(node: Any) -> bool:
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.UnaryOp):
        return not _boolean(node.operand)
    values = [_boolean(one) for one in node.values]
    return all(values) if isinstance(node.op, ast.And) else any(values)


def navigation(_: Path) -> Iterator[dspy.Example]:
    """Yield walks without turns, in the manner of BIG-Bench Hard's navigate."""
    dice = random.Random(2)
    step = {"forward": (0, 1), "backward": (0, -1), "left": (-1, 0), "right": (1, 0)}
    for _number in range(_GENERATED):
        walk = [(dice.choice(list(step)), dice.randint(1, 9)) for _ in range(dice.randint(2, 4))]
        if dice.random() < 0.5:
            back = {"forward": "backward", "backward": "forward", "left": "right", "right": "left"}
            walk += dice.sample([(back[way], length) for way, length in walk], len(walk))
        home = all(sum(step[way][axis] * length for way, length in walk) == 0 for axis in (0, 1))
        told = " ".join(f"Take {length} step{'s' * (length > 1)} {way}." for way, length in walk)
        question = f"You always face forward. {told} Are you at the starting point again?"
        yield dspy.Example(question=question, answer=home).with_inputs("question")


def counting(_: Path) -> Iterator[dspy.Example]:
    """Yield lists of things to count, in the manner of BIG-Bench Hard's object counting."""
    dice = random.Random(3)
    kinds = {
        "fruits": ["apple", "plum", "banana", "peach", "orange", "grape"],
        "animals": ["cat", "goat", "snail", "duck", "cow", "pig"],
        "vegetables": ["carrot", "onion", "potato", "cabbage", "leek", "turnip"],
    }
    for _number in range(_GENERATED):
        asked, other = dice.sample(sorted(kinds), 2)
        things = [(name, dice.randint(1, 4)) for name in dice.sample(kinds[asked], dice.randint(3, 6))]
        others = [(name, dice.randint(1, 4)) for name in dice.sample(kinds[other], dice.randint(0, 2))]
        mixed = dice.sample(things + others, len(things) + len(others))
        listed = ", ".join(f"{number} {name}{'s' * (number > 1)}" for name, number in mixed)
        yield dspy.Example(
            question=f"I have {listed}. How many {asked} do I have?", answer=sum(number for _, number in things)
        ).with_inputs("question")


def domains(folder: Path) -> Iterator[dspy.Example]:
    """Yield FLASK's instructions that belong to one domain, shuffled."""
    lines = (folder / "flask" / "evaluation.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    known: set[str] = set(Domain.__args__)  # type: ignore[attr-defined]
    rows = [row for row in rows if len(row["domain"]) == 1 and row["domain"][0] in known]
    random.Random(4).shuffle(rows)
    for row in rows:
        yield dspy.Example(instruction=row["instruction"][:1500], domain=row["domain"][0]).with_inputs("instruction")


TASKS: Final[Mapping[str, tuple[Any, Callable[[Path], Iterator[dspy.Example]]]]] = {
    "gsm8k": (WordProblem, word_problems),
    "boolean": (Decide, boolean_expressions),
    "navigate": (Decide, navigation),
    "counting": (Count, counting),
    "domain": (Classify, domains),
}


class Right(Metric):
    """Whether the only output is the reference's. The details say what the run took, and which stages were right."""

    def assess(self, example: dspy.Example, prediction: Any) -> Verdict:
        """Return the verdict on a prediction."""
        (name,) = example.labels().keys()
        truth, trace = example[name], getattr(prediction, "trace", None)
        right = getattr(prediction, name) == truth
        if trace is None:  # the answer of a step, which may become a demo
            return Verdict(right, "")
        stages: dict[str, list[bool]] = {}
        for step in trace.steps:
            if step.stage in ("propose", "refine", "aggregate"):
                stages.setdefault(step.stage, []).append(step.outputs.get(name) == truth)
        proposals = stages.get("propose", [])
        details = {
            "tokens": sum(step.tokens.total + step.saved_tokens.total for step in trace.steps),
            "calls": trace.calls,
            "stages": {stage: sum(right) / len(right) for stage, right in stages.items()},
            "any": any(proposals),
            "stopped_by": trace.stopped_by,
        }
        return Verdict(right, "", details)


def contenders(task: Any, lm: dspy.BaseLM, other: dspy.BaseLM | None) -> Mapping[str, AttentionMoA]:
    """Return the programs by name. Those with equal agents share the first samples."""
    warm = [Agent(lm, name=f"agent-{number}", temperature=0.7) for number in range(1, 4)]
    programs = {
        "single, temperature 0": single_model(task, Agent(lm, temperature=0.0)),
        "single, temperature 0.7": single_model(task, Agent(lm, temperature=0.7)),
        "vote of 3": self_consistency(task, Agent(lm, temperature=0.7), samples=3),
        "vote of 5": self_consistency(task, Agent(lm, temperature=0.7), samples=5),
        "Self-MoA, 3 samples": self_moa(task, Agent(lm, temperature=0.7), samples=3),
        "MoA, 3 agents, 2 layers": mixture_of_agents(task, warm, layers=2),
        "Attention-MoA": AttentionMoA(task, warm, layers=1),
        "Attention-MoA, vote": AttentionMoA(task, warm, layers=1, aggregation="vote"),
        "Attention-MoA, vote, disagreeing": AttentionMoA(
            task, warm, layers=1, aggregation="vote", attention="disagreeing"
        ),
        "Attention-MoA, vote, disagreeing, gate": AttentionMoA(
            task, warm, layers=1, aggregation="vote", attention="disagreeing", gate=Gate(first=2)
        ),
    }
    programs["vote of 10"] = self_consistency(task, Agent(lm, temperature=0.7), samples=10)
    if other is not None:
        mixed = [*warm[:2], Agent(other, name="small", temperature=0.7)]
        programs["mix with the embedded model, vote"] = AttentionMoA(
            task, mixed, layers=1, attention="none", aggregation="vote"
        )
    return programs


def main() -> None:
    """Run the contenders one after the other and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", required=True, help="for example local/FILE.gguf")
    options.add_argument("--url", help="address of an OpenAI-compatible server with this model; its key is not used")
    options.add_argument("--mix", action="store_true", help="also with the embedded model as an agent")
    options.add_argument("--concurrency", type=int, default=4)
    options.add_argument("--data", type=Path, required=True, help="folder of the benchmark data")
    options.add_argument("--out", type=Path, required=True, help="folder for the records")
    options.add_argument("--task", choices=list(TASKS), default="gsm8k")
    options.add_argument("--problems", default="100:250", help="a range, first:last")
    options.add_argument("--max-tokens", type=int, default=320, help="of each call")
    options.add_argument("--only", nargs="*", help="names of contenders")
    options.add_argument("--prompts", nargs="*", default=[], help="also the first contender, tuned by these methods")
    options.add_argument("--stages", action="store_true", help="which stages are right, from the records")
    options.add_argument("--profile", metavar="NAME", help="the stage profile of one contender")
    options.add_argument("--calibrate", metavar="NAME", help="what the agreement of one contender is worth")
    options.add_argument("--on", default="400:500", help="the problems on which that is tested")
    arguments = options.parse_args()
    logging.getLogger("dspy.clients.lm").setLevel(logging.ERROR)  # that answers are cut short is expected here
    folder = arguments.out / arguments.task / arguments.problems.replace(":", "-")
    folder.mkdir(parents=True, exist_ok=True)
    dspy.configure_cache(disk_cache_dir=str(arguments.out / "cache"), enable_memory_cache=False)
    task, examples = TASKS[arguments.task]
    first, _, last = arguments.problems.partition(":")
    problems = list(examples(arguments.data))
    devset = problems[int(first) : int(last)]
    lm = _lm(arguments)
    other = local_lm(max_tokens=arguments.max_tokens) if arguments.mix else None
    if arguments.profile:
        asked = contenders(task, lm, other)[arguments.profile]
        print(profile(asked, devset, Right(), concurrency=arguments.concurrency))
        return
    if arguments.calibrate:
        asked = contenders(task, lm, other)[arguments.calibrate]
        first, _, last = arguments.on.partition(":")
        print(calibration(asked, devset, problems[int(first) : int(last)], arguments.concurrency))
        return
    single: EvaluateResult | None = None
    print("| contender | right, 95 % interval | against the first | calls | tokens | tokens per right |")
    print("|---|---|---|---|---|---|", flush=True)
    programs = dict(contenders(task, lm, other))
    for method in arguments.prompts:
        first_of_all = programs["single, temperature 0"]
        path = arguments.out / arguments.task / f"{method}.json"
        programs[f"single, temperature 0, {method}"] = tuned(
            first_of_all, method, problems[:60], path, lm, arguments.concurrency
        )
    for name, program in programs.items():
        if arguments.only and name not in arguments.only and single is not None:
            continue
        records = folder / f"{name.replace(' ', '-').replace(',', '')}.jsonl"
        result = evaluate(program, devset, Right(), out=records, concurrency=arguments.concurrency)
        print(row(name, result, single), flush=True)
        single = single or result
        if arguments.stages:
            print(stages(result), flush=True)


def tuned(
    program: AttentionMoA, method: Any, trainset: list[dspy.Example], path: Path, lm: dspy.LM, concurrency: int
) -> AttentionMoA:
    """Return the program with prompts tuned on 60 examples, from a file if that was done before."""
    if not path.exists():
        writer = lm.copy(temperature=1.0)
        budget = Budget(calls=600)
        options: Any = {"method": method, "prompt_lm": writer, "budget": budget, "concurrency": concurrency}
        result = tune(program, trainset=trainset, metric=Right(), **options)
        print(result, flush=True)
        result.program.save(path)
    return load(path, lms={lm.model: lm})


def _lm(arguments: argparse.Namespace) -> dspy.LM:
    if arguments.url is None:
        return local_lm(arguments.model, max_tokens=arguments.max_tokens)
    return dspy.LM(
        arguments.model, api_base=arguments.url, api_key="unused", max_tokens=arguments.max_tokens, timeout=3600
    )


def calibration(asked: AttentionMoA, fit: list[dspy.Example], test: list[dspy.Example], concurrency: int) -> str:
    """Return the table of a fitted calibration, and its error on other problems beside that of plain agreement."""
    fitted, tested = (
        [
            (run.trace.agreement, run.score or 0.0)
            for run in measure(asked, part, Right(), concurrency=concurrency, keep_traces=True).runs
            if run.trace is not None and run.trace.agreement is not None
        ]
        for part in (fit, test)
    )
    probability = calibrate(fitted)
    plain, after = (
        expected_calibration_error([(read(agreement), score) for agreement, score in tested])
        for read in (float, probability)
    )
    return f"{probability}\n\nexpected calibration error on {len(tested)} others: {plain:.3f} plain, {after:.3f} fitted"


def row(name: str, result: EvaluateResult, first: EvaluateResult | None) -> str:
    """Return a line of the table, with a comparison with the first one. An answer that cannot be read is wrong."""
    after, difference = _scores(result), ""
    right, share = sum(after), Score.of(after)
    calls = sum(record.details.get("calls", record.program.calls) for record in result.records)
    tokens = sum(record.details.get("tokens", record.program.tokens.total) for record in result.records)
    if first is not None:
        pairs = list(zip(_scores(first), after, strict=True))
        gained, lost = pairs.count((0.0, 1.0)), pairs.count((1.0, 0.0))
        difference = f"{gained} gained, {lost} lost, p = {Gain.of(_scores(first), after).p:.3f}"
    rate = f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"
    return (
        f"| {name} | {rate} | {difference} | {calls / result.items:.1f} | {tokens / result.items:,.0f} | "
        f"{tokens / max(right, 1):,.0f} |"
    )


def _scores(result: EvaluateResult) -> list[float]:
    return [record.score or 0.0 for record in sorted(result.records, key=lambda record: record.id)]


def stages(result: EvaluateResult) -> str:
    """Return the share of right answers by stage, and how often a right proposal was lost or a wrong one mended."""
    details = [record.details for record in result.records if record.details]
    names = [name for name in ("propose", "refine", "aggregate") if any(name in one["stages"] for one in details)]
    shares = {name: [one["stages"][name] for one in details if name in one["stages"]] for name in names}
    text = ", ".join(f"{name} {100 * sum(values) / len(values):.1f} %" for name, values in shares.items())
    possible = [record for record in result.records if record.details.get("any")]
    lost = sum(not record.score for record in possible)
    made = sum(bool(record.score) for record in result.records) - (len(possible) - lost)
    return f"    {text}; any proposal right {len(possible)}, lost of these {lost}, right without one {made}"


if __name__ == "__main__":
    main()
