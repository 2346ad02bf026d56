"""The table and the figure of docs/instrument.md, from what benchmarks/fidelity.py measured."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import seaborn
from matplotlib.ticker import FuncFormatter, NullLocator

from leverlab.units import format_share

REPOSITORY: Final = Path(__file__).resolve().parents[1]
DATA: Final = REPOSITORY / "docs" / "data" / "fidelity.json"
FIGURE: Final = REPOSITORY / "docs" / "images" / "fidelity.svg"
PAGE: Final = REPOSITORY / "docs" / "instrument.md"
_BEGIN: Final = "<!-- generated: fidelity -->\n"
_END: Final = "<!-- end -->"

Results = Sequence[Mapping[str, Any]]


def table(results: Results) -> str:
    """The results in Markdown, a row a load and client."""
    lines = [
        "| load | chunks/s | client | TTFT error p50 / p99 (ms) | TPOT error p99 (ms) | gap error p99 (ms) | send lag p99 (ms) | offered | "
        "CPU µs/chunk |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        late = "" if one["server_late_p99_s"] < 1e-3 else f" (the engine was {_ms(one['server_late_p99_s'])} ms late)"
        failed = f", {one['failed']} failed" if one["failed"] else ""
        lines.append(
            f"| {one['load']} | {one['chunks_per_s']:,.0f}{late} | {one['title']}{failed} | {_ms(one['ttft_error_p50_s'])} / "
            f"{_ms(one['ttft_error_p99_s'])} | {_ms(one['tpot_error_p99_s'])} | {_ms(one['gap_error_p99_s'])} | "
            f"{_ms(one['send_lag_p99_s'])} | {_share(one['offered_share'])} | {one['cpu_per_chunk_s'] * 1e6:.1f} |"
        )
    return "\n".join(lines)


def page_part(content: Mapping[str, Any]) -> str:
    """What stands on the page between the marks: provenance and table."""
    about, versions = content["machine"], content["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Measured {content['measured']} on {about['cores']} cores of {about['cpu']}, Linux {about['kernel']}; {named}; the median of "
        f"{content['repeats']} run{'s' if content['repeats'] > 1 else ''} of each, nothing else running.\n\n{table(content['results'])}\n"
    )


def written_page(content: Mapping[str, Any], page: str) -> str:
    """`page` with the part of the benchmark as `content` says it."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{page_part(content)}{_END}{after}"


def draw(content: Mapping[str, Any], path: Path) -> None:
    """TTFT error against the load, a line a client, rates beside closed loops.

    The load is the chunks a second of the client that took most of them: one that is too slow makes the server send fewer.
    """
    frame = pd.DataFrame(content["results"])
    frame["error_ms"] = (frame["ttft_error_p99_s"] * 1e3).clip(lower=1e-3)
    frame["offered"] = frame.groupby("load")["chunks_per_s"].transform("max")
    frame["title"] = frame["title"].str.replace("`", "")
    seaborn.set_theme(style="ticks", palette="colorblind")
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.9), sharey=True, layout="constrained")
    for axes, (kind, title) in zip(panels, {"rate": "at rates", "concurrency": "in closed loops"}.items(), strict=True):
        own = frame[frame["kind"] == kind]
        seaborn.lineplot(
            own, x="offered", y="error_ms", hue="title", style="title", markers=True, dashes=False, ax=axes
        )
        replay = own[own["client"] == "replay"].sort_values("offered")
        stated = replay["stated_ttft_error_s"] * 1e3
        axes.fill_between(
            replay["offered"], 1e-3, stated, alpha=0.15, color="C0", linewidth=0, label="what the replay client states"
        )
        axes.set(
            xscale="log", yscale="log", xlabel="load (chunks a second)", ylabel="TTFT error, p99 (ms)", title=title
        )
        axes.set_xticks(own["offered"].unique(), [f"{value:,.0f}" for value in own["offered"].unique()])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.get_legend().remove()
        seaborn.despine(ax=axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _ms(seconds: float | None) -> str:
    if seconds is None or math.isnan(seconds):
        return ""
    return f"{seconds * 1e3:.3f}" if abs(seconds) < 0.01 else f"{seconds * 1e3:.1f}"


def _share(value: float | None) -> str:
    return "" if value is None else format_share(value, 1)


def publish() -> None:
    """Write the page's part and the figure from the data that the repository keeps."""
    content = json.loads(DATA.read_text(encoding="utf-8"))
    PAGE.write_text(written_page(content, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(content, FIGURE)


if __name__ == "__main__":
    publish()
