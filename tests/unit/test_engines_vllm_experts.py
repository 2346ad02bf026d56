"""The experts' loads in vLLM's log: lines made by the format strings of vLLM 0.26 and 0.32 (distributed/eplb/eplb_state.py)."""

import pytest

from leverlab.aggregate.cell_metrics import MeasuredCell
from leverlab.engines.vllm import VllmEngine
from leverlab.load_point import LoadPoint
from tests.unit.measured_cells import chunks_table, request_row, requests_table, server_delta

LINE = (
    "(Worker_TP0_EP0 pid=7) INFO 11-25 12:00:00 [eplb_state.py:634] EPLB step: {step} for model model: avg_tokens={mean:.2f}, "
    "max_tokens={most:d}, balancedness={ratio:.4f}, steps until the next rearrangement: 999999984"
)


def line(step: int, mean: float, most: int) -> str:
    return LINE.format(step=step, mean=mean, most=most, ratio=mean / most)


def test_the_steps_of_the_log_are_added_up_and_become_a_ratio() -> None:
    log = "\n".join([line(16, 512.0, 640), "another line", line(32, 128.5, 160)])
    counted = VllmEngine().log_counters(log)
    assert counted == {"expert_load_mean": 640.5, "expert_load_most": 800.0}
    rows = [request_row(0, 0.0)]
    cell = MeasuredCell(
        requests_table(rows), chunks_table(rows), LoadPoint("burst"), server_delta(rows) | counted, None
    )
    assert cell.metrics({})["expert_imbalance_logged", None] == pytest.approx(800 / 640.5)


def test_a_log_without_them_counts_nothing() -> None:
    assert VllmEngine().log_counters("INFO EPLB is not enabled") == {}
