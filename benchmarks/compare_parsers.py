"""Our answer parsers beside those of lm-evaluation-harness and inspect_evals, on real replies and on tables of forms.

    uv venv /tmp/lm && uv pip install --python /tmp/lm/bin/python --no-deps lm-eval
    uv pip install --python /tmp/lm/bin/python math-verify antlr4-python3-runtime==4.11
    uv venv /tmp/inspect && uv pip install --python /tmp/inspect/bin/python inspect-evals \\
        latex2sympy2-extended antlr4-python3-runtime==4.11
    uv run python -m benchmarks.compare_parsers --data ../shared/data --lm-eval /tmp/lm/bin/python \\
        --inspect /tmp/inspect/bin/python

Real replies are OpenAI's 2638 GSM8K solutions with the authors' verdicts and the BBH replies of code-davinci-002. The
tables are those of `tests/data/metrics/test_reading.py` and `test_mathematics.py`. `--fresh` reads the replies of
`benchmarks.fresh_replies`. A reply is a disagreement if one of the other parsers gives a
different verdict than ours. The published verdict, or the table, says who is right. The
columns count the replies on which our parser, the other one, or only one of the two is right.
"""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dspy

from benchmarks.common import table
from moa_dspy.data import MathEquivalence, bbh, choice_letter, gsm8k
from moa_dspy.data.metrics.mathematics import equivalent

LM_EVAL = r"""
import importlib.util, json, os, re, sys
from types import ModuleType
import lm_eval
from lm_eval.filters.extraction import MultiChoiceRegexFilter, RegexFilter

MARKS = ("The answer is ", "the answer is ", "The answer: ", "The final answer: ")
ANSWER = "(" + "|".join(f"(?<={mark})(.*)(?=.)" for mark in MARKS) + ")"
PAIRS = r"\b(True|False)\b", r"\b(Yes|No|yes|no)\b", r"\b(valid|invalid)\b"
FILTERS = {  # of the tasks gsm8k, mmlu_flan_cot_zeroshot, mmlu_pro and bbh_cot_zeroshot
    "number": {
        "strict": RegexFilter(r"#### (\-?[0-9\.\,]+)"),
        "flexible": RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1),
    },
    "letter": {
        "mmlu": MultiChoiceRegexFilter(r"(\([A-Z]\))", group_select=-1, ignore_case=True, ignore_punctuation=True),
        "mmlu_pro": RegexFilter(r"answer is \(?([ABCDEFGHIJ])\)?"),
    },
    "hard": {"bbh": RegexFilter(ANSWER)},
}

def utils(task):
    sys.modules.setdefault("datasets", ModuleType("datasets")).Dataset = None  # only for annotations
    path = os.path.join(os.path.dirname(lm_eval.__file__), "tasks", task, "utils.py")
    spec = importlib.util.spec_from_file_location(task, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

minerva, hendrycks = utils("minerva_math"), utils("hendrycks_math")

def mathematics(row):
    reply, target, norm = row["reply"], row["target"], minerva.normalize_final_answer
    boxed, bare = rf"\boxed{{{target}}}", row["kind"] == "expression"
    read = norm(reply if bare else minerva.get_unnormalized_answer(reply))
    gold, found = minerva.parse(boxed), minerva.parse(rf"\boxed{{{reply}}}" if bare else reply)
    return {
        "minerva_math": minerva.is_equiv(read, norm(target)),
        "math_verify": bool(minerva.verify(gold=gold, target=found)),
        "hendrycks_math": bool(hendrycks.process_results({"solution": boxed}, [reply])["exact_match"]),
    }

def norm(text):
    return re.sub(r"[,$()]|\.$", "", text.strip()).strip().casefold()

def verdicts(row):
    if row["kind"] in ("math", "expression"):
        return mathematics(row)
    doc = [{"choices": row["choices"]}]
    filters = dict(FILTERS[row["kind"]])
    if row["kind"] == "hard":
        of_pair = [each for each in PAIRS if re.fullmatch(each, row["target"], re.IGNORECASE)]
        filters |= {"bbh flexible": RegexFilter(each, group_select=-1) for each in of_pair}
    found = {name: each.apply([[row["reply"]]], doc) for name, each in filters.items()}
    return {name: norm([*answers][0][0]) == norm(row["target"]) for name, answers in found.items()}

json.dump([verdicts(row) for row in json.load(sys.stdin)], sys.stdout)
"""

INSPECT = r"""
import asyncio, json, re, sys
from types import SimpleNamespace
from inspect_ai.scorer import AnswerPattern, Target, math
from inspect_ai.scorer._common import match_str
from inspect_ai.solver._multiple_choice import parse_answers
from inspect_evals.math.utils import extract_answer, is_equiv, is_equiv_sympy, normalize_final_answer as norm

scorer = math()

def state_of(row, reply):
    return SimpleNamespace(output=SimpleNamespace(completion=reply), choices=row["choices"] or [""] * 20)

async def mathematics(row):
    reply, target, bare = row["reply"], row["target"], row["kind"] == "expression"
    read = reply if bare else extract_answer(reply)
    try:
        score = await scorer(state_of(row, rf"\boxed{{{reply}}}" if bare else reply), Target([target]))
    except ValueError:  # it cannot read the target
        score = None
    return {
        "math scorer": score is not None and score.value == "C",
        "math task": bool(read) and await is_equiv(read, target),
        "math task, sympy": bool(read) and await is_equiv_sympy(await norm(read), await norm(target)),
    }

async def verdicts(row):
    if row["kind"] in ("math", "expression"):
        return await mathematics(row)
    if row["kind"] == "number":
        return {"match": bool(match_str(row["reply"], row["target"], numeric=True)[1])}
    if row["kind"] == "letter" or re.fullmatch(r"\([A-Z]\)", row["target"]):
        return {"choice": parse_answers(state_of(row, row["reply"]), False) == {row["target"].strip("()")}}
    found = re.findall(AnswerPattern.WORD, row["reply"])
    word = bool(found) and found[-1].casefold() == row["target"].casefold()
    return {"word": word, "match": bool(match_str(row["reply"], row["target"])[1])}

async def main():
    return [await verdicts(row) for row in json.load(sys.stdin)]

json.dump(asyncio.run(main()), sys.stdout)
"""


SENTENCES = {
    "sentence": "Let us see.\nSo the answer is {}.",
    "label": "Let us see.\n\n**Answer**: {}",
    "remark": "Let us see. So the answer is {}.\nLet me know if the answer is unclear.",
}
"""Sentences around the real replies, which are answers alone."""


class Reply(NamedTuple):
    """A reply with its target; `right` is the verdict that the source of the reply gives."""

    source: str
    kind: str
    reply: str
    target: str
    right: bool
    choices: list[str]


def main() -> None:
    """Print the verdicts of all parsers, and every reply on which another parser is right and ours is wrong."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--lm-eval", required=True, help="the interpreter that has lm-eval")
    options.add_argument("--inspect", required=True, help="the interpreter that has inspect-evals")
    options.add_argument("--list", action="store_true", help="print every disagreement")
    options.add_argument("--bbh-cot", type=Path, help="the folder code-davinci-002-cot of suzgunmirac/BIG-Bench-Hard")
    options.add_argument("--fresh", type=Path, nargs="*", default=[], help="JSON lines: kind, reply, target, choices")
    arguments = options.parse_args()
    replies = [*real_replies(arguments.data), *forms()]
    if arguments.bbh_cot:
        replies += reasoned_replies(arguments.bbh_cot)
    replies += fresh_replies(arguments.fresh)
    ours = [verdict(reply) for reply in replies]
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for program, interpreter, script in (
        ("lm-eval", arguments.lm_eval, LM_EVAL),
        ("inspect", arguments.inspect, INSPECT),
    ):
        for reply, mine, theirs in zip(replies, ours, asked(interpreter, script, replies), strict=True):
            for name, other in theirs.items():
                count = counts[reply.source, f"{program} {name}"]
                count.update({"replies": 1, "ours": mine == reply.right, "theirs": other == reply.right})
                if mine != other:
                    who = "only ours" if mine == reply.right else "only theirs"
                    count[who] += 1
                    if arguments.list or who == "only theirs":
                        print(f"{reply.source}, {program} {name}: {who} on {reply.reply[-200:]!r}, {reply.target}")
    columns = ("replies", "ours", "theirs", "only ours", "only theirs")
    rows = [(*names, *(str(count[column]) for column in columns)) for names, count in sorted(counts.items())]
    table([("replies of", "parser", *columns), *rows])


def real_replies(data: Path) -> Iterator[Reply]:
    """Yield the published replies, with the published verdicts."""
    for row in rows_of(data / "gsm8k" / "model_solutions_6b.jsonl"):
        target = row["ground_truth"].rpartition("A:")[2].strip().replace(",", "")
        for model in ("6b_finetuning", "6b_verification"):
            solution = row[model]
            yield Reply("GSM8K", "number", solution["solution"], target, solution["is_correct"], [])
    for task in rows_of(data / "bbh" / "codex_direct.jsonl"):
        for prediction, target in task["rows"]:
            right = prediction.strip() == target.strip()
            yield Reply("BBH, direct", "hard", prediction, target, right, [])
            for source, form in SENTENCES.items():
                yield Reply(f"BBH, {source}", "hard", form.format(prediction), target, right, [])


def reasoned_replies(folder: Path) -> Iterator[Reply]:
    """Yield the replies with reasoning. The authors' verdict compares what follows "the answer is" with the target."""
    for file in sorted(folder.glob("*0-255000.json")):
        for row in json.loads(file.read_text(encoding="utf-8"))["outputs"]:
            reply, target = row["prediction"], str(row["target"])
            target = f"({target})" if len(target) == 1 and target.isupper() else target
            said = reply.rpartition("answer is ")[2].strip().removesuffix(".") if "answer is " in reply else ""
            yield Reply("BBH, reasoned", "hard", reply, target, said.strip("()") == target.strip("()"), [])


def fresh_replies(files: Sequence[Path]) -> Iterator[Reply]:
    """Yield replies without a published verdict. Who agrees with the target is taken for right; a person reads them."""
    for file in files:
        for row in rows_of(file):
            yield Reply(f"fresh {file.stem}", row["kind"], row["reply"], row["target"], True, row.get("choices") or [])


def forms() -> Iterator[Reply]:
    """Yield our tables of forms. A form that must not be read is right if it is not taken for its wrong answer."""
    tests = Path(__file__).parents[1] / "tests" / "data" / "metrics"
    table_of = {**runpy.run_path(str(tests / "test_reading.py")), **runpy.run_path(str(tests / "test_mathematics.py"))}
    for text, number in table_of["NUMBERS"]:
        if number is None or number.denominator == 1:
            for target in {number, 18, 72} - {None}:
                yield Reply("numbers", "number", text, str(target), number == target, [])
    for text, letter in table_of["LETTERS"]:
        for target in "ABCD":
            yield Reply("letters", "letter", text, target, letter == target, table_of["CITIES"])
    for text, target, right in table_of["HARD"]:
        yield Reply("hard tasks", "hard", text, target, right, [])
    for target, text, right in table_of["EXPRESSIONS"]:
        yield Reply("expressions", "expression", text, target, right, [])
    for target, text, right in table_of["SOLUTIONS"]:
        yield Reply("solutions", "math", text, target, right, [])


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file with one JSON object a line."""
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def verdict(reply: Reply) -> bool:
    """Return our verdict."""
    if reply.kind == "number":
        return gsm8k.is_correct(reply.reply, reply.target)
    if reply.kind == "letter":
        return choice_letter(reply.reply, reply.choices) == reply.target
    if reply.kind == "expression":
        return equivalent(reply.target, reply.reply)
    if reply.kind == "math":
        return MathEquivalence()(dspy.Example(answer=reply.target), dspy.Prediction(answer=reply.reply)) is True
    return bbh.is_correct(reply.reply, reply.target)


def asked(interpreter: str, script: str, replies: Sequence[Reply]) -> list[dict[str, bool]]:
    """Return the verdicts of the parsers of another program, by parser, for each reply."""
    rows = json.dumps([reply._asdict() for reply in replies])
    done = subprocess.run([interpreter, "-c", script], input=rows, capture_output=True, text=True, check=True)
    answers: list[dict[str, bool]] = json.loads(done.stdout)
    return answers


if __name__ == "__main__":
    main()
