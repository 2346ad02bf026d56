"""What is shown while a trial runs, and what events.jsonl keeps of it."""

import io
import json
from pathlib import Path

import pyarrow as pa

from leverlab.load.schema import REQUESTS
from leverlab.trial.events import EventLog
from leverlab.trial.progress import Progress, phase_line


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_that_moves_and_the_log_a_line_every_ten_seconds(tmp_path: Path) -> None:
    screen, clock = Terminal(), Clock()
    with Progress(tmp_path / "job.log", screen, clock) as progress:
        progress.say("trial 1: starting")
        for _ in range(200):
            progress.show(f"at {clock.now:.1f}")
            clock.now += 0.125
    log = (tmp_path / "job.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in log] == ["trial 1: starting", "at 0.0", "at 10.0", "at 20.0"]
    shown = screen.getvalue()
    assert shown.count("\n") == 1, "only the line that stays ends one"
    assert shown.count("\r\x1b[K") > 50
    assert shown.endswith("\r\x1b[K"), "the moving line is wiped at the end"


def test_without_a_terminal_the_line_comes_every_ten_seconds() -> None:
    screen, clock = io.StringIO(), Clock()
    with Progress(None, screen, clock) as progress:
        for _ in range(200):
            progress.show(f"at {clock.now:.1f}")
            clock.now += 0.125
    assert [line.split(" ", 1)[1] for line in screen.getvalue().splitlines()] == ["at 0.0", "at 10.0", "at 20.0"]


def test_a_further_log_gets_what_is_said_meanwhile(tmp_path: Path) -> None:
    with Progress(None, io.StringIO()) as progress:
        progress.say("before")
        with progress.also_to(tmp_path / "trials" / "1" / "client.log"):
            progress.say("meanwhile")
        progress.say("after")
    text = (tmp_path / "trials" / "1" / "client.log").read_text()
    assert "meanwhile" in text and "before" not in text and "after" not in text


def test_the_line_names_trial_cell_requests_and_time_left() -> None:
    assert (
        phase_line(2, 1, 3, "rate 4", 10, 48, 65.0)
        == "trial 2, cell 1 of 3 (rate 4): 10/48 requests, about 1 min 05 s left"
    )
    assert phase_line(1, 1, 1, "burst", 0, 8, None) == "trial 1, cell 1 of 1 (burst): 0/8 requests"


def test_each_request_is_a_line_with_what_was_promised(tmp_path: Path) -> None:
    whole = dict.fromkeys(REQUESTS.names) | {
        "index": 3, "request_id": "r-3", "status": "ok", "error": "", "requested_output_tokens": 8, "chunks": 8, "prompt_tokens": 100,
        "completion_tokens": 8, "ttft_s": 0.05, "tpot_s": 0.0101, "cached_tokens": 64, "finish_reason": "length",
    }  # fmt: skip
    unknown = {
        **whole,
        "index": 4,
        "request_id": "r-4",
        "status": "timeout",
        "ttft_s": None,
        "tpot_s": None,
        "cached_tokens": None,
    }
    with EventLog(tmp_path / "events.jsonl") as events:
        events.write("phase_started", cell="c-1")
        events.write_requests("c-1", "m", pa.Table.from_pylist([whole, unknown], schema=REQUESTS))
    first, second, third = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    assert first["event"] == "phase_started" and first["at"].endswith("+00:00")
    promised = {
        "event": "request", "cell": "c-1", "model": "m", "request_id": "r-3", "prompt_tokens": 100, "completion_tokens": 8,
        "ttft_ms": 50.0, "tpot_ms": 10.1, "cached_tokens": 64, "cache_hit": True, "finish_reason": "length",
    }  # fmt: skip
    assert promised.items() <= second.items()
    assert third["ttft_ms"] is None and third["cache_hit"] is None and third["status"] == "timeout"
