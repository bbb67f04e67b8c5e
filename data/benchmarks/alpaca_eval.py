"""AlpacaEval 2.0: 805 instructions against a baseline's outputs (Dubois et al. 2024, arXiv 2404.04475)."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import dspy

from moa_dspy.data.benchmark import Answered, Benchmark, Hub
from moa_dspy.data.judges import OFFICIAL, JudgeMetric, PairJudge, pair_result, send
from moa_dspy.data.literals import fill_known
from moa_dspy.data.metrics.metric import field_of
from moa_dspy.data.sources import Row, read_hub
from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["AlpacaEval", "Auxiliary", "WinRate", "length_controlled_win_rate", "raw_win_rate", "score_annotations"]

AUXILIARY_WEIGHT = 0.2 / 2
"""Weight of an auxiliary row: the regularisation to the gamed baselines (0.2), of which there are two."""

C_GRID = (-4, 4, 10)
"""Inverse regularisation strengths tried: ten, evenly spaced in powers of ten."""

FOLDS = 5

WITHOUT_PROBABILITIES = "official prompt, no token probabilities"
"""Protocol of a judge behind a server that reports none: its verdicts are all or nothing."""

VERDICTS_MIN = 30
"""With fewer verdicts the regression says more of its auxiliary rows than of the model."""

_AUXILIARY_FILE = "df_gamed.csv"
_AUXILIARY_URL = f"hf://datasets/tatsu-lab/alpaca_eval/{_AUXILIARY_FILE}"
_PROMPT_FILES = ("alpaca_eval_clf.txt", "basic_prompt.txt")
_AUXILIARY_COLUMNS = ("preference", "index", "std_delta_len", "instruction_difficulty")


class WinRate(NamedTuple):
    """A win rate and its standard error, both in percent."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Auxiliary:
    """The official regression's auxiliary rows (``df_gamed.csv``): annotations of the baseline, made long or short.

    Attributes:
        preference: of the altered baseline over the baseline, in [0, 1].
        index: row of the instruction.
        std_delta_len: standardised length difference.
        instruction_difficulty: of the instruction.
    """

    preference: Sequence[float]
    index: Sequence[int]
    std_delta_len: Sequence[float]
    instruction_difficulty: Sequence[float]

    @classmethod
    def of(cls, source: Any) -> Auxiliary:
        """From whatever holds the four columns: a CSV file, its folder, rows, columns or a data frame.

        Raises:
            ConfigurationError: a column is missing.
        """
        if isinstance(source, cls):
            return source
        if isinstance(source, str | Path):
            return cls.read(Path(source))
        columns = source if hasattr(source, "keys") else _columns(source)
        missing = [name for name in _AUXILIARY_COLUMNS if name not in columns]
        if missing:
            have = ", ".join(map(str, columns.keys())) or "none"
            raise ConfigurationError(f"the auxiliary rows lack {', '.join(missing)}; they have: {have}")
        floats = {name: [float(value) for value in columns[name]] for name in _AUXILIARY_COLUMNS if name != "index"}
        return cls(index=[int(float(value)) for value in columns["index"]], **floats)

    @classmethod
    def read(cls, path: Path) -> Auxiliary:
        """From ``df_gamed.csv`` or the folder that holds it."""
        file = path / _AUXILIARY_FILE if path.is_dir() else path
        try:
            with file.open(newline="", encoding="utf-8") as lines:
                return cls.of(list(csv.DictReader(lines)))
        except OSError as error:
            raise ConfigurationError(f"cannot read the auxiliary rows {file.name}: {error.strerror}") from error

    def difficulty(self) -> dict[int, float]:
        """Difficulty by instruction row."""
        return dict(zip(reversed(self.index), reversed(self.instruction_difficulty), strict=True))


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}


def raw_win_rate(preferences: Iterable[float | None]) -> WinRate:
    """How often the model's output is preferred to the baseline's.

    Args:
        preferences: one for each instruction, in [1, 2], 2 where the model wins; 0 is a tie (1.5); None and NaN are
            missing and left out.

    Returns:
        The mean of preference - 1 with its standard error, in percent; NaN where too few are left.

    Raises:
        ConfigurationError: a preference is out of range.
    """
    wins = [win for win in map(_win, preferences) if not math.isnan(win)]
    if not wins:
        return WinRate(math.nan, math.nan)
    mean = math.fsum(wins) / len(wins)
    if len(wins) == 1:
        return WinRate(100 * mean, math.nan)
    variance = math.fsum((win - mean) ** 2 for win in wins) / (len(wins) - 1)
    return WinRate(100 * mean, 100 * math.sqrt(variance / len(wins)))


def _win(preference: float | None) -> float:
    """Probability in [0, 1] that the model wins; NaN where the preference is missing."""
    if preference is None or math.isnan(float(preference)):
        return math.nan
    value = float(preference) or 1.5
    if not 1 <= value <= 2:
        raise ConfigurationError(f"a preference is 0 (tie) or from 1 to 2, not {preference!r}")
    return value - 1


@dataclass(frozen=True)
class _Problem:
    """The weighted logistic regression: each row twice, with label 1 and 0 and its probability as weight.

    Columns: tanh of the standardised length difference, difficulty, indicator of the model.
    """

    features: Array
    wins: Array
    weights: Array

    def duplicated(self) -> tuple[Array, Array, Array, NDArray[np.int64]]:
        """Features, labels, sample weights and group of each copy."""
        import numpy as np

        n = len(self.wins)
        share = np.concatenate([self.wins, 1 - self.wins])
        return (
            np.vstack([self.features, self.features]),
            np.concatenate([np.ones(n), np.zeros(n)]),
            share * np.concatenate([self.weights, self.weights]),
            np.concatenate([np.arange(n), np.arange(n)]),
        )


def length_controlled_win_rate(
    preferences: Sequence[float | None],
    len_baseline: Sequence[float],
    len_model: Sequence[float],
    index: Sequence[int],
    auxiliary: Any,
    C: float | None = None,  # noqa: N803 - the regression's own name for it
) -> WinRate:
    """The win rate that the model would have at the baseline's length (arXiv 2404.04475, section 3).

    A logistic regression without intercept on tanh of the standardised length difference, the instruction's difficulty
    and an indicator of the model; L1 by liblinear; auxiliary rows weigh 0.1 each; the strength is chosen by five group
    folds on the weighted log-loss. The prediction sets the length difference to zero.

    Args:
        preferences: as for ``raw_win_rate``; missing ones do not train but are predicted.
        len_baseline: characters of each baseline output.
        len_model: characters of each model output.
        index: the instruction's row in the official set, by which its difficulty is looked up.
        auxiliary: the official ``df_gamed.csv``: its path or folder, its rows, its columns, or ``Auxiliary``.
        C: inverse regularisation strength; None chooses one of ten by cross validation.

    Returns:
        Value and standard error, in percent. The error is that of sampling instructions: the delta method on the
        regression's influence functions, at fixed C.

    Raises:
        ConfigurationError: lengths differ, there are fewer than 30 preferences, an index is unknown, or scikit-learn
            is missing.
    """
    import numpy as np

    if len({len(preferences), len(len_baseline), len(len_model), len(index)}) != 1:
        raise ConfigurationError("preferences, both lengths and index must have one entry for each row")
    rows = Auxiliary.of(auxiliary)
    wins = np.array([_win(preference) for preference in preferences], dtype=float)
    verdicts = int(np.sum(~np.isnan(wins)))
    if verdicts < VERDICTS_MIN:
        raise ConfigurationError(f"length control needs {VERDICTS_MIN} or more verdicts; there are {verdicts}")
    features = _model_features(len_baseline, len_model, _difficulties(rows, index))
    seen = ~np.isnan(wins)
    problem = _with_auxiliary(features[seen], wins[seen], rows)
    coefficients = _fit(problem, _best_c(problem) if C is None else C)
    return _win_rate_at_equal_length(coefficients, features, wins, problem)


def _difficulties(rows: Auxiliary, index: Sequence[int]) -> list[float]:
    known = rows.difficulty()
    unknown = [int(row) for row in index if int(row) not in known]
    if unknown:
        raise ConfigurationError(f"no difficulty is known for instruction row {unknown[0]} ({len(known)} are known)")
    return [known[int(row)] for row in index]


def _model_features(len_baseline: Sequence[float], len_model: Sequence[float], difficulty: Sequence[float]) -> Array:
    import numpy as np

    delta = np.asarray(len_baseline, dtype=float) - np.asarray(len_model, dtype=float)
    deviation = float(delta.std(ddof=1))
    scaled = np.tanh(delta / deviation) if deviation > 0 else np.zeros_like(delta)
    return np.column_stack([scaled, np.asarray(difficulty, dtype=float), np.ones_like(delta)])


def _with_auxiliary(features: Array, wins: Array, rows: Auxiliary) -> _Problem:
    """Auxiliary rows first, as in the official code: the folds are dealt in this order."""
    import numpy as np

    std_delta = np.asarray(rows.std_delta_len, dtype=float)
    difficulty = np.asarray(rows.instruction_difficulty, dtype=float)
    auxiliary = np.column_stack([np.tanh(std_delta), difficulty, np.zeros_like(std_delta)])
    return _Problem(
        features=np.vstack([auxiliary, features]),
        wins=np.concatenate([np.asarray(rows.preference, dtype=float), wins]),
        weights=np.concatenate([np.full(len(std_delta), AUXILIARY_WEIGHT), np.ones(len(wins))]),
    )


def _fit(problem: _Problem, c: float) -> Array:
    import numpy as np

    features, labels, weights, _ = problem.duplicated()
    model = _regression(c).fit(features, labels, sample_weight=weights)
    return np.asarray(model.coef_[0], dtype=float)


def _regression(c: float) -> Any:
    try:
        import sklearn
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ConfigurationError("the length-controlled win rate needs scikit-learn: install moa-dspy[eval]") from None
    major, minor = (int(part) for part in sklearn.__version__.split(".")[:2])
    penalty: dict[str, Any] = {"l1_ratio": 1.0} if (major, minor) >= (1, 8) else {"penalty": "l1"}
    return LogisticRegression(C=c, solver="liblinear", fit_intercept=False, random_state=123, **penalty)


def _best_c(problem: _Problem) -> float:
    """The strength with the least mean weighted log-loss over the folds."""
    import numpy as np
    from sklearn.model_selection import GroupKFold

    features, labels, _weights, groups = problem.duplicated()
    folds = list(GroupKFold(n_splits=FOLDS).split(features, labels, groups))
    grid = np.logspace(*C_GRID)
    losses = [np.mean([_fold_loss(problem, float(c), train, test) for train, test in folds]) for c in grid]
    return float(grid[int(np.argmin(losses))])


def _fold_loss(problem: _Problem, c: float, train: NDArray[np.int64], test: NDArray[np.int64]) -> float:
    import numpy as np

    features, labels, weights, groups = problem.duplicated()
    model = _regression(c).fit(features[train], labels[train], sample_weight=weights[train])
    predicted = np.clip(model.predict_proba(features[test])[:, 1], 1e-15, 1 - 1e-15)
    rows = groups[test]
    wins = problem.wins[rows]
    loss = -(wins * np.log(predicted) + (1 - wins) * np.log(1 - predicted))
    return float(np.mean(loss * problem.weights[rows]))


def _sigmoid(x: Array) -> Array:
    import numpy as np

    return np.asarray(np.exp(-np.logaddexp(0, -x)), dtype=float)


def _win_rate_at_equal_length(coefficients: Array, features: Array, wins: Array, problem: _Problem) -> WinRate:
    import numpy as np

    at_equal_length = features.copy()
    at_equal_length[:, 0] = 0
    predicted = _sigmoid(at_equal_length @ coefficients)
    value = float(predicted.mean())
    gradient = (predicted * (1 - predicted)) @ at_equal_length / len(predicted)
    fitted = _sigmoid(problem.features @ coefficients)
    curvature = (problem.features * (problem.weights * fitted * (1 - fitted))[:, None]).T @ problem.features
    residual = np.where(np.isnan(wins), 0.0, wins - _sigmoid(features @ coefficients))
    through_fit = (features * residual[:, None]) @ np.linalg.pinv(curvature) @ gradient
    influence = (predicted - value) / len(predicted) + through_fit
    n = len(influence)
    return WinRate(100 * value, 100 * float(np.sqrt(n / (n - 1) * np.sum((influence - influence.mean()) ** 2))))


def score_annotations(annotations: Iterable[Mapping[str, Any]], auxiliary: Any = None) -> dict[str, Any]:
    """Win rates from annotations, official ones (``annotations.json`` of a model) or our own judge's.

    Args:
        annotations: rows with ``preference`` and either both outputs (``output_1`` is the baseline's) or both lengths
            (``len_baseline``, ``len_model``). ``index`` is the instruction's row; without it the position counts, as in
            the official code.
        auxiliary: as for ``length_controlled_win_rate``; without it only the raw win rate is computed.

    Returns:
        ``win_rate``, ``standard_error``, ``annotated`` (rows with a preference), ``rows``; with the auxiliary rows also
        ``length_controlled_win_rate`` and ``length_controlled_standard_error``, or ``not_length_controlled``, the
        reason why not.
    """
    rows = list(annotations)
    preferences = [_number(row.get("preference")) for row in rows]
    raw = raw_win_rate(preferences)
    figures: dict[str, Any] = {
        "win_rate": raw.value,
        "standard_error": raw.standard_error,
        "annotated": sum(preference is not None for preference in preferences),
        "rows": len(rows),
    }
    if auxiliary is None:
        return figures
    baseline = [_length(row, "len_baseline", "output_1") for row in rows]
    model = [_length(row, "len_model", "output_2") for row in rows]
    index = [int(row.get("index", position)) for position, row in enumerate(rows)]
    try:
        controlled = length_controlled_win_rate(preferences, baseline, model, index, auxiliary)
    except ConfigurationError as error:
        return {**figures, "not_length_controlled": str(error)}
    figures["length_controlled_win_rate"] = controlled.value
    figures["length_controlled_standard_error"] = controlled.standard_error
    return figures


def _number(value: Any) -> float | None:
    number = math.nan if value in (None, "") else float(value)
    return None if math.isnan(number) else number


def _length(row: Mapping[str, Any], length: str, output: str) -> float:
    return float(row[length]) if length in row else float(len(str(row[output] or "")))


class AnswerInstruction(dspy.Signature):
    """Follow the instruction."""

    instruction: str = dspy.InputField()
    answer: str = dspy.OutputField()


class AlpacaEval(Benchmark):
    """805 instructions with the outputs of gpt4_1106_preview; the category is the set an instruction is from."""

    name = "alpaca_eval"
    title = "AlpacaEval 2.0"
    source = "arXiv 2404.04475, tatsu-lab/alpaca_eval"
    licence = "CC BY-NC 4.0"
    signature = AnswerInstruction
    splits = ("eval",)
    sizes: ClassVar[Mapping[str, int]] = {"eval": 805}
    hub = Hub("tatsu-lab/alpaca_eval", files={"eval": "alpaca_eval_gpt4_baseline.json"})
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {"eval": ("alpaca_eval_gpt4_baseline.json", "gpt4_baseline.json")}
    judged = True
    official_outputs = "model_outputs.json"

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """``index`` is the row in the official set, by which an instruction's difficulty is known."""
        return dspy.Example(
            id=str(position),
            index=position,
            instruction=row["instruction"],
            baseline=row["output"],
            category=row.get("dataset"),
        ).with_inputs("instruction")

    def metric(self, lm: dspy.BaseLM | None = None, prompts: Path | str | None = None) -> JudgeMetric:
        """Probability of winning against the baseline. ``prompts``: ``alpaca_eval_clf.txt`` or its folder."""
        return WinMetric(PairJudge(lm) if prompts is None else OfficialPairJudge(lm, prompts))

    def summarize(self, details: Iterable[Mapping[str, Any]], path: Path | str | None = None) -> dict[str, Any]:
        """Raw and length-controlled win rate; without the auxiliary rows only the raw one, with the reason."""
        items = list(details)
        figures: dict[str, Any] = {}
        auxiliary = None
        try:
            auxiliary = self.auxiliary(path)
        except ConfigurationError as error:
            figures["not_length_controlled"] = str(error)
        return {
            **score_annotations(items, auxiliary),
            **figures,
            "unparsed": sum(int(item["unparsed"]) for item in items),
            "protocols": sorted({str(item["protocol"]) for item in items}),
        }

    def format_outputs(self, answers: Iterable[Answered], name: str) -> str:
        """``model_outputs.json``: a list of instruction, output and generator."""
        rows = [
            {
                "dataset": example.category,
                "instruction": example.instruction,
                "output": str(outputs["answer"]),
                "generator": name,
            }
            for example, outputs, _ in answers
        ]
        return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"

    def auxiliary(self, path: Path | str | None = None) -> Auxiliary:
        """The regression's auxiliary rows: ``df_gamed.csv`` in the folder, or from the hub or its cache."""
        for folder in self.folders(path):
            if (folder / _AUXILIARY_FILE).is_file():
                return Auxiliary.read(folder)
        return Auxiliary.of(list(read_hub("csv", split="train", data_files={"train": _AUXILIARY_URL})))


class OfficialPairJudge(PairJudge):
    """Compares with the official prompt: one token, its probability, one order drawn for each instruction.

    The official code draws the order with its own generator; here the instruction's hash decides, the same everywhere.
    """

    def __init__(self, lm: dspy.BaseLM | None, prompts: Path | str, *, both_orders: bool = False) -> None:
        super().__init__(lm, both_orders=both_orders)
        self.template = _prompt_text(Path(prompts))
        judge_prompt(self.template, "", "", "")  # a template without a user message is refused before anything is paid

    def forward(self, instruction: str, baseline: str, answer: str) -> dspy.Prediction:
        """Judge an answer against a baseline."""
        switched = hashlib.sha256(instruction.encode()).digest()[0] % 2 == 1
        orders = (False, True) if self.both_orders else (switched,)
        replies = [self._reply(instruction, baseline, answer, switched=order) for order in orders]
        firsts = [probability_of_first(reply) for reply in replies]
        wins = [
            None if first is None else first if order else 1 - first
            for first, order in zip(firsts, orders, strict=True)
        ]
        exact = all(_alternatives(reply) for reply in replies)
        return pair_result(wins, OFFICIAL if exact else WITHOUT_PROBABILITIES)

    def _reply(self, instruction: str, baseline: str, answer: str, *, switched: bool) -> Any:
        outputs = (answer, baseline) if switched else (baseline, answer)
        system, prompt = judge_prompt(self.template, instruction, *outputs)
        return send(self._lm(self.compare), prompt, system=system, temperature=1.0, max_tokens=1, logprobs=5)


def probability_of_first(reply: Any) -> float | None:
    """Probability that the official judge prefers the output it was shown first, model "m".

    As in the official parser: the alternatives that were reported for the first token decide, whichever was drawn, and
    the names must stand there exactly. A server that reports no alternatives is read by the token alone.

    Args:
        reply: a ``dspy.lm15.Response``.

    Returns:
        P("m") / (P("m") + P("M")); None where neither is there.
    """
    alternatives = _alternatives(reply)
    if not alternatives:
        return {"m": 1.0, "M": 0.0}.get(str(reply.text or "").strip())
    first, second = (math.exp(alternatives.get(name, -math.inf)) for name in ("m", "M"))
    return first / (first + second) if first + second else None


def _alternatives(reply: Any) -> dict[str, float]:
    """Log-probabilities of what the first token could have been."""
    return {token.token: token.logprob for token in (reply.logprobs[0].top or ())} if reply.logprobs else {}


def judge_prompt(template: str, instruction: str, output_1: str, output_2: str) -> tuple[str | None, str]:
    """The official judge request: system message and user message.

    Args:
        template: the official prompt file, with ``<|im_start|>role`` marks and the names below in braces.
        instruction: what was asked.
        output_1: shown first, as model "m".
        output_2: shown second, as model "M".

    Raises:
        ConfigurationError: the template has no user message.
    """
    messages = dict(re.findall(r"<\|im_start\|>[ ]*(\w+)[ ]*\n(.*?)(?:<\|im_end\|>|\Z)", template, re.DOTALL))
    if "user" not in messages:
        raise ConfigurationError("the AlpacaEval prompt has no <|im_start|>user message")
    values = {"instruction": instruction, "output_1": output_1, "output_2": output_2}
    system = messages.get("system")
    return (None if system is None else system.strip()), fill_known(messages["user"].strip(), values)


def _prompt_text(path: Path) -> str:
    candidates = [path, *(base / name for base in (path, path / "alpaca_eval") for name in _PROMPT_FILES)]
    for file in candidates:
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise ConfigurationError(
        f"{path} has none of {', '.join(_PROMPT_FILES)}; "
        "they are in tatsu-lab/alpaca_eval, src/alpaca_eval/evaluators_configs"
    )


class WinMetric(JudgeMetric):
    """Probability that the answer beats the baseline's.

    Attributes:
        pair: the judge.
    """

    def __init__(self, pair: PairJudge) -> None:
        super().__init__()
        self.pair = pair
        self.calls = 2 if pair.both_orders else 1
        self.reply_tokens = 1 if isinstance(pair, OfficialPairJudge) else 30

    def judge(self, example: dspy.Example, prediction: Any) -> tuple[float | None, str, dict[str, Any]]:
        """Win probability; the details are an annotation that ``score_annotations`` takes."""
        answer = str(field_of(prediction, "answer", "prediction"))
        reply = self.pair(instruction=example.instruction, baseline=example.baseline, answer=answer)
        details = {
            "preference": None if reply.win is None else 1 + reply.win,
            "index": example.index,
            "len_baseline": len(example.baseline),
            "len_model": len(answer),
            "orders": reply.orders,
            "protocol": reply.protocol,
            "unparsed": reply.unparsed,
        }
        said = "no verdict" if reply.win is None else f"a win probability of {reply.win:.2f}"
        return (
            reply.win,
            f"Against the baseline's answer the judge gave {said}. The baseline's: {example.baseline}",
            details,
        )
