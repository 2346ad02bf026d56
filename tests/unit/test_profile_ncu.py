"""Nsight Compute round a server: its command line, and what is read from the page `raw`.

`RECORDED` is what the program wrote of vLLM on an H100. `EXPORTED` is no recording: values and units that none of its rows has, in its form.
"""

import re
from pathlib import Path

import pandas as pd
import pytest

from leverlab.config.profile import Profile
from leverlab.engines.profiling import PROFILING
from leverlab.profile import ncu
from leverlab.profile.classes import kernel_classes
from leverlab.profile.ncu import NcuError
from leverlab.profile.nsys_export import read_nsys_export
from tests.unit.repository import SOURCE

RECORDED = SOURCE / "tests/data/profiles/vllm-h100-ncu"

_ABOUT = [
    "ID",
    "Process ID",
    "Process Name",
    "Host Name",
    "Kernel Name",
    "Context",
    "Stream",
    "Block Size",
    "Grid Size",
    "Device",
    "CC",
]
_METRICS = [
    "dram__bytes.sum.per_second",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "gpu__time_duration.sum",
    "launch__grid_size",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
]
_FLASH = "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::CollectiveMainloopFwdSm90<(int)2>>>>(T1::Params)"


def exported(units: list[str], *kernels: tuple[str, list[str]]) -> str:
    """The page `raw` as the program prints it."""
    rows = [[*_ABOUT, *_METRICS], [*[""] * len(_ABOUT), *units]]
    for number, (name, values) in enumerate(kernels):
        about = [
            str(number),
            "4711",
            "python3.12",
            "127.0.0.1",
            name,
            "1",
            "7",
            "(384, 1, 1)",
            "(132, 1, 1)",
            "0",
            "9.0",
        ]
        rows.append([*about, *values])
    lines = [",".join(f'"{value}"' for value in row) for row in rows]
    return "\n".join(["==PROF== Connected to process 4711 (/usr/bin/python3.12)", *lines]) + "\n"


EXPORTED = exported(
    ["byte/s", "%", "%", "ns", "", "%"],
    ("nvjet_sm90_tst_64x16_64x16_4x1_v_bz_TNT", ["2,705,432,187,456.31", "84.52", "80.71", "43,520", "132", "22.4"]),
    (_FLASH, ["98,300,000,000", "9.1", "2.93", "12,000", "132", "n/a"]),
)


def test_each_kernel_is_a_row_in_seconds_and_shares() -> None:
    found = ncu.read_counters(EXPORTED)
    first, second = found.to_dict("records")
    assert first["kernel"].startswith("nvjet") and first["duration_s"] == pytest.approx(43.52e-6)
    assert first["dram_bytes_per_s"] == pytest.approx(2.70543218745631e12)
    shares = (first["compute_share"], first["memory_share"], first["dram_share"])
    assert shares == pytest.approx((0.224, 0.8452, 0.8071))
    assert second["compute_share"] != second["compute_share"], "n/a: a metric that the GPU does not have"
    assert [kernel_classes(SOURCE).of(name) for name in found["kernel"]] == ["gemm", "attention"]


def test_a_recording_tells_what_a_decode_step_reads_and_computes() -> None:
    """Nine kernels of a step of one stream. Of each product the bytes are those of its weights, of 16 bits, and few more; the operations those of
    a tile of eight rows, of which one holds the token."""
    found = ncu.read_counters((RECORDED / "counters.csv").read_text())
    of_a_layer = ["gemm", "attention", "gemm", "gemm", "gemm"]
    assert [kernel_classes(SOURCE).of(name) for name in found["kernel"]] == [*of_a_layer, *of_a_layer[:4]]
    products = found[found["kernel"].str.startswith("nvjet")]
    shapes = [4096 * 6144, 4096 * 4096, 4096 * 28672, 14336 * 4096]
    weights = pd.Series([*shapes, *shapes[:3]], index=products.index)
    assert (products["flop"] == 2 * 8 * weights).all()
    assert (products["dram_bytes"] / (2 * weights)).between(1.0, 1.06).all()
    assert (found["dram_bytes_per_s"] / (found["dram_bytes"] / found["duration_s"])).between(0.99, 1.01).all()


@pytest.mark.parametrize(
    ("units", "seconds", "rate"),
    [
        (["byte/second", "%", "%", "nsecond", "", "%"], 5e-9, 2.0),
        (["byte/second", "%", "%", "second", "", "%"], 5.0, 2.0),
        (["Gbyte/s", "%", "%", "us", "", "%"], 5e-6, 2e9),
        (["Tbyte/second", "%", "%", "msecond", "", "%"], 5e-3, 2e12),
    ],
)
def test_units_are_those_that_the_program_names(units: list[str], seconds: float, rate: float) -> None:
    [row] = ncu.read_counters(exported(units, ("k", ["2", "1", "1", "5", "1", "1"]))).to_dict("records")
    assert (row["duration_s"], row["dram_bytes_per_s"]) == pytest.approx((seconds, rate))


def test_a_unit_that_is_not_known_is_no_number() -> None:
    with pytest.raises(NcuError, match=r"gpu__time_duration.sum is in 'fortnight'"):
        ncu.read_counters(exported(["byte/s", "%", "%", "fortnight", "", "%"], ("k", ["2", "1", "1", "5", "1", "1"])))


def test_names_are_sought_where_attention_is_told_from_the_rest() -> None:
    """By the whole name: of FlashAttention's kernels the function is called device_kernel."""
    command = ncu.command_prefix("/opt/ncu", SOURCE, "flash", 7, ["a.sum", "b.sum"])
    assert "--kernel-name-base=demangled" in command
    assert "--metrics=a.sum,b.sum" in command and not any(word.startswith("--set") for word in command)


def test_a_report_that_is_not_there_is_not_imported() -> None:
    with pytest.raises(NcuError, match="left no report"):
        ncu.export("/nowhere/ncu", SOURCE)


def test_an_export_without_kernels_is_refused() -> None:
    with pytest.raises(NcuError, match="holds no kernel"):
        ncu.read_counters("==PROF== Disconnected\n")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_kernels_that_are_looked_at_are_those_that_take_the_time(engine: str) -> None:
    """Of attention its main kernel, not those that prepare and combine; of what writes the cache none."""
    kernels = read_nsys_export(SOURCE / f"tests/data/profiles/{engine}-h100-nsys", kernel_classes(SOURCE)).kernels
    wanted = re.compile(Profile(at=["rate 1"]).kernels)
    found = kernels[[wanted.search(name) is not None for name in kernels["kernel"]]]
    assert set(found["class"]) == {"gemm", "attention"}
    attention = found[found["class"] == "attention"]
    assert attention["kernel"].str.contains("FlashAttnFwdSm90").all()
    of_all = kernels[kernels["class"] == "attention"]["duration_s"].sum()
    assert attention["duration_s"].sum() > 0.8 * of_all


def test_the_cache_is_as_large_as_the_load_and_the_longest_request_need() -> None:
    """vLLM refuses a cache that cannot hold a request of `max-model-len`, and keeps a block back."""
    vllm, sglang = PROFILING["vllm"].cache_flags, PROFILING["sglang"].cache_flags
    assert 16384 / 16 < vllm({"max-model-len": 16384}, 4000)["num-gpu-blocks-override"] < 1.1 * 16384 / 16
    assert 100_000 / 64 < vllm({"max-model-len": 16384, "block-size": 64}, 100_000)["num-gpu-blocks-override"] < 1600
    assert vllm({}, 4000) == {}, "the longest request is the model's, which is not looked up"
    assert vllm({"max-model-len": 16384, "num-gpu-blocks-override": 9}, 4000) == {}, "the treatment's own"
    assert vllm({"max-model-len": "auto"}, 4000) == {}, "the engine's own choice"
    assert sglang({}, 4000) == {"max-total-tokens": 4000} and sglang({"max-total-tokens": 9}, 4000) == {}


TENSOR, FMA, PIPE = (
    "sm__ops_path_tensor_src_bf16_dst_fp32.sum",
    "smsp__sass_thread_inst_executed_op_ffma_pred_on.sum",
    "sm__inst_executed_pipe_tensor.sum",
)


def test_an_h100_is_asked_for_each_kind_of_operations_once(tmp_path: Path) -> None:
    """It has one counter of products of FP16; another GPU has one for each format of their sums beside it, or instead."""
    program = tmp_path / "ncu"
    program.write_text(f"#!/bin/sh\ncat {RECORDED / 'metrics.txt'}\n")
    program.chmod(0o755)
    asked = {name for name in ncu.metrics(str(program)) if "tensor_src_fp16" in name}
    assert asked == {"sm__ops_path_tensor_src_fp16.sum"}
    program.write_text(
        f"#!/bin/sh\ncat {RECORDED / 'metrics.txt'}\necho sm__ops_path_tensor_src_fp16_dst_fp32  Counter\n"
    )
    assert {name for name in ncu.metrics(str(program)) if "tensor_src_fp16" in name} == asked
    program.write_text("#!/bin/sh\necho sm__ops_path_tensor_src_fp16_dst_fp32  Counter\n")
    assert "sm__ops_path_tensor_src_fp16_dst_fp32.sum" in ncu.metrics(str(program))


def test_only_counters_that_the_gpu_has_are_asked_for(tmp_path: Path) -> None:
    """One name that the program does not know ends its run before the first kernel."""
    program = tmp_path / "ncu"
    program.write_text(f"#!/bin/sh\necho 'Device H100 (GH100)'\necho '{TENSOR[:-4]}   Counter   op   # of ops'\n")
    program.chmod(0o755)
    asked = ncu.metrics(str(program))
    assert TENSOR in asked and FMA not in asked and {"gpu__time_duration.sum", "dram__bytes.sum"} <= set(asked)
    program.write_text("#!/bin/sh\nexit 1\n")
    assert ncu.metrics(str(program)) == [name for name in asked if name != TENSOR], "it does not say"


@pytest.mark.parametrize(
    ("values", "flop"),
    [
        ({TENSOR: "1,000", FMA: "7", PIPE: "3"}, 1014.0),
        ({TENSOR: "0", FMA: "7", PIPE: "0"}, 14.0),
        ({TENSOR: "0", FMA: "7", PIPE: "3"}, None),
        ({TENSOR: "0", FMA: "7"}, None),
        ({TENSOR: "1,000", FMA: "n/a"}, None),
        ({FMA: "7"}, None),
    ],
)
def test_operations_are_told_where_all_of_them_were_counted(values: dict[str, str], flop: float | None) -> None:
    names = ["Kernel Name", "dram__bytes.sum", *values]
    units = ["", "Mbyte", *("op" if name == TENSOR else "inst" for name in values)]
    text = "\n".join(",".join(f'"{each}"' for each in row) for row in (names, units, ["k", "2", *values.values()]))
    [row] = ncu.read_counters(text).to_dict("records")
    assert row["dram_bytes"] == 2e6
    assert row["flop"] == flop if flop is not None else pd.isna(row["flop"])
