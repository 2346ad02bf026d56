"""Twins of a made-up study, from a trace that was recorded on a CPU."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from leverlab.profile import tables
from leverlab.profile.classes import kernel_classes
from leverlab.profile.torch_trace import read_torch_traces
from leverlab.profile.twin import REQUESTS
from leverlab.records import TwinRecord, write_json
from leverlab.report.profiled import Profiled
from leverlab.report.source import StudyData
from tests.unit.report_study import ReportStudy
from tests.unit.repository import SOURCE

RECORDED = SOURCE / "tests" / "data" / "profiles" / "cpu-engine.pt.trace.json.gz"
TREATMENT = "prefix_caching=off"


def keep_twin(folder: Path, slower: float) -> None:
    """The recorded trace as a twin; `slower`: how many times longer it all takes."""
    raw = folder / "raw" / "rank0.pt.trace.json.gz"
    raw.parent.mkdir(parents=True)
    raw.symlink_to(RECORDED)
    trace = read_torch_traces([RECORDED], kernel_classes(SOURCE))
    stretched = [
        frame.assign(start_s=frame["start_s"] * slower, duration_s=frame["duration_s"] * slower)
        for frame in (trace.kernels, trace.steps)
    ]
    tables.write(replace(trace, kernels=stretched[0], steps=stretched[1]), folder)
    window = {
        "opened_at_s": 1.0, "recorded_s": 0.1 * slower, "iterations_before_start": 10.0, "iterations_after_start": 10.0,
        "iterations_before_stop": 18.0, "iterations_after_stop": 19.0,
    }  # fmt: skip
    record = TwinRecord(
        twin="t", server="s", phase="p", cell="c", replicate="r1", tool="torch", outcome="recorded", started_at="2026-01-01T00:00:00Z",
        layers=8, requests={"ok": 8.0, "tpot_s_p50": 0.02 * slower, "chunk_gap_s_p50": 0.02 * slower}, window=window, step_floor_s=0.001,
        files=["kernels.parquet", str(raw.relative_to(folder))],
    )  # fmt: skip
    write_json(folder / "twin.json", record)
    answered = {"status": ["ok", "ok"], "prompt_tokens": [128, 128], "completion_tokens": [16, 16]}
    pd.DataFrame(answered).to_parquet(folder / REQUESTS)


def with_twins(study: ReportStudy) -> StudyData:
    for treatment, slower in (("baseline", 1.0), (TREATMENT, 2.0)):
        cells = study.read().cells
        row = cells[(cells["treatment"] == treatment) & (cells["replicate"] == "r1")].iloc[0]
        keep_twin(study.layout.profile(str(row["server"]), str(row["phase"]), "torch"), slower)
    return study.read()


def of(data: StudyData, treatment: str) -> Profiled:
    return next(twin for twin in data.profiles if twin.treatment == treatment)
