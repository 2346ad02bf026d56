"""The replay client against an engine whose true times are known."""

import dataclasses
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from leverlab.load import replay as replay_module
from leverlab.load.log import read_log
from leverlab.load.parse import parse
from leverlab.load.plan import KEY_VARIABLE, Endpoint, LoadPoint, Target
from leverlab.load.replay import ReplayJob, ReplayProcessError, replay, replay_in_subprocess
from leverlab.truth.log import read_truth_requests
from tests.unit.truth_process import KEY, USAGE, arrivals_against_truth, plan, run, true_times, truth_engine

pytestmark = pytest.mark.serial

RATE, CLOSED, BURST = LoadPoint("rate", 100.0), LoadPoint("concurrency", 3.0), LoadPoint("burst")
TTFT_S, GAP_S = 0.03, 0.005


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with truth_engine(tmp_path_factory.mktemp("truth"), "--ttft", str(TTFT_S), "--gap", str(GAP_S)) as truth:
        yield truth


@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize("load", [RATE, CLOSED, BURST], ids=str)
def test_times_agree_with_the_truth_within_the_stated_error(engine, endpoint, load):
    parsed, origin_ns = run(engine.target(endpoint), plan(20, every_s=1.0, prefix=f"{endpoint}-{load}-"), load)
    engine.settle()
    received = {request.request_id: request.received_ns for request in read_truth_requests(engine.log)}
    rows = parsed.requests.to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 20, [row["error"] for row in rows]
    assert {row["token_source"] for row in rows} == {"usage"}
    assert all(row["completion_tokens"] == row["chunks"] == 8 for row in rows)
    assert parsed.instrument.stamp_source == "kernel"

    # A stamp is made inside the server's send call, so it lies between the call's two logged ends, but for the few that the
    # scheduler of a busy machine delays.
    after_begin, before_end = arrivals_against_truth(parsed, origin_ns, engine.log)
    assert after_begin.min() > -2e-6
    assert np.quantile(before_end, 0.1) > -1e-4

    for row in rows:
        # From the scheduled send on, the client may add what it states and the server its own lateness, nothing is lost.
        assert row["ttft_s"] == pytest.approx(row["send_lag_s"] + row["ttft_service_s"], abs=1e-9)
        taken_in_s = (received[row["request_id"]] - origin_ns) / 1e9
        assert row["sent_s"] <= taken_in_s
        assert row["ttft_service_s"] >= TTFT_S
        assert row["ttft_error_s"] >= row["send_lag_s"] >= 0
        assert row["e2e_s"] >= TTFT_S + 7 * GAP_S
    truth = true_times(engine.log, origin_ns)
    for name, ends in (("ttft_s", 0), ("e2e_s", 1)):
        error = [row[name] - (truth[row["request_id"]][ends] - row["scheduled_s"]) for row in rows]
        assert abs(np.median(error)) < 5e-5, name
    tpot_error = [row["tpot_s"] - np.diff(truth[row["request_id"]])[0] / 7 for row in rows]
    assert abs(np.median(tpot_error)) < 1e-5


def test_an_open_loop_keeps_to_its_schedule_while_the_server_is_busy(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.05", "--gap", "0.005", "--max-num-seqs", "1") as truth:
        parsed, _ = run(truth.target(), plan(6, every_s=1.0, tokens=4), LoadPoint("rate", 100.0))
    rows = parsed.requests.to_pylist()
    assert [row["scheduled_s"] for row in rows] == pytest.approx([at / 100 for at in range(6)], abs=1e-6)
    assert max(row["send_lag_s"] for row in rows) < 0.03
    # One seat: the k-th request waits for k others of 65 ms each, and its ttft says so.
    assert [row["ttft_s"] for row in rows] == pytest.approx([0.05 + at * (0.065 - 0.01) for at in range(6)], abs=0.02)


def test_a_closed_loop_schedules_a_request_when_its_slot_comes_free(engine):
    parsed, _ = run(engine.target(), plan(9), LoadPoint("concurrency", 3.0))
    rows = parsed.requests.to_pylist()
    assert [row["scheduled_s"] for row in rows[:3]] == [0.0, 0.0, 0.0]
    ends = sorted(row["last_token_s"] for row in rows)
    for row, freed in zip(sorted(rows, key=lambda row: row["scheduled_s"])[3:], ends, strict=False):
        assert 0 <= row["scheduled_s"] - freed < 0.01


def conversations(count, rounds, pause_s, **keywords):
    """`count` conversations of `rounds` requests, one after another in the file."""
    requests = plan(count * rounds, every_s=0.0, **keywords)
    return [
        dataclasses.replace(request, arrival_unit_s=float(request.index // rounds))
        if request.index % rounds == 0
        else dataclasses.replace(
            request, arrival_unit_s=float(request.index // rounds), after=request.index - 1, pause_s=pause_s
        )
        for request in requests
    ]


@pytest.mark.parametrize("load", [RATE, CLOSED, BURST], ids=str)
def test_a_request_is_due_its_pause_after_the_end_of_the_one_it_waits_for(engine, load):
    asked = conversations(4, 3, 0.02, prefix=f"waits-{load}-")
    parsed, origin_ns = run(engine.target(), asked, load)
    engine.settle()
    received = {request.request_id: request for request in read_truth_requests(engine.log)}
    rows = {row["index"]: row for row in parsed.requests.to_pylist()}
    assert [row["status"] for row in rows.values()] == ["ok"] * 12
    for request in asked:
        row = rows[request.index]
        assert row["ttft_s"] == pytest.approx(row["first_token_s"] - row["scheduled_s"], abs=1e-9)
        if request.after is None:
            continue
        before = rows[request.after]
        assert row["scheduled_s"] >= before["last_token_s"] + request.pause_s - 1e-9
        # The server's own clock: the follower came in after the other one's answer, and after the pause.
        taken_in_s = (received[row["request_id"]].received_ns - origin_ns) / 1e9
        assert taken_in_s >= before["last_token_s"] + request.pause_s
    begins = [rows[at]["scheduled_s"] for at in range(0, 12, 3)]
    if load == RATE:
        assert begins == pytest.approx([at / 100 for at in range(4)], abs=1e-6), "the first ones wait for nobody"
    elif load == BURST:
        assert begins == [0.0] * 4
    else:
        # Three streams: the fourth conversation begins where the first of them to be through has ended, pauses included.
        assert begins[:3] == [0.0] * 3
        assert begins[3] >= min(rows[at]["last_token_s"] for at in (2, 5, 8))


def test_what_waits_for_a_request_that_fails_is_sent_all_the_same(tmp_path):
    with truth_engine(tmp_path, "--http-error-every", "2") as truth:
        parsed, _ = run(truth.target(), conversations(2, 3, 0.0), LoadPoint("concurrency", 1.0))
    assert sorted(parsed.requests["status"].to_pylist()) == ["http_error"] * 3 + ["ok"] * 3


def test_more_requests_than_connections_made_beforehand(engine, monkeypatch):
    monkeypatch.setattr("leverlab.load.loop.MAXIMUM_PRECONNECTED", 2)
    parsed, _ = run(engine.target(), plan(10), BURST)
    assert parsed.requests["status"].to_pylist() == ["ok"] * 10


def test_several_tokens_a_chunk(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.02", "--gap", "0.01", "--tokens-per-chunk", "4") as truth:
        parsed, _ = run(truth.target(), plan(3, tokens=10), BURST)
    assert parsed.chunks["tokens"].to_pylist() == [4, 4, 2] * 3
    arrived = parsed.chunks.to_pandas().groupby("index")["arrival_s"]
    for row in parsed.requests.to_pylist():
        assert (row["completion_tokens"], row["first_chunk_tokens"], row["chunks"]) == (10, 4, 3)
        # From the first chunk to the last, for the six tokens after the first chunk: not for nine, and not for two chunks.
        took_s = arrived.max()[row["index"]] - arrived.min()[row["index"]]
        assert row["tpot_s"] == pytest.approx(took_s / 6)


def test_digests_tell_answers_of_one_server_from_those_of_another(engine, tmp_path):
    """The same prompts at temperature 0: the words differ with the seed, and not with how many are sent together."""

    def digests(target, load=BURST):
        planned = [dataclasses.replace(each, prompt=f"word {each.index}") for each in plan(4, tokens=10)]
        requests = run(target, planned, load)[0].requests
        return [requests[name].to_pylist() for name in ("beginning_digest", "answer_digest")]

    said = digests(engine.target())
    assert all(len(set(column)) == 4 and None not in column for column in said)
    assert digests(engine.target(), CLOSED) == said
    with truth_engine(tmp_path, "--ttft", "0.02", "--tokens-per-chunk", "4", "--split-chunks") as alike:
        assert digests(alike.target()) == said
    (tmp_path / "other").mkdir()
    with truth_engine(tmp_path / "other", "--ttft", "0.02", "--seed", "7") as other:
        assert all(not set(mine) & set(theirs) for mine, theirs in zip(said, digests(other.target()), strict=True))


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_empty_text_is_a_token_like_any_other(tmp_path, endpoint):
    with truth_engine(tmp_path, "--ttft", "0.02", "--gap", "0.005", "--empty-text-every", "1") as truth:
        parsed, _ = run(truth.target(endpoint), plan(2, tokens=5), BURST)
    rows = parsed.requests.to_pylist()
    assert [(row["status"], row["completion_tokens"], row["chunks"]) for row in rows] == [("ok", 5, 5)] * 2
    assert all(row["ttft_service_s"] < 0.02 + 0.005 for row in rows), "the first chunk counts, though its text is empty"
    assert {row["beginning_digest"] for row in rows} == {None}


@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize(
    ("extra_body", "source"),
    [({"return_token_ids": True}, "token_ids"), ({"stream_options": {"include_usage": True}}, "chunks")],
)
def test_tokens_without_continuous_usage(engine, endpoint, extra_body, source):
    parsed, _ = run(engine.target(endpoint, **extra_body), plan(2), BURST)
    rows = parsed.requests.to_pylist()
    assert [(row["token_source"], row["chunks"], row["completion_tokens"]) for row in rows] == [(source, 8, 8)] * 2


def test_characters_split_across_segments(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.02", "--gap", "0.005", "--split-chunks") as truth:
        parsed, _ = run(truth.target(), plan(4, tokens=40), BURST)
    assert parsed.requests["status"].to_pylist() == ["ok"] * 4
    assert parsed.requests["chunks"].to_pylist() == [40] * 4


def test_a_server_that_dies_leaves_outcomes(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.02", "--gap", "0.005", "--exit-after-requests", "2") as truth:
        requests = [*plan(2, tokens=2), *[r for r in plan(6, tokens=200) if r.index >= 2]]
        late = [*requests, *[type(r)(r.index + 6, f"late{r.index}", r.prompt, 4, 4, 50.0) for r in plan(2)]]
        parsed, _ = run(truth.target(), late, LoadPoint("rate", 100.0))
        assert truth.process.wait(5) == 70
    rows = {row["index"]: row for row in parsed.requests.to_pylist()}
    assert [rows[at]["status"] for at in range(8)] == ["ok"] * 2 + ["cut"] * 4 + ["connection_error"] * 2
    assert all(rows[at]["ttft_s"] and rows[at]["e2e_s"] is None and rows[at]["tpot_s"] is None for at in range(2, 6))
    assert all(rows[at]["ttft_s"] is None and rows[at]["error"] for at in (6, 7))


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    target = Target("127.0.0.1", port, "truth", KEY, Endpoint.COMPLETIONS, USAGE)
    for load in (RATE, CLOSED, BURST):
        parsed, _ = run(target, plan(5), load)
        rows = parsed.requests.to_pylist()
        assert {row["status"] for row in rows} == {"connection_error"}
        assert all("refused" in row["error"] for row in rows)
        assert parsed.chunks.num_rows == 0
        assert parsed.instrument.ttft_error_s is None


def test_http_errors_carry_the_servers_words(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.02", "--gap", "0.005", "--http-error-every", "2") as truth:
        parsed, _ = run(truth.target(), plan(4), LoadPoint("concurrency", 1.0))
        refused, _ = run(truth.target(key="wrong"), plan(1), BURST)
    rows = parsed.requests.to_pylist()
    assert [row["status"] for row in rows] == ["ok", "http_error"] * 2
    assert [row["http_status"] for row in rows] == [200, 500] * 2
    assert "--http-error-every" in rows[1]["error"]
    assert refused.requests["http_status"].to_pylist() == [401]


def test_a_request_without_an_end_times_out(tmp_path):
    with truth_engine(tmp_path, "--ttft", "0.02", "--gap", "0.1") as truth:
        parsed, _ = run(truth.target(), plan(2, tokens=1000), BURST, timeout_s=0.4)
    rows = parsed.requests.to_pylist()
    assert [row["status"] for row in rows] == ["timeout"] * 2
    assert all(row["chunks"] >= 3 and row["e2e_s"] is None for row in rows)


def test_a_connection_that_the_server_closed_while_idle_is_made_again():
    """The server answers once on each connection and closes the first one, unused, before the request comes."""
    answer = (
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
        b'data: {"choices":[{"text":"a","finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
    )
    answer %= len(answer.split(b"\r\n\r\n")[1])
    accepted = []

    def serve(listener: socket.socket) -> None:
        first, _ = listener.accept()
        first.close()
        connection, _ = listener.accept()
        accepted.append(connection.recv(65536))
        connection.sendall(answer)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        target = Target("127.0.0.1", listener.getsockname()[1], "m", None, Endpoint.COMPLETIONS, {})
        parsed, _ = run(target, plan(1), BURST)
        thread.join(5)
    assert parsed.requests["status"].to_pylist() == ["ok"]
    assert len(accepted) == 1
    assert b"Authorization" not in accepted[0]


def test_a_set_wall_clock_is_noticed_and_its_stamps_are_not_used(engine):
    log = replay(engine.target(), plan(3), BURST, timeout_s=10)
    shifted = dataclasses.replace(
        log, offset_after=dataclasses.replace(log.offset_after, offset_ns=log.offset_after.offset_ns + 5_000_000)
    )
    parsed = parse(shifted)
    assert parsed.instrument.clock_jumped
    assert parsed.instrument.clock_jump_s == pytest.approx(0.005, abs=1e-5)
    assert parsed.instrument.stamp_source == "read"
    assert not parse(log).instrument.clock_jumped
    back_and_forth = dataclasses.replace(log, read_stamp_ns=log.read_stamp_ns + 7_000_000)
    assert parse(back_and_forth).instrument.clock_jumped


def test_a_process_of_its_own_reports_and_hides_the_key(engine, tmp_path, monkeypatch):
    seen = []
    commands = []
    popen = replay_module.subprocess.Popen

    def spying(command, **options):
        commands.append((command, Path(command[-1]).read_text()))
        return popen(command, **options)

    monkeypatch.setattr(replay_module.subprocess, "Popen", spying)
    core = min(os.sched_getaffinity(0))
    log = replay_in_subprocess(
        engine.target(), plan(20, every_s=1.0), LoadPoint("rate", 40.0), timeout_s=10, cores=[core],
        progress=lambda done, of: seen.append((done, of)), directory=tmp_path,
    )  # fmt: skip
    parsed = parse(log)
    assert parsed.requests["status"].to_pylist() == ["ok"] * 20
    assert seen[-1] == (20, 20)
    assert len(seen) >= 2
    assert seen == sorted(seen)
    ((command, job),) = commands
    assert KEY not in job
    assert KEY not in " ".join(command)
    assert KEY.encode() not in log.payload
    assert KEY not in repr(engine.target())
    assert json.loads(job)["cores"] == [core]
    assert not list(tmp_path.iterdir()), "the job and the raw log are removed"


def test_a_process_that_fails_says_why(engine, tmp_path):
    with pytest.raises(ReplayProcessError, match="Invalid argument"):
        replay_in_subprocess(engine.target(), plan(1), BURST, timeout_s=5, cores=[10_000], directory=tmp_path)


def test_no_requests_is_an_error(engine):
    with pytest.raises(ValueError, match="no requests"):
        replay(engine.target(), [], BURST, timeout_s=1)


def test_the_caller_keeps_its_cores_and_its_garbage_collector(engine):
    before = os.sched_getaffinity(0)
    replay(engine.target(), plan(1), BURST, timeout_s=5, cores=[min(before)])
    assert os.sched_getaffinity(0) == before
    assert gc.isenabled()


def test_a_client_that_was_stopped_states_a_bound_that_holds(tmp_path):
    """Stopped for 200 ms, the client reads chunks together, whose stamps are the last one's: the bound of each request covers it."""
    with truth_engine(tmp_path, "--ttft", str(TTFT_S), "--gap", str(GAP_S)) as truth:
        raw = tmp_path / "raw"
        job = ReplayJob(truth.target(), plan(40, every_s=1.0), LoadPoint("rate", 80.0), 10.0, None, str(raw))
        (tmp_path / "job").write_bytes(msgspec.json.encode(job))
        environment = {**os.environ, KEY_VARIABLE: KEY}
        command = [sys.executable, "-m", "leverlab.load", str(tmp_path / "job")]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            while int(process.stdout.readline().split()[0]) == 0:
                pass
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            process.send_signal(signal.SIGCONT)
            process.stdout.read()
        assert process.returncode == 0
        truth.stop()
        log = read_log(raw)
        first_sent_s = {name: ends[0] for name, ends in true_times(truth.log, log.origin_ns).items()}
    parsed = parse(log)
    rows = parsed.requests.to_pylist()
    late = {row["request_id"]: row["first_token_s"] - first_sent_s[row["request_id"]] for row in rows}
    assert max(late.values()) > 0.01, "the stop did what it is for"
    for row in rows:
        assert late[row["request_id"]] <= row["ttft_error_s"] + 5e-4
        assert row["ttft_error_s"] < 0.4, "and is no wider than the stop explains"
    assert parsed.instrument.coalesced_share > 0.01
    assert parsed.instrument.send_lag_max_s > 0.1
    assert parsed.instrument.read_delay_p99_s > 0.05


def test_more_requests_in_flight_than_a_select_could_watch(engine):
    parsed, _ = run(engine.target(), plan(1500, tokens=1), BURST)
    assert set(parsed.requests["status"].to_pylist()) == {"ok"}
    assert parsed.requests.num_rows == 1500
