"""Whether a number holds: the verdict from recorded and new values, what differs, and how it is told."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from leverlab.layout import Layout
from leverlab.records import write_json
from leverlab.reproduce import recorded_server
from leverlab.reproduce.comparison import compare
from leverlab.reproduce.evidence import Evidence, Replicate
from leverlab.reproduce.page import as_mapping, headline, render
from leverlab.stats.intervals import prediction_interval

SPECIFICATION = {
    "server": {
        "engine": {"kind": "vllm", "device": "cpu", "versions": {}},
        "model": {"name": "tiny"},
        "gpu": {"type": "cpu", "count": 1},
    },
    "phase": {"load": {"kind": "rate", "value": 4}, "cache": "cold"},
}
RECORDED_TTFT = (0.060, 0.062, 0.061)


def replicate(name: str, ttft_s: float, provenance: dict | None = None, invalid: tuple[str, ...] = ()) -> Replicate:
    values = {("ttft_s", "p50"): ttft_s, ("tpot_s", "p50"): ttft_s / 10, ("throughput", None): 10 / ttft_s}
    values |= {("preemptions", None): 0.0, ("goodput", None): 3.0, ("ttft_s", "p95"): 2 * ttft_s}
    return Replicate(name, values, provenance or {"node": {"hostname": "a"}}, invalid, ())


def evidence(*replicates: Replicate) -> Evidence:
    made = replicates or tuple(replicate(f"r{n}", ttft) for n, ttft in enumerate(RECORDED_TTFT, 1))
    return Evidence("cell-1", "server-1", "phase-1", "vllm-cpu", SPECIFICATION, made, "results/servers/server-1")


def test_a_value_in_the_prediction_interval_holds() -> None:
    outcome = compare(evidence(), replicate("x1", 0.0615))
    assert outcome.verdict == "holds" and outcome.why == ""
    [ttft] = [found for found in outcome.metrics if found.key == ("ttft_s", "p50")]
    assert ttft.expected == prediction_interval(RECORDED_TTFT, log=True), "on the logarithms, as ratios are compared"
    assert ttft.judgement == "inside" and 0.0615 in ttft.expected
    start = "The number holds: by the 95 % prediction interval of 3 replicates, the median time to first token is 61.5 ms (expected "
    assert headline(outcome).startswith(start)


@pytest.mark.parametrize("ttft_s", [0.08, 0.045])
def test_a_value_outside_does_not_hold(ttft_s: float) -> None:
    outcome = compare(evidence(), replicate("x1", ttft_s))
    assert outcome.verdict == "does not hold"
    assert headline(outcome).startswith(
        "The number does not hold: by the 95 % prediction interval of 3 replicates, the median time"
    )


def test_the_interval_s_ends_decide() -> None:
    expected = prediction_interval(RECORDED_TTFT, log=True)
    assert expected is not None
    for ttft_s, verdict in (
        (expected.high * 0.999, "inside"),
        (expected.high * 1.001, "outside"),
        (expected.low * 0.999, "outside"),
    ):
        found = {one.key: one.judgement for one in compare(evidence(), replicate("x1", ttft_s)).metrics}
        assert found["ttft_s", "p50"] == verdict


def test_only_the_main_metrics_decide() -> None:
    odd = replicate("x1", 0.0615)
    odd.values["ttft_s", "p95"] = 9.0
    outcome = compare(evidence(), odd)
    assert outcome.verdict == "holds"
    assert [found.key for found in outcome.metrics if found.judgement == "outside"] == [("ttft_s", "p95")]


def test_one_replicate_is_not_judgeable() -> None:
    outcome = compare(evidence(replicate("r1", 0.06)), replicate("x1", 0.06))
    assert outcome.verdict == "not judgeable"
    assert headline(outcome).startswith("Not judgeable: 1 valid replicate is recorded")


def test_invalid_replicates_are_left_out_and_named() -> None:
    found = evidence(replicate("r1", 0.06), replicate("r2", 0.9, invalid=("client_error",)))
    outcome = compare(found, replicate("x1", 0.06))
    assert outcome.verdict == "not judgeable" and "1 more that checks call invalid" in outcome.why
    assert as_mapping(found, 1, replicate("x1", 0.06), outcome)["excluded"] == {"r2": ["client_error"]}


def test_an_invalid_new_measurement_is_not_judged() -> None:
    outcome = compare(evidence(), replicate("x1", 0.061, invalid=("http_errors",)))
    assert outcome.verdict == "not judgeable" and "http_errors" in outcome.why


def test_values_without_spread_give_no_interval() -> None:
    outcome = compare(evidence(), replicate("x1", 0.061))
    [preemptions] = [found for found in outcome.metrics if found.metric == "preemptions"]
    assert preemptions.judgement == "not judgeable" and "do not differ" in preemptions.reason
    alike = evidence(*(replicate(f"r{n}", 0.06) for n in (1, 2, 3)))
    assert compare(alike, replicate("x1", 0.06)).verdict == "not judgeable"


def test_goodput_depends_on_a_study_and_is_not_compared() -> None:
    assert "goodput" not in {found.metric for found in compare(evidence(), replicate("x1", 0.061)).metrics}


def test_provenance_that_no_replicate_had_is_listed() -> None:
    def at(host: str, driver: str, pid: int) -> dict:
        return {"node": {"hostname": host, "pid": pid}, "gpu": {"driver": driver}}

    recorded = evidence(replicate("r1", 0.06, at("a", "550", 1)), replicate("r2", 0.061, at("a", "550", 2)))
    found = compare(recorded, replicate("x1", 0.06, at("b", "550", 3))).differences
    assert [(one.key, one.recorded, one.here) for one in found] == [("node.hostname", ("a",), "b")]
    gone = compare(recorded, replicate("x1", 0.06, {"node": {"hostname": "a"}})).differences
    assert [(one.key, one.here) for one in gone] == [("gpu.driver", "not recorded")]


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src") and value]


def test_the_page_says_the_verdict_first_and_needs_nothing_from_outside() -> None:
    new = replicate("x1", 0.08, {"node": {"hostname": "b"}})
    text = render(evidence(), 1, new, compare(evidence(), new))
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.links) and "script" not in page.tags
    assert text.index("The number does not hold") < text.index("<table")
    assert "node hostname" in text and "Simulated" not in text
    mapping = as_mapping(evidence(), 1, new, compare(evidence(), new))
    assert mapping["verdict"] == "does not hold" and mapping["replicates"] == ["r1", "r2", "r3"]
    assert json.loads(json.dumps(mapping, allow_nan=False))["metrics"]["ttft_s p50"]["judgement"] == "outside"


def test_a_cell_that_nobody_recorded_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=r"no record of the cell nothing-1.*cells\.parquet.*copy one"):
        recorded_server("nothing-1", Layout(tmp_path))


def test_the_server_is_read_from_the_cells_record(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_json(
        layout.cell("s", "r1", "p") / "cell.json",
        {"cell": "cell-1", "engine": "vllm-cpu", "specification": SPECIFICATION},
    )
    found = recorded_server("cell-1", layout)
    assert (found.engine, found.model, found.gpu, found.gpu_count) == ("vllm-cpu", "tiny", "cpu", 1)
    with pytest.raises(LookupError):
        recorded_server("cell-10", layout)
