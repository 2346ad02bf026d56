"""Starting and stopping servers: nothing survives, whatever ends first, and no secret reaches the log."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from leverlab.engines.base import Launch
from leverlab.engines.inherited import inherited_environment
from leverlab.engines.truth import TruthEngine
from leverlab.redaction import Redactor, is_secret_name, secrets_of
from leverlab.topology import (
    LOOPBACK,
    ServerEnded,
    StartTimeout,
    confine,
    free_port,
    processes,
    start,
    wait_ready,
)

pytestmark = pytest.mark.serial

KEY = "a-key-that-nobody-knows"


class Script(TruthEngine):
    """An engine whose server is a Python program."""

    def __init__(self, text: str) -> None:
        self._text = textwrap.dedent(text)

    def command(self, launch: Launch) -> list[str]:
        return [sys.executable, "-c", self._text]


def launch_in(folder: Path, **flags: object) -> Launch:
    identity = {"flags": flags, "environment": {}, "topology": "single", "engine": {"kind": "truth", "device": "cpu"}}
    return Launch([sys.executable], folder, identity, LOOPBACK, free_port(), KEY, [], folder)


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def marked(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("LEVERLAB_TRIAL", "").startswith(
                marker
            ):
                found.append(process)
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "INTERRUPT_GRACE_S", 1.0)
    monkeypatch.setattr(processes, "TERMINATE_GRACE_S", 0.5)


@pytest.fixture
def children() -> Iterator[list[int]]:
    """Processes to end after a test that failed to."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_server_becomes_ready_answers_and_ends_at_the_first_signal(tmp_path: Path) -> None:
    engine, said = TruthEngine(), []
    with start(engine, launch_in(tmp_path, **{"startup-s": 1.2})) as server:
        seconds = wait_ready(server, 20, lambda passed_s, line: said.append((passed_s, line)))
        assert seconds > 1.2
        assert "truth engine" in said[0][1]
        with server.client() as client:
            assert client.get("/v1/models").status_code == 200
        assert server.poll() is None
        report = server.stop()
    assert (report.signal, report.status, report.survivors) == ("SIGINT", 0, [])
    assert (server.poll(), marked(server.marker), server.stop()) == (0, [], report)


def test_an_end_before_it_is_ready_is_explained_from_the_log(tmp_path: Path) -> None:
    engine = TruthEngine()
    with start(engine, launch_in(tmp_path, refuse="no such level")) as server, pytest.raises(ServerEnded) as ended:
        wait_ready(server, 20)
    assert (ended.value.reason.code, ended.value.status) == ("configuration_refused", 1)
    assert "no such level" in ended.value.reason.message
    assert server.stop().signal is None


def test_a_port_taken_meanwhile_is_told_from_a_refusal(tmp_path: Path) -> None:
    engine, launch = TruthEngine(), launch_in(tmp_path)
    with socket.socket() as other:
        other.bind((LOOPBACK, launch.port))
        other.listen()
        with start(engine, launch) as server, pytest.raises(ServerEnded) as ended:
            wait_ready(server, 20)
    assert ended.value.reason.code == "port_taken"


def test_another_server_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    engine, launch = TruthEngine(), launch_in(tmp_path)
    (tmp_path / "ours").mkdir()
    with start(engine, replace(launch, api_key="another key that is not ours")) as foreign:
        wait_ready(foreign, 20)
        ours = replace(launch, folder=tmp_path / "ours")
        with start(Script("import time; time.sleep(60)"), ours) as server, pytest.raises(StartTimeout):
            wait_ready(server, 1.0)


def test_a_start_that_takes_too_long_names_the_setting(tmp_path: Path) -> None:
    engine = TruthEngine()
    with start(engine, launch_in(tmp_path, **{"startup-s": 60})) as server, pytest.raises(StartTimeout) as late:
        wait_ready(server, 0.5)
    assert "start_timeout in config/engines.yaml" in str(late.value)
    assert marked(server.marker) == []


def test_a_program_that_is_not_there_is_an_end_and_no_exception(tmp_path: Path) -> None:
    engine, launch = TruthEngine(), replace(launch_in(tmp_path), command_prefix=["/nowhere/python"])
    with start(engine, launch) as server, pytest.raises(ServerEnded, match="/nowhere/python: No such file"):
        wait_ready(server, 5)
    assert server.poll() == 127


STUBBORN = """
    import os, signal, subprocess, sys, time
    for name in ("SIGINT", "SIGTERM"): signal.signal(getattr(signal, name), signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:  # a daemon: its parent has ended, its session is another
            os.environ.clear()
            time.sleep(600)
        os._exit(0)
    print("up", flush=True)
    time.sleep(600)
"""


def test_what_ignores_signals_and_hides_is_killed_too(tmp_path: Path, children: list[int]) -> None:
    server = start(Script(STUBBORN), launch_in(tmp_path))
    assert until(lambda: "up" in server.log_text() and len(marked(server.marker)) == 2)
    children += [process.pid for process in marked(server.marker)]
    report = server.stop()
    assert (report.signal, report.survivors) == ("SIGKILL", [])
    assert marked(server.marker) == []


def test_workers_that_a_dead_server_left_behind_are_ended(tmp_path: Path, children: list[int]) -> None:
    text = "import os, time\nif os.fork() == 0: time.sleep(600)\nos._exit(3)"
    server = start(Script(text), launch_in(tmp_path))
    assert until(lambda: server.poll() == 3)
    assert len(marked(server.marker)) == 1
    children += [process.pid for process in marked(server.marker)]
    report = server.stop()
    assert (report.status, report.survivors, marked(server.marker)) == (3, [], [])


def run_and_tell(tmp_path: Path) -> tuple[subprocess.Popen, str]:
    """A runner in a process of its own that has started a stubborn server; it, and the server's marker."""
    program = f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from pathlib import Path
        from leverlab.topology import processes, start
        from tests.unit.test_topology import STUBBORN, Script, launch_in
        processes.INTERRUPT_GRACE_S, processes.TERMINATE_GRACE_S = 0.5, 0.5
        server = start(Script(STUBBORN), launch_in(Path({str(tmp_path)!r})))
        while "up" not in server.log_text(): time.sleep(0.02)
        print(server.marker, flush=True)
        time.sleep(600)
    """
    runner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    return runner, runner.stdout.readline().strip()


def test_a_runner_that_is_killed_leaves_no_server_behind(tmp_path: Path, children: list[int]) -> None:
    runner, marker = run_and_tell(tmp_path)
    assert until(lambda: len(marked(marker)) == 2)
    children += [process.pid for process in marked(marker)]
    runner.kill()
    runner.wait()
    assert until(lambda: marked(marker) == [])


def test_a_keeper_that_is_killed_takes_the_server_along(tmp_path: Path, children: list[int]) -> None:
    server = start(Script("import time; print('up', flush=True); time.sleep(600)"), launch_in(tmp_path))
    assert until(lambda: "up" in server.log_text())
    [process] = marked(server.marker)
    children.append(process.pid)
    os.kill(process.ppid(), signal.SIGKILL)
    assert until(lambda: marked(server.marker) == [])
    assert until(lambda: server.poll() is not None)
    server.stop()


def test_a_schedulers_sigterm_to_the_keeper_ends_the_server(tmp_path: Path, children: list[int]) -> None:
    server = start(Script("import time; print('up', flush=True); time.sleep(600)"), launch_in(tmp_path))
    assert until(lambda: "up" in server.log_text())
    [process] = marked(server.marker)
    children.append(process.pid)
    os.kill(process.ppid(), signal.SIGTERM)
    assert until(lambda: server.poll() is not None)
    assert marked(server.marker) == []
    assert server.stop().signal == "SIGINT"


def test_an_interrupt_from_the_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    with start(Script("import time; print('up', flush=True); time.sleep(600)"), launch_in(tmp_path)) as server:
        assert until(lambda: "up" in server.log_text())
        [process] = marked(server.marker)
        assert os.getsid(process.pid) not in (os.getsid(0), os.getsid(process.ppid()))
        assert os.getpgid(process.ppid()) != os.getpgid(0)


def test_no_secret_reaches_the_log_the_command_line_or_a_server_that_does_not_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a_token_of_the_user")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    text = f"""
        import os, sys, time
        print("key", os.environ["LEVERLAB_API_KEY"], "token", os.environ.get("HF_TOKEN"), "known hf_a_token_of_the_user")
        sys.stdout.write("{KEY[:8]}"); sys.stdout.flush(); time.sleep(0.3); print("{KEY[8:]} was cut in two")
        print("parallel", os.environ["TOKENIZERS_PARALLELISM"], flush=True)
        sys.stdout.write("no newline at the end {KEY}"); sys.stdout.flush(); os._exit(0)
    """
    server = start(Script(text), launch_in(tmp_path))
    assert until(lambda: server.poll() is not None)
    command_lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    server.stop()
    log = server.log.read_bytes().decode()
    assert KEY not in log
    assert "hf_a_token_of_the_user" not in log
    assert log.splitlines() == [
        "key <API_KEY> token None known <HF_TOKEN>",
        "<API_KEY> was cut in two",
        "parallel false",
        "no newline at the end <API_KEY>",
    ]
    assert any("leverlab.keeper" in line for line in command_lines)
    assert not any(KEY in line for line in command_lines)


def test_the_users_own_settings_of_an_engine_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_USE_V2_MODEL_RUNNER", "OMP_NUM_THREADS", "WANDB_API_KEY", "LANGUAGE", "VLLM_CACHE_ROOT"):
        monkeypatch.setenv(name, "something")
    inherited = inherited_environment(("VLLM_*", "OMP_NUM_THREADS"))
    assert inherited["LANGUAGE"] == inherited["VLLM_CACHE_ROOT"] == "something"
    assert not inherited.keys() & {"VLLM_USE_V2_MODEL_RUNNER", "OMP_NUM_THREADS", "WANDB_API_KEY"}


def test_every_thread_is_confined_and_what_the_engine_bound_stays_bound(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    text = """
        import os, threading, time
        def bound():
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            time.sleep(600)
        for target in (lambda: time.sleep(600), bound): threading.Thread(target=target, daemon=True).start()
        if os.fork() == 0: time.sleep(600)
        time.sleep(0.1); print("up", flush=True); time.sleep(600)
    """
    with start(Script(text), replace(launch_in(tmp_path), cores=cores[:1])) as server:
        assert until(lambda: "up" in server.log_text())
        confine(server)
        threads = [
            int(task.name) for process in server.processes() for task in Path(f"/proc/{process.pid}/task").iterdir()
        ]
        assert len(threads) == 4
        assert {frozenset(os.sched_getaffinity(thread)) for thread in threads} == {frozenset(cores[:1])}
        server.parts[0].plan = replace(server.parts[0].plan, cores=cores)
        confine(server)
        assert {frozenset(os.sched_getaffinity(thread)) for thread in threads} == {frozenset(cores[:1])}


def test_an_unknown_topology_is_refused(tmp_path: Path) -> None:
    launch = launch_in(tmp_path)
    with pytest.raises(ValueError, match="'ring'"):
        start(TruthEngine(), replace(launch, identity={**launch.identity, "topology": "ring"}))


def test_what_is_taken_for_a_secret() -> None:
    secret = ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "PGPASSWORD", "SLURM_JWT", "MY_PASSWORD"]
    plain = ["TOKENIZERS_PARALLELISM", "HF_TOKEN_PATH", "PASSWORD_FILE", "SSH_AUTH_SOCK", "PATH"]
    assert [name for name in secret + plain if is_secret_name(name)] == secret


def test_the_hubs_token_is_a_secret_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_in_a_file\n")
    redactor = Redactor(
        {**secrets_of({"HF_HOME": str(tmp_path), "A_TOKEN": "short"}), "LONG": "hf_in_a_file_and_longer"}
    )
    assert redactor.text("hf_in_a_file_and_longer hf_in_a_file short") == "<LONG> <HF_TOKEN_PATH> short"
    assert Redactor({}).line(b"\xff as it is\n") == b"\xff as it is\n"
