"""What the requests of a twin saw, for its record."""

import math
import statistics

from leverlab.trial.offer import Offered


def request_facts(offered: Offered, recorded: tuple[float, float] | None) -> dict[str, float]:
    """Requests that ended well, and medians of what they saw: TTFT, TPOT and the gaps between chunks; of the gaps also of those that lie
    in the time `recorded` (CLOCK_MONOTONIC, s), in which a profiler disturbs most.

    A profiler that writes its trace stops every stream for a while: that is in their TPOT, and not in the medians of the gaps.
    """
    requests = offered.requests.select(["status", "ttft_s", "tpot_s"]).to_pylist()
    ok = [row for row in requests if row["status"] == "ok"]
    facts = {"ok": float(len(ok))}
    for name in ("ttft_s", "tpot_s"):
        values = [row[name] for row in ok if row[name] is not None and math.isfinite(row[name])]
        if values:
            facts[f"{name}_p50"] = statistics.median(values)
    arrivals = offered.chunks.select(["index", "arrival_s"]).to_pandas().sort_values(["index", "arrival_s"])
    gaps_s = arrivals.groupby("index")["arrival_s"].diff()
    if gaps_s.notna().any():
        facts["chunk_gap_s_p50"] = float(gaps_s.median())
    if recorded is not None and offered.origin_ns is not None:
        begin_s, end_s = (moment - offered.origin_ns / 1e9 for moment in recorded)
        inside = (arrivals["arrival_s"] - gaps_s >= begin_s) & (arrivals["arrival_s"] <= end_s)
        if inside.any():
            facts["recorded_chunk_gap_s_p50"] = float(gaps_s[inside].median())
    return facts
