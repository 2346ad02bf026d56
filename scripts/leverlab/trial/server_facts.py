"""What is measured of a server's start: facts that every cell of the trial keeps, so that they can be compared like metrics."""

from contextlib import suppress
from typing import Final

from leverlab.metrics import SERVER_FACTS
from leverlab.records import TrialRecord

_LAYOUT: Final = {"kv_blocks": ("num_gpu_blocks", "num_pages"), "kv_block_tokens": ("block_size", "page_size")}
"""How the engines call what they tell of the KV cache's layout: blocks, and tokens in one."""


def server_facts(trial: TrialRecord) -> dict[str, float]:
    """Name of `SERVER_FACTS` → value, for those that are known: from the effective configuration, and the steps of the start.

    Among them `kv_block_tokens`, which is no metric but is needed for one.
    """
    known = {name: trial.effective.get(name) for name in SERVER_FACTS}
    steps_s = [trial.start[step] for step in ("spawn", "healthy") if step in trial.start]
    facts = {name: float(value) for name, value in known.items() if isinstance(value, int | float)}
    facts |= _layout(trial)
    return facts | ({"start_s": round(sum(steps_s), 3)} if len(steps_s) == 2 else {})


def _layout(trial: TrialRecord) -> dict[str, float]:
    told = trial.effective.get("cache") or {}
    found = {}
    for name, theirs in _LAYOUT.items():
        for key in theirs:
            # vLLM tells them as labels, which are text, and `None` where there is no such thing.
            with suppress(KeyError, TypeError, ValueError):
                found[name] = float(told[key])
    return found
