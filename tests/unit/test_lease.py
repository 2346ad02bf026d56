"""Leases: two processes never hold one, a dead owner is succeeded by exactly one, a live one is respected."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from leverlab.layout import Layout
from leverlab.telemetry import gpu
from leverlab.trial import lease
from leverlab.trial.lease import DevicesUnavailableError, LeaseHeldError, lease_devices, replicate_lease
from leverlab.trial.owner import Owner

pytestmark = pytest.mark.serial

HOLD = """
    import sys, time
    from pathlib import Path
    from leverlab.layout import Layout
    from leverlab.trial.lease import lease_devices, replicate_lease
    def said(text): print(text, flush=True)
"""


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_CPUS_ON_NODE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def program(text: str, **environment: str) -> subprocess.Popen:
    """A Python program that has the functions above; read its lines from `stdout`."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD) + textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    process = program(f"""
        with replicate_lease(Layout(Path({str(tmp_path)!r})), "s", "r1", said):
            said("held")
            time.sleep(60)
    """)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def write_lease(layout: Layout, owner: Owner) -> Path:
    path = layout.lease("s", "r1")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(owner.to_json())
    return path


def dead_owner() -> Owner:
    process = subprocess.Popen(["true"])
    process.wait()
    return replace(Owner.current(), pid=process.pid, started=1)


def test_the_lease_names_this_process_and_is_gone_afterwards(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with replicate_lease(layout, "s", "r1", print):
        kept = json.loads(layout.lease("s", "r1").read_text())
        assert (kept["pid"], kept["host"]) == (os.getpid(), socket.gethostname())
    assert list(layout.lease("s", "r1").parent.iterdir()) == []


def test_a_live_owner_is_waited_for_and_named(tmp_path: Path, holder: subprocess.Popen) -> None:
    said: list[str] = []
    with (
        pytest.raises(LeaseHeldError, match=f"process {holder.pid} "),
        replicate_lease(Layout(tmp_path), "s", "r1", said.append, timeout_s=0.3, poll_s=0.05),
    ):
        pass
    assert len(said) == 1
    assert f"process {holder.pid} " in said[0]
    assert Layout(tmp_path).lease("s", "r1").is_file()


def test_a_killed_owner_is_succeeded(tmp_path: Path, holder: subprocess.Popen) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with replicate_lease(Layout(tmp_path), "s", "r1", print, timeout_s=0) as mine:
        assert json.loads(Layout(tmp_path).lease("s", "r1").read_text())["token"] == mine.token


def test_a_number_used_again_by_another_process_is_no_owner(tmp_path: Path) -> None:
    write_lease(Layout(tmp_path), replace(Owner.current(), started=1))
    with replicate_lease(Layout(tmp_path), "s", "r1", print, timeout_s=0):
        pass


def test_an_owner_from_before_a_reboot_is_dead(tmp_path: Path) -> None:
    write_lease(Layout(tmp_path), replace(Owner.current(), boot="another"))
    with replicate_lease(Layout(tmp_path), "s", "r1", print, timeout_s=0):
        pass


def test_an_owner_on_another_host_is_taken_for_alive_and_the_remedy_is_named(tmp_path: Path) -> None:
    path = write_lease(Layout(tmp_path), replace(Owner.current(), host="elsewhere"))
    with (
        pytest.raises(LeaseHeldError, match=f"delete {path}"),
        replicate_lease(Layout(tmp_path), "s", "r1", print, timeout_s=0),
    ):
        pass


@pytest.mark.parametrize(("answer", "alive"), [(True, True), (False, False), (None, None)])
def test_slurm_is_asked_about_an_owner_on_another_node(answer: bool | None, alive: bool | None) -> None:
    owner = replace(Owner.current(), host="elsewhere", slurm_job="17")
    assert owner.is_alive(lambda job: answer if job == "17" else pytest.fail(job)) is alive


def test_a_job_that_slurm_started_anew_succeeds_its_former_self(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = replace(Owner.current(), host="elsewhere", slurm_job="17", slurm_restart=0)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert owner.is_alive() is None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert owner.is_alive() is False


def test_of_many_that_want_a_dead_owners_lease_one_at_a_time_holds_it(tmp_path: Path) -> None:
    write_lease(Layout(tmp_path), dead_owner())
    journal = tmp_path / "journal"
    processes = [
        program(f"""
        with replicate_lease(Layout(Path({str(tmp_path)!r})), "s", "r1", said, poll_s=0.002):
            with open({str(journal)!r}, "a") as file: file.write("in\\n")
            time.sleep(0.01)
            with open({str(journal)!r}, "a") as file: file.write("out\\n")
    """)
        for _ in range(4)
    ]
    assert [process.wait(30) for process in processes] == [0] * 4
    assert journal.read_text().split() == ["in", "out"] * 4


def test_a_claim_whose_owner_died_before_it_took_over_is_succeeded_too(tmp_path: Path) -> None:
    first, second = dead_owner(), replace(dead_owner(), token="b" * 16)
    path = write_lease(Layout(tmp_path), first)
    path.with_name(f".{path.name}.{first.token}.taken").write_text(second.to_json())
    with replicate_lease(Layout(tmp_path), "s", "r1", print, timeout_s=0) as mine:
        assert json.loads(path.read_text())["token"] == mine.token
    assert list(path.parent.iterdir()) == []


def test_a_slow_successor_does_not_replace_a_quicker_ones_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lease(Layout(tmp_path), dead_owner())
    quick = replace(Owner.current(), token="quick")
    link = lease._link

    def slow_link(draft: Path, name: Path) -> bool:
        if name.name.endswith(".taken"):
            path.write_text(quick.to_json())  # meanwhile the other has claimed, taken over, and cleared its claim
        return link(draft, name)

    monkeypatch.setattr(lease, "_link", slow_link)
    with pytest.raises(LeaseHeldError), replicate_lease(Layout(tmp_path), "s", "r1", print, timeout_s=0):
        pass
    assert json.loads(path.read_text())["token"] == "quick"
    assert [entry.name for entry in path.parent.iterdir()] == ["lease.json"]


def test_a_cpu_engine_gets_all_cores_but_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})
    with lease_devices("cpu", 1, print) as held:
        assert (held.engine_cores, held.client_core, held.shared_core, held.gpus) == ([0, 1, 2], 5, False, [])


def test_with_one_core_engine_and_client_share_it_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    with lease_devices("cpu", 1, print) as held:
        assert (held.engine_cores, held.client_core, held.shared_core) == ([3], 3, True)


def test_a_slurm_job_takes_no_more_cores_than_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    with lease_devices("cpu", 1, print) as first, lease_devices("cpu", 1, print, timeout_s=0) as second:
        assert not {*first.engine_cores, first.client_core} & {*second.engine_cores, second.client_core}
        assert len(first.engine_cores) == len(second.engine_cores) == 3


def test_cores_in_use_are_waited_for_and_freed_by_death() -> None:
    process = program("""
        held = lease_devices("cpu", 1, said)
        said("held")
        time.sleep(60)
    """)
    assert process.stdout.readline() == "held\n"
    said: list[str] = []
    with pytest.raises(LeaseHeldError):
        lease_devices("cpu", 1, said.append, timeout_s=0.2, poll_s=0.05)
    assert f"process {process.pid} " in said[0]
    process.kill()
    process.wait()
    lease_devices("cpu", 1, print, timeout_s=1, poll_s=0.05).release()


def test_a_child_that_inherits_the_locks_keeps_the_lease() -> None:
    held = lease_devices("cpu", 1, print)
    child = subprocess.Popen(["sleep", "60"], pass_fds=held.descriptors)
    held.release()
    with pytest.raises(LeaseHeldError):
        lease_devices("cpu", 1, print, timeout_s=0)
    child.kill()
    child.wait()
    lease_devices("cpu", 1, print, timeout_s=0).release()


@pytest.mark.parametrize("kind", ["GPU", "MIG"])
def test_gpus_side_by_side_share_the_cores_and_never_a_gpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "visible_gpus", lambda: [f"{kind}-{name}" for name in "abcd"])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    leases = [lease_devices("cuda", 2, print, timeout_s=0) for _ in range(2)]
    assert [held.gpus for held in leases] == [[f"{kind}-a", f"{kind}-b"], [f"{kind}-c", f"{kind}-d"]]
    assert [(held.engine_cores, held.client_core) for held in leases] == [
        (list(range(7)), 7),
        (list(range(8, 15)), 15),
    ]
    with pytest.raises(LeaseHeldError, match="2 GPUs are needed"):
        lease_devices("cuda", 2, print, timeout_s=0)
    for held in leases:
        held.release()


def test_what_was_taken_of_too_little_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "visible_gpus", lambda: ["GPU-a", "GPU-b"])
    first = lease_devices("cuda", 1, print)
    with pytest.raises(LeaseHeldError):
        lease_devices("cuda", 2, print, timeout_s=0)
    second = lease_devices("cuda", 1, print, timeout_s=0) if len(os.sched_getaffinity(0)) > 3 else None
    assert second is None or second.gpus == ["GPU-b"]
    for held in filter(None, (first, second)):
        held.release()


def test_slurms_own_choice_of_gpus_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs on two nodes of one box have GPUs of one index, which are not one GPU."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    monkeypatch.setattr(gpu, "handles", no_nvml)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    first = lease_devices("cuda", 1, print, timeout_s=0)
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    second = lease_devices("cuda", 1, print, timeout_s=0)
    assert first.gpus == second.gpus == ["0"]
    for held in (first, second):
        held.release()


def no_nvml(_: object) -> list[object]:
    raise gpu.GpuUnavailableError("NVML: not here")


def test_no_gpu_and_too_few_are_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "handles", no_nvml)
    with pytest.raises(DevicesUnavailableError, match="no GPU can be found here"):
        lease_devices("cuda", 1, print)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(DevicesUnavailableError, match="4 GPUs are needed and 2 are visible"):
        lease_devices("cuda", 4, print)


def test_an_owner_survives_being_written() -> None:
    mine = Owner.current()
    assert Owner.from_json(mine.to_json()) == mine
    assert Owner.from_json("") is None
    assert Owner.from_json(json.dumps({**asdict(mine), "pid": 1}).replace('"pid"', '"other"')) is None
    assert mine.is_alive() is True
