"""Cells for the tests of the checks: one in which nothing is wrong, and what can be wrong in it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from leverlab.checks import CellInputs, check_cell
from leverlab.config.workload import MultiTurn
from leverlab.records import SearchRecord
from leverlab.telemetry.gpu import GPU
from leverlab.telemetry.host import HOST
from leverlab.theory.floors import Floors
from tests.unit.measured_cells import chunks_table, request_row, requests_table, server_delta

Rows = list[dict[str, Any]]
REQUESTS = 120
SPECIFICATION = {
    "server": {"engine": {"kind": "truth", "versions": {"torch": "2.13.0+cpu"}}},
    "phase": {"load": {"kind": "rate", "value": 8}, "cache": "cold"},
}
CLIENT = {"ttft_error_s": 0.0002, "clock_jumped": False, "clock_jump_s": 0.0, "run_queue_wait_share": 0.001}


def rows(count: int = REQUESTS) -> Rows:
    return [request_row(index, index * 0.125) for index in range(count)]


def clean(made: Rows | None = None, **changes: Any) -> CellInputs:
    """A cell in which nothing is wrong, but for what `made` and `changes` say."""
    made = rows() if made is None else made
    values: dict[str, Any] = {
        "specification": SPECIFICATION,
        "requests": requests_table(made),
        "chunks": chunks_table(made),
        "workload_requests": REQUESTS,
        "workload_card": {"expected_prefix_hit_ratio": {"1": 0.5, "16": 0.45}},
        "server_delta": server_delta(made),
        "instrument": CLIENT,
        "cache": {"asked": "cold", "verified": True},
        "installed_versions": {"torch": "2.13.0+cpu"},
        "client_cores": [1],
        "engine_cores": [0],
        "warmup_steady": True,
        "gpu": gpu_samples(),
        "host": host_samples(),
        "compilation_lines": [],
        "gpu_memory_before": {"GPU-1": 2**29},
        "floors": Floors(step_s=0.004, prefill_s_per_token=1e-5),
    }
    return CellInputs(**values | changes)


def found(inputs: CellInputs) -> dict[str, str]:
    """Code → severity, of the checks that did not pass."""
    return {result.code: result.severity for result in check_cell(inputs) if result.severity != "ok"}


def changed(place: int, **changes: Any) -> Rows:
    made = rows()
    made[place] |= changes
    return made


def failed(status: str, count: int = 1, **changes: Any) -> Rows:
    """The first `count` requests end with `status` instead of an answer."""
    made = rows()
    nothing = dict.fromkeys(
        ("first_token_s", "last_token_s", "ttft_s", "ttft_service_s", "tpot_s", "e2e_s", "first_chunk_tokens")
    )
    for row in made[:count]:
        row |= nothing | {"status": status, "completion_tokens": 0, "chunks": 0, "error": "why"} | changes
    return made


def synthetic(tokens_per_draft: float, drafts: int) -> CellInputs:
    """A server that was asked to accept 3.05 of 5 draft tokens on average, and so to yield 4.05 tokens a draft."""
    rates = {"synthetic_acceptance_rates": [0.85, 0.7, 0.6, 0.5, 0.4], "num_speculative_tokens": 5}
    server = {**SPECIFICATION["server"], "flags": {"speculative-config": rates}}
    delta = server_delta(rows()) | {"drafts": drafts, "accepted_tokens": (tokens_per_draft - 1) * drafts}
    return replace(clean(server_delta=delta), specification={**SPECIFICATION, "server": server})


def with_expert_loads(version: str | None) -> CellInputs:
    """A server of that vLLM (None: nobody could tell), whose log told how many tokens experts were given."""
    delta = server_delta(rows()) | {"expert_load_mean": 640.5, "expert_load_most": 800.0}
    return clean(
        server_delta=delta, installed_versions={"torch": "2.13.0+cpu"} | ({} if version is None else {"vllm": version})
    )


def long_answers() -> Rows:
    """Twenty-one chunks each, 20 ms apart."""
    return [
        request_row(index, index * 0.125)
        | {"chunks": 21, "completion_tokens": 21, "requested_output_tokens": 21}
        | {"last_token_s": index * 0.125 + 0.5, "e2e_s": 0.5}
        for index in range(REQUESTS)
    ]


def paused(for_s: float) -> Rows:
    """Long answers, all of which pause at one instant for `for_s`; the usual gap is 20 ms."""
    made = []
    for index in range(REQUESTS):
        row = request_row(index, index * 0.125)
        # The chunks of `chunks_table` are evenly spaced: a request that pauses has one gap that is too long.
        made.append(
            row
            | (
                {"tpot_s": for_s, "chunks": 2, "completion_tokens": 2, "requested_output_tokens": 2}
                if index == 0
                else {}
            )
        )
    made[0] |= {"last_token_s": made[0]["first_token_s"] + for_s, "e2e_s": 0.1 + for_s}
    for row in made[1:]:
        row |= {key: row[key] + 10 for key in ("scheduled_s", "sent_s", "first_token_s", "last_token_s")}
    return made


def drifting(share: float) -> Rows:
    """Each token takes longer the later its request came, by `share` of the median over the window."""
    made = []
    for index in range(REQUESTS):
        place = (index - REQUESTS / 2) / (0.9 * REQUESTS)
        made.append(request_row(index, index * 0.125, gap_s=0.02 * (1 + share * place)))
    return made


def gpu_samples(**columns: Sequence[float | None]) -> pa.Table:
    """Ten seconds of a busy GPU in which nothing happens, but for what `columns` say."""
    usual = {
        "time_s": [0.1 * place for place in range(100)], "gpu": [0] * 100, "power_w": [440.0] * 100, "sm_utilisation": [0.99] * 100,
        "sm_clock_hz": [1.98e9] * 100, "throttle_reasons": [0] * 100, "ecc_corrected": [2.0] * 100, "ecc_uncorrected": [0.0] * 100,
        "foreign_processes": [0.0] * 100,
    }  # fmt: skip
    return pa.Table.from_pylist(
        [dict(zip(usual | columns, values, strict=True)) for values in zip(*(usual | columns).values(), strict=True)],
        GPU,
    )


def on_a_gpu(**changes: Any) -> CellInputs:
    """The clean cell of an engine that computes on a GPU, with all that NVML tells, but for what `changes` say."""
    engine = {**SPECIFICATION["server"]["engine"], "device": "cuda"}
    gpu = gpu_samples(memory_used_bytes=[6e10] * 100)
    return clean(**{"specification": {**SPECIFICATION, "server": {"engine": engine}}, "gpu": gpu} | changes)


def host_samples(busy: float = 0.52) -> pa.Table:
    """Twenty seconds in which the server takes half of its core, and all together `busy` of it."""
    made = [
        {"time_s": 0.5 * place, "engine_cores_share": busy, "server_cpu_s": 100 + 0.25 * place} for place in range(41)
    ]
    return pa.Table.from_pylist(made, HOST)


def slow_server(capacity: float) -> Rows:
    """Requests arrive at 8/s and are finished, one after another, at `capacity` a second."""
    made = []
    for index in range(REQUESTS):
        waits_s = max(0.0, index / capacity - index * 0.125)
        made.append(request_row(index, index * 0.125, 0.1 + waits_s))
    return made


def from_tier(below_queried: float, below_hits: float) -> CellInputs:
    """A cell that began in the state `tier`, with so many tokens asked of the tier and found there."""
    specification = {**SPECIFICATION, "phase": {**SPECIFICATION["phase"], "cache": "tier"}}
    made = rows()
    below = {"external_queried_tokens": below_queried, "external_hit_tokens": below_hits}
    cache = {"asked": "tier", "verified": True}
    return clean(made, specification=specification, cache=cache, server_delta={**server_delta(made), **below})


LMCACHE = {"kv-transfer-config": {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}}
DAEMON = {"kv-transfer-config": {"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both"}}
LLAMA_8B_SHAPE = {
    "kind": "synthetic", "name": "llama-3.1-8b-shape", "version": 1, "vocabulary": 128256,
    "shape": {
        "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rope_theta": 500000,
    },
}  # fmt: skip
"""A model's part of a server's identity: 128 KiB of keys and values a token."""
OFFLOADING = {"kv-offloading-size": 20, "kv-offloading-backend": "native"}


def with_tier(
    flags: Mapping[str, Any], server: Mapping[str, Any] = SPECIFICATION["server"], **delta: float
) -> CellInputs:
    """A cell of a vLLM server with `flags` whose prompts were half found in the tier that these name, and what it told of that."""
    made = rows()
    engine = {**SPECIFICATION["server"]["engine"], "kind": "vllm"}
    identity = {**server, "engine": engine, "model": LLAMA_8B_SHAPE, "flags": dict(flags)}
    below = {"external_queried_tokens": 12_000.0, "external_hit_tokens": 6_000.0}
    return clean(
        made,
        specification={**SPECIFICATION, "server": identity},
        server_delta=server_delta(made) | below | delta,
        kv_bytes_per_token=131072.0,
    )


def searched(**changes: Any) -> SearchRecord:
    """What a search found that ended at the rate of the clean cell."""
    found = {"highest_rate": 8.0, "missed": 8.3, "kept": 8.0, "limited_by": "ttft_p95", "runs": 7, "settled": True}
    return SearchRecord.model_validate(found | changes)


def disaggregated(**delta: float) -> CellInputs:
    """The clean cell from a prefill and a decode server behind a proxy, with counters changed as `delta` says."""
    inputs = clean()
    told = {
        "handed_over_tokens": 11_500.0,
        "prefill:requests_finished": float(REQUESTS),
        "decode:prompt_tokens": 12_000.0,
        "decode:prefix_hit_tokens": 0.0,
        "proxy_added_s_sum": 0.001 * REQUESTS,
        "proxy_added_s_count": float(REQUESTS),
    }
    specification = {
        **inputs.specification,
        "server": {**inputs.specification["server"], "topology": "prefill-decode"},
    }
    return clean(server_delta=server_delta(rows()) | told | delta, specification=specification)


def of_conversations(turns: int) -> dict[str, Any]:
    """The clean cell's phase, of requests that wait for the answers to others where there is more than one turn."""
    workload = MultiTurn(requests=120, turns=turns, system_tokens=64, message_tokens=16, output_tokens=8)
    return SPECIFICATION | {"phase": SPECIFICATION["phase"] | {"workload": {"workload": workload.identity()}}}
