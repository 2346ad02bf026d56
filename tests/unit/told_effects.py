"""Effects made up for the tests of a report's sentences."""

from dataclasses import replace

from leverlab.report.effect import Effect
from leverlab.report.sentences import Telling

TELLING = Telling(
    {"prefix_caching": "Prefix caching", "max_num_seqs": "Batch limit"},
    several_contexts=False,
    simulated=False,
    comparisons=2,
)
OFF = Effect(
    kind="treatment",
    noise_floor=None,
    cautions=(),
    engine="vllm", model="tiny", gpu="cpu", gpu_count=1, treatment="prefix_caching=off", changed={"prefix_caching": ("off", "on")},
    lever="prefix_caching", load="rate 1", metric="ttft_s", statistic="p50", baseline=0.062, value=0.31, estimate=5.0, low=4.0, high=6.25,
    level=0.975, alone=(4.4, 5.7), pairs=3, primary=True, verdict="worsens", reason="", minimum_detectable=1.25,
)  # fmt: skip
LIMIT = replace(
    OFF, treatment="max_num_seqs=4", changed={"max_num_seqs": ("4", "64")}, lever="max_num_seqs", load="burst", metric="throughput", statistic=None,
    baseline=250.0, value=220.0, estimate=0.88, low=0.85, high=0.91, verdict="worsens", minimum_detectable=1.03,
)  # fmt: skip


def unmarked(_: Effect) -> tuple[str, ...]:
    """Nothing is held against an effect."""
    return ()
