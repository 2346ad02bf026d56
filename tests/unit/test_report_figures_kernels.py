"""Figures: what is drawn lies within them."""

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from leverlab.report.figures import kernels, timeline


def test_the_title_of_what_changed_lies_within_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lever's long name is wrapped: its first line was longer than what lies above the bars and was cut off."""
    drawn: list[Figure] = []

    def kept(figure: Figure, name: str, spoken: str) -> str:
        figure.draw_without_rendering()
        drawn.append(figure)
        return f"{name} {spoken}"

    monkeypatch.setattr(kernels, "inline", kept)
    title = "Tokens of a step (max_num_batched_tokens) 512 instead of 8192"
    parts = {"attention": 1e-3, "norm_elementwise": 2e-4}
    kernels.difference_bars(parts, {"attention": 9e-4, "norm_elementwise": 3e-4}, title, "w0")
    (figure,) = drawn
    (axes,) = figure.axes
    box, whole = axes.title.get_window_extent(), Bbox.from_bounds(0, 0, *figure.bbox.size)
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1, (box, whole)


def test_the_title_of_a_cell_over_time_lies_within_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A treatment of two levers has a name of two lines."""
    drawn: list[Figure] = []
    monkeypatch.setattr(timeline, "inline", lambda figure, name, spoken: drawn.append(figure) or name)
    chunks = pd.DataFrame({"index": [0, 0, 0, 1, 1], "arrival_s": [0.1, 0.2, 0.35, 0.1, 0.3], "tokens": [1] * 5})
    title = "Prefill/decode disaggregation colocated instead of prefill-decode"
    assert timeline.timeline(chunks, None, title, "t0") is not None
    (figure,) = drawn
    figure.draw_without_rendering()
    box, whole = figure.axes[0].title.get_window_extent(), Bbox.from_bounds(0, 0, *figure.bbox.size)
    assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and box.y1 <= whole.y1, (box, whole)
