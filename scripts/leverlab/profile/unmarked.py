"""Steps of an engine that writes no marks into a trace (SGLang): found from its kernels, and taken for decode by their length.

A window in the middle of a load holds mostly decode steps. A step that takes at most `USUAL` times the median, and launches as many CUDA
graphs as most of these, is taken for one. Of another nothing is claimed: it computes a prompt, for which SGLang launches a graph a
layer, or waits for one.
"""

from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd

from leverlab.profile.analysis import GRAPH_LAUNCH, step_beginnings
from leverlab.profile.tables import STEPS, Trace, columns, step_of

USUAL: Final = 1.5


def with_steps(trace: Trace, layers: int | None) -> Trace:
    """`trace` itself where it has marks, or where its kernels tell no steps of `layers` layers; else with steps of its own."""
    if len(trace.steps) or not layers:
        return trace
    parts = [
        rows for process, own in trace.kernels.groupby("process") if (rows := _rows(process, own, layers)) is not None
    ]
    if not parts:
        return trace
    steps = pd.concat(parts, ignore_index=True).reindex(columns=columns(STEPS.names))
    kernels, calls = trace.kernels.copy(), trace.calls.copy()
    when = kernels["launch_s"].where(kernels["launch_s"].notna(), kernels["start_s"])
    kernels["step"] = step_of(kernels["process"], when, steps)
    calls["step"] = step_of(calls["process"], calls["start_s"], steps)
    steps["phase"] = _as_most_launch(steps, calls)
    phases = steps.set_index(["process", "step"])["phase"]
    kernels["phase"] = [phases.get((p, s)) for p, s in zip(kernels["process"], kernels["step"], strict=True)]
    return replace(trace, kernels=kernels, calls=calls, steps=steps)


def _as_most_launch(steps: pd.DataFrame, calls: pd.DataFrame) -> "pd.Series[Any]":
    """The phases of `steps` without those that launch another number of graphs than most decode steps of their process."""
    graphs = calls[calls["call"].astype(str).str.contains(GRAPH_LAUNCH)].groupby(["process", "step"]).size()
    keys = pd.MultiIndex.from_frame(steps[["process", "step"]])
    launched = pd.Series(graphs.reindex(keys, fill_value=0).to_numpy(), index=steps.index)
    decode = steps["phase"] == "decode"
    usual = launched[decode].groupby(steps["process"]).agg(lambda own: own.mode().iloc[0])
    return steps["phase"].where(launched == steps["process"].map(usual), None)


def _rows(process: Any, kernels: pd.DataFrame, layers: int) -> pd.DataFrame | None:  # noqa: ANN401 - a group's key
    found = step_beginnings(kernels, layers)
    if found is None:
        return None
    begins, _ = found
    start = begins["start_s"].to_numpy(float)
    launch = begins["launch_s"].to_numpy(float)
    duration = np.diff(start, append=np.nan)
    usual = duration <= USUAL * np.nanmedian(duration) if len(duration) > 1 else np.zeros(len(duration), dtype=bool)
    return pd.DataFrame(
        {
            "step": np.arange(len(start)),
            "process": process,
            # Where the launch is known it begins the step: all that one graph runs was launched then.
            "start_s": np.where(np.isnan(launch), start, launch),
            "duration_s": duration,
            "phase": pd.Series(["decode" if each else None for each in usual], dtype="object"),
        }
    )
