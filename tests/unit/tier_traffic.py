"""Cells with a tier, and what came over PCIe meanwhile: as recorded on an H100, and made up."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from leverlab.checks import CellInputs
from leverlab.telemetry.gpu import GPU
from tests.unit.checked_cells import with_tier
from tests.unit.measured_cells import request_row, requests_table

GIB = 2.0**30
PCIE_5_X16 = 32e9 / 8 * 128 / 130 * 16
"""Bytes/s that the bus of an H100 carries."""
RECORDED = Path(__file__).resolve().parents[1] / "data" / "pcie"


def received(*counters: Sequence[float | None], times_s: Sequence[float]) -> pa.Table:
    """Looks, at `times_s`, at as many GPUs as there are counters of bytes received."""
    rows = [
        {"time_s": time_s, "gpu": gpu, "pcie_received_bytes": value}
        for gpu, values in enumerate(counters)
        for time_s, value in zip(times_s, values, strict=True)
    ]
    return pa.Table.from_pylist(rows, GPU)


def recorded(name: str, flags: Mapping[str, Any], **changed: float) -> CellInputs:
    """The cell of tests/data/pcie, as one of a server with `flags`."""
    told = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    times_s, counted = zip(*told["looks"], strict=True)
    requests = [
        request_row(place, sent_s, waited_s) | {"prompt_tokens": tokens}
        for place, (tokens, sent_s, waited_s) in enumerate(told["requests"])
    ]
    return replace(
        with_tier(flags, **{**told["server_delta"], **changed}),
        requests=requests_table(requests),
        gpu=received(counted, times_s=times_s),
    )


def came(flags: Mapping[str, Any], gib: float, prompts: int = 120, gpus: int = 1, **delta: float) -> CellInputs:
    """A cell of ten seconds whose 6,000 tokens found in a tier take 0.73 GiB, while `gib` came in even steps, in equal parts to all GPUs.

    Each of `prompts` waits for a tenth of a second, and there are ten looks a second.
    """
    times_s = [0.1 * place - 0.2 for place in range(170)]
    counter = [gib * GIB / gpus * place / 169 for place in range(170)]
    requests = requests_table([request_row(place, place * 0.125) for place in range(prompts)])
    return replace(with_tier(flags, **delta), requests=requests, gpu=received(*([counter] * gpus), times_s=times_s))
