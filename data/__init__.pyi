from . import starter as starter
from .benchmark import (
    Answered as Answered,
    Benchmark as Benchmark,
    Hub as Hub,
)
from .benchmarks import (
    alpaca_eval as alpaca_eval,
    bbh as bbh,
    flask as flask,
    gpqa as gpqa,
    gsm8k as gsm8k,
    hotpotqa as hotpotqa,
    math500 as math500,
    mmlu as mmlu,
    mmlu_pro as mmlu_pro,
    mt_bench as mt_bench,
)
from .benchmarks.registry import (
    benchmarks as benchmarks,
    get_benchmark as get_benchmark,
)
from .benchmarks.win_rate import (
    LengthControlledWinRate as LengthControlledWinRate,
    WinRate as WinRate,
    length_controlled_win_rate as length_controlled_win_rate,
    raw_win_rate as raw_win_rate,
)
from .judges import (
    GradeJudge as GradeJudge,
    JudgeMetric as JudgeMetric,
    PairJudge as PairJudge,
    SkillJudge as SkillJudge,
    UnparsedVerdictError as UnparsedVerdictError,
)
from .loading import (
    ConfigurationError as ConfigurationError,
    RunError as RunError,
    load as load,
    stream as stream,
)
from .metrics.choices import (
    ChoiceLetter as ChoiceLetter,
    choice_letter as choice_letter,
)
from .metrics.instructions import Instructions as Instructions
from .metrics.mathematics import MathEquivalence as MathEquivalence
from .metrics.metric import (
    Checked as Checked,
    Metric as Metric,
    TextMetric as TextMetric,
    Verdict as Verdict,
    Vote as Vote,
    VoteMatch as VoteMatch,
    vote as vote,
)
from .metrics.numbers import Numeric as Numeric
from .metrics.ratings import parse_score as parse_score
from .metrics.text import (
    F1 as F1,
    Contains as Contains,
    ExactMatch as ExactMatch,
    NormalizedMatch as NormalizedMatch,
)
from .splitting import (
    Split as Split,
    sample as sample,
    split as split,
)
