"""What engines write into a trace for each step: which requests were in its batch."""

import re
from typing import Any, Final

import pandas as pd

_VLLM: Final = re.compile(
    r"execute_context_(?P<prefill_requests>\d+)\((?:sq)?(?P<prefill_tokens>\d+)[^)]*\)"
    r"_generation_(?P<decode_requests>\d+)\((?:sq)?(?P<decode_tokens>\d+)[^)]*\)"
)
"""vLLM, around its forward pass: `execute_context_1(512)_generation_3(3)`."""

COUNTS: Final = ("prefill_requests", "prefill_tokens", "decode_requests", "decode_tokens")


def step_rows(
    texts: "pd.Series[Any]", process: "pd.Series[Any]", start_s: "pd.Series[Any]", duration_s: "pd.Series[Any]"
) -> pd.DataFrame:
    """Those of the ranges `texts` that mark a step: process, start_s, duration_s and the counts of its batch."""
    found = [(place, match) for place, text in enumerate(texts) if (match := _VLLM.fullmatch(str(text)))]
    places = [each for each, _ in found]
    rows = pd.DataFrame(
        [{name: int(match[name]) for name in COUNTS} for _, match in found], columns=list(COUNTS), dtype="int64"
    )
    for name, column in (("process", process), ("start_s", start_s), ("duration_s", duration_s)):
        rows[name] = column.to_numpy()[places]
    return rows
