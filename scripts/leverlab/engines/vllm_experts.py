"""How evenly the experts of a mixture are loaded, as vLLM's log tells with `--enable-eplb` and `log_balancedness`."""

import re
from typing import Final

_STEP: Final = re.compile(r"EPLB step: \d+ for model .*?: avg_tokens=([\d.]+), max_tokens=(\d+), balancedness=")


def expert_loads_in(log: str) -> dict[str, float]:
    """Sums over the steps that `log` tells of: `expert_load_mean` and `expert_load_most`, in tokens. Empty where there are none.

    Each line is of one step, summed over the layers. In vLLM 0.32 they are the mean and the largest number of tokens that were routed to
    a GPU; in 0.26 mean and largest are taken over the layers, GPU by GPU, which is not how evenly the GPUs are loaded.
    """
    found = [(float(mean), float(most)) for mean, most in _STEP.findall(log)]
    if not found:
        return {}
    return {"expert_load_mean": sum(mean for mean, _ in found), "expert_load_most": sum(most for _, most in found)}
