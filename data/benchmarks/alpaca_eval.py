"""AlpacaEval 2.0: 805 instructions against a baseline's outputs (Dubois et al. 2024, arXiv 2404.04475)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.data.benchmark import Answered, Benchmark, Hub
from moa_dspy.data.benchmarks.win_rate import (
    AUXILIARY_FILE,
    Auxiliary,
    WinRate,
    length_controlled_win_rate,
    raw_win_rate,
    score_annotations,
)
from moa_dspy.data.judges import (
    OFFICIAL,
    JudgeMetric,
    PairJudge,
    fill_known,
    official_file,
    pair_result,
    protocols_of,
    send,
)
from moa_dspy.data.metrics.metric import field_of
from moa_dspy.data.metrics.ratings import alternatives, probability_of_first
from moa_dspy.data.sources import Row, read_hub
from moa_dspy.errors import ConfigurationError

__all__ = ["AlpacaEval", "Auxiliary", "WinRate", "length_controlled_win_rate", "raw_win_rate", "score_annotations"]

WITHOUT_PROBABILITIES = "official prompt, no token probabilities"
"""Protocol without token probabilities from the judge's server: each verdict is then 0 or 1."""

_AUXILIARY_URL = f"hf://datasets/tatsu-lab/alpaca_eval/{AUXILIARY_FILE}"
_PROMPT_FILES = (
    "alpaca_eval_clf.txt",
    "basic_prompt.txt",
    "src/alpaca_eval/evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt",
)
_PROMPT_ORIGIN = "tatsu-lab/alpaca_eval, src/alpaca_eval/evaluators_configs"


class AnswerInstruction(dspy.Signature):
    """Follow the instruction."""

    instruction: str = dspy.InputField()
    answer: str = dspy.OutputField()


class AlpacaEval(Benchmark):
    """805 instructions with the outputs of gpt4_1106_preview. The category is the source of an instruction."""

    name = "alpaca_eval"
    title = "AlpacaEval 2.0"
    source = "arXiv 2404.04475, tatsu-lab/alpaca_eval"
    licence = "CC BY-NC 4.0"
    signature = AnswerInstruction
    splits = ("eval",)
    sizes = {"eval": 805}
    hub = Hub("tatsu-lab/alpaca_eval", files={"eval": "alpaca_eval_gpt4_baseline.json"})
    files = {"eval": ("alpaca_eval_gpt4_baseline.json", "gpt4_baseline.json")}
    needs_judge = True
    official_outputs = "model_outputs.json"
    official_judgments = "annotations.json"

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """Return an example. Its `index` is the row in the official data, which determines the difficulty."""
        return dspy.Example(
            id=str(position),
            index=position,
            instruction=row["instruction"],
            baseline=row["output"],
            category=row.get("dataset"),
        ).with_inputs("instruction")

    def metric(self, lm: dspy.BaseLM | None = None, prompts: Path | str | None = None) -> JudgeMetric:
        """Return the probability of winning against the baseline. `prompts` is `alpaca_eval_clf.txt` or its folder."""
        return WinMetric(PairJudge(lm) if prompts is None else OfficialPairJudge(lm, prompts))

    def summarize(self, details: Iterable[Mapping[str, Any]], path: Path | str | None = None) -> dict[str, Any]:
        """Return the raw and the length-controlled win rate, or the reason why the latter is missing."""
        items = list(details)
        try:
            figures = score_annotations(items, self.auxiliary(path))
        except ConfigurationError as error:
            figures = {**score_annotations(items), "not_length_controlled": str(error)}
        return {**figures, "unparsed": sum(int(item["unparsed"]) for item in items), "protocols": protocols_of(items)}

    def format_outputs(self, answers: Iterable[Answered], name: str) -> str:
        """Return the text of `model_outputs.json`: a list of instruction, output and generator."""
        rows = [
            {
                "dataset": example.category,
                "instruction": example.instruction,
                "output": str(outputs["answer"]),
                "generator": name,
            }
            for example, outputs, *_ in answers
        ]
        return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"

    def format_judgments(self, answers: Iterable[Answered], name: str, judge: str) -> str:
        """Return the text of `annotations.json`, which the official `get_length_controlled_winrate` reads."""
        rows = [
            {
                "instruction": example.instruction,
                "output_1": example.baseline,
                "generator_1": "gpt4_1106_preview",
                "output_2": str(outputs["answer"]),
                "generator_2": name,
                "dataset": example.category,
                "annotator": judge,
                "preference": details["preference"],
                "index": example.index,
            }
            for example, outputs, _, details in answers
        ]
        return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"

    def auxiliary(self, path: Path | str | None = None) -> Auxiliary:
        """Return the auxiliary rows, from `df_gamed.csv` in the folder, or from the hub or its cache."""
        for folder in self.folders(path):
            if (folder / AUXILIARY_FILE).is_file():
                return Auxiliary.of(folder)
        return Auxiliary.of(read_hub("csv", split="train", file=_AUXILIARY_URL))


class OfficialPairJudge(PairJudge):
    """Compares two answers with the official prompt, which requests one token and reads its probability.

    Each instruction is judged in one order. The official code draws the order at random. Here it depends on a hash of
    the instruction.
    """

    def __init__(self, lm: dspy.BaseLM | None, prompts: Path | str, *, both_orders: bool = False) -> None:
        super().__init__(lm, both_orders=both_orders)
        given = Path(prompts)
        file = given if given.is_file() else official_file(given, "alpaca_eval", _PROMPT_FILES, _PROMPT_ORIGIN)
        self.template = file.read_text(encoding="utf-8")
        judge_prompt(self.template, "", "", "")  # raises early if the template has no user message

    def forward(self, instruction: str, baseline: str, answer: str) -> dspy.Prediction:
        """Judge an answer against a baseline. Return the same as `PairJudge.forward`."""
        switched = hashlib.sha256(instruction.encode()).digest()[0] % 2 == 1
        wins: list[float | None] = []
        exact = True
        for answer_first in (False, True) if self.both_orders else (switched,):
            outputs = (answer, baseline) if answer_first else (baseline, answer)
            system, prompt = judge_prompt(self.template, instruction, *outputs)
            reply = send(self._lm(self.compare), prompt, system, temperature=1.0, max_tokens=1, logprobs=5)
            first = probability_of_first(reply)
            wins.append(first if first is None or answer_first else 1 - first)
            exact = exact and bool(alternatives(reply))
        return pair_result(wins, OFFICIAL if exact else WITHOUT_PROBABILITIES)


def judge_prompt(template: str, instruction: str, output_1: str, output_2: str) -> tuple[str | None, str]:
    """Return the system message and the user message of the official judge request.

    Args:
        template: the official prompt file, with `<|im_start|>role` marks and the names below in braces.
        instruction: the instruction.
        output_1: the output that is shown first, as model "m".
        output_2: the output that is shown second, as model "M".

    Raises:
        ConfigurationError: if the template has no user message.
    """
    messages = dict(re.findall(r"<\|im_start\|>[ ]*(\w+)[ ]*\n(.*?)(?:<\|im_end\|>|\Z)", template, re.DOTALL))
    if "user" not in messages:
        raise ConfigurationError("the AlpacaEval prompt has no <|im_start|>user message")
    values = {"instruction": instruction, "output_1": output_1, "output_2": output_2}
    system = messages.get("system")
    return (None if system is None else system.strip()), fill_known(messages["user"].strip(), values)


class WinMetric(JudgeMetric):
    """The probability that the answer beats the baseline's."""

    def __init__(self, pair: PairJudge) -> None:
        super().__init__()
        self.pair = pair
        self.calls = 2 if pair.both_orders else 1
        self.reply_tokens = 1 if isinstance(pair, OfficialPairJudge) else 30

    def judge(self, example: dspy.Example, prediction: Any) -> tuple[float | None, str, dict[str, Any]]:
        """Return the win probability; None if an order cannot be read. The details are an annotation."""
        answer = str(field_of(prediction, "answer", "prediction"))
        reply = self.pair(instruction=example.instruction, baseline=example.baseline, answer=answer)
        win = None if reply.unparsed else reply.win
        details = {
            "preference": None if win is None else 1 + win,
            "index": example.index,
            "len_baseline": len(example.baseline),
            "len_model": len(answer),
            "orders": reply.orders,
            "protocol": reply.protocol,
            "unparsed": reply.unparsed,
        }
        verdict = "no verdict" if win is None else f"a win probability of {win:.2f}"
        feedback = f"Against the baseline's answer the judge gave {verdict}. The baseline's: {example.baseline}"
        return win, feedback, details
