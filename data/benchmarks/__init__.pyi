from . import (
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
