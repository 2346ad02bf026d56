"""A real Slurm on one machine: several nodes with stand-in GPUs of two types, and one without.

Run as root on Debian with the packages ``slurmctld slurmd slurm-client munge``::

    python tests/slurm/one_box.py start | status | stop

or, in a test, ``with OneBoxSlurm(): ...``. Placement, counting, ``CUDA_VISIBLE_DEVICES``, time limits, signals and node
failures are Slurm's own; only the GPUs behind the numbers are missing. What is not said in the configuration stays at
Slurm's default (requeueing, ``MinJobAge``), because that is what a user's cluster most likely has. There is no
accounting database: that is the case in which Snakemake's Slurm plugin gets by only with the right settings.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
#: Inside a job Snakemake's jobstep plugin removes SLURM_CONF before it calls srun, so only the built-in place will do.
BUILT_IN_CONFIGURATION = Path("/etc/slurm")
CONFIGURATION_FILES = ("slurm.conf", "gres.conf")
FIRST_PORT = 26817
KILL_WAIT_S = 10
STATES_READY = {"idle", "mixed", "allocated"}


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """``nodes`` machines of one kind, called ``<name>-1`` and so on."""

    name: str
    nodes: int
    cpus: int
    memory_mb: int
    gpus: int = 0

    @property
    def node_names(self) -> list[str]:
        return [f"{self.name}-{number}" for number in range(1, self.nodes + 1)]

    @property
    def node_range(self) -> str:
        """The same names in Slurm's notation."""
        return f"{self.name}-[1-{self.nodes}]"


#: The name of a group with GPUs is also the type of its GPUs.
NODE_GROUPS = (
    NodeGroup("a100", nodes=2, cpus=32, memory_mb=512_000, gpus=4),
    NodeGroup("h100", nodes=2, cpus=64, memory_mb=1_024_000, gpus=8),
    NodeGroup("cpu", nodes=1, cpus=16, memory_mb=64_000),
)


def why_not_here() -> str | None:
    """One line that says why a one-box Slurm cannot run on this machine, or None where it can."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} missing): see docs/slurm.md for the packages"
    if os.geteuid() != 0:
        return "the one-box Slurm starts its daemons as root"
    for name in CONFIGURATION_FILES:
        path = BUILT_IN_CONFIGURATION / name
        if (path.exists() or path.is_symlink()) and not path.is_symlink():
            return f"{path} exists: this machine has a Slurm of its own, which is left alone"
    return None


def output_of(*command: str) -> str:
    """What a Slurm command prints; its error becomes the exception's text."""
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if finished.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {finished.stderr.strip()}")
    return finished.stdout


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float, poll_s: float = 0.1) -> None:
    """Return as soon as ``condition`` holds; TimeoutError with ``what`` otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(poll_s)


class OneBoxSlurm:
    """The cluster as a context manager. Everything it writes is under ``root``, but for two links in /etc/slurm."""

    def __init__(self, root: Path | None = None, groups: tuple[NodeGroup, ...] = NODE_GROUPS) -> None:
        self.root = root or Path(tempfile.gettempdir()) / "leverlab-one-box-slurm"
        self.groups = groups

    def __enter__(self) -> "OneBoxSlurm":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def node_names(self) -> list[str]:
        return [name for group in self.groups for name in group.node_names]

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemons that are not running and wait until every node is ready."""
        if reason := why_not_here():
            raise RuntimeError(reason)
        for name in ("etc", "state", "log", "run", "dev", "tmp"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        self._write_configuration()
        self._link_configuration()
        self._start_munge()
        if not self._is_running("slurmctld"):
            output_of("slurmctld")
        for node in self.node_names:
            if not self._is_running(f"slurmd-{node}"):
                output_of("slurmd", "-N", node)
        wait_until(self.is_ready, "all nodes of the one-box Slurm to be ready", timeout_s=30)

    def stop(self) -> None:
        """Cancel what runs, stop the daemons, remove every file. Safe to call twice."""
        with contextlib.suppress(RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            if self.is_answering():
                # A shutdown leaves the processes of running jobs behind; a cancelled job takes them along.
                output_of("scancel", "--quiet", "--user", "root")
                wait_until(lambda: not output_of("squeue", "--noheader").strip(), "jobs to end", KILL_WAIT_S + 20)
            output_of("scontrol", "shutdown")
        names = ["slurmctld", *(f"slurmd-{node}" for node in self.node_names), "munged"]
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not any(map(self._is_running, names[:-1])), "Slurm's daemons to end", timeout_s=10)
        for name in names:
            if self._is_running(name):
                os.kill(self._pid(name), 15)
        wait_until(lambda: not any(map(self._is_running, names)), "the daemons to end", timeout_s=10)
        for name in CONFIGURATION_FILES:
            link = BUILT_IN_CONFIGURATION / name
            if link.is_symlink() and link.readlink() == self.root / "etc" / name:
                link.unlink()
        shutil.rmtree(self.root, ignore_errors=True)

    def is_answering(self) -> bool:
        """Whether the controller replies."""
        return self._is_running("slurmctld") and "UP" in output_of("scontrol", "ping")

    def is_ready(self) -> bool:
        """Whether every node can take a job."""
        try:
            states = output_of("sinfo", "--noheader", "--Node", "--format=%T").split()
        except RuntimeError:
            return False
        return len(states) >= len(self.node_names) and set(states) <= STATES_READY

    def status(self) -> str:
        """Nodes and jobs, for a person."""
        if not self._is_running("slurmctld"):
            return "not running\n"
        nodes = output_of("sinfo", "--Node", "--format=%8N %10P %10T %4c %8m %G")
        return nodes + "\n" + output_of("squeue", "--format=%8i %10T %10M %8N %b %k")

    # -- what tests do to it -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def node_down(self, node: str) -> Iterator[None]:
        """Take a node away, as an administrator or a failure would, and give it back at the end."""
        output_of("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        try:
            yield
        finally:
            output_of("scontrol", "update", f"NodeName={node}", "State=RESUME")
            wait_until(self.is_ready, f"{node} to come back", timeout_s=30)

    # -- daemons -------------------------------------------------------------------------------------------------------

    def _start_munge(self) -> None:
        if self._is_running("munged"):
            return
        run = self.root / "run"
        key = run / "munge.key"
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        output_of(
            *("munged", "--force", f"--key-file={key}", f"--socket={run / 'munge.sock'}"),
            *(f"--pid-file={run / 'munged.pid'}", f"--seed-file={run / 'munge.seed'}"),
            f"--log-file={self.root / 'log' / 'munged.log'}",
        )

    def _pid(self, name: str) -> int:
        text = (self.root / "run" / f"{name}.pid").read_text().strip()
        return int(text) if text else -1

    def _is_running(self, name: str) -> bool:
        """Whether the daemon lives. A zombie, which nobody reaps where there is no init, does not."""
        try:
            status = Path(f"/proc/{self._pid(name)}/stat").read_text()
        except (OSError, ValueError):
            return False
        command, state = status.rpartition(")")[0].partition("(")[2], status.rpartition(")")[2].split()[0]
        return state not in "ZX" and command == name.partition("-")[0]

    # -- configuration -------------------------------------------------------------------------------------------------

    def _write_configuration(self) -> None:
        etc = self.root / "etc"
        (etc / "slurm.conf").write_text(self._slurm_conf())
        (etc / "gres.conf").write_text(self._gres_conf())
        # As on many clusters, each job has a folder for temporary files. Here it also keeps jobs on different stand-in
        # nodes, and whatever else runs on this machine, from waiting for each other's cores.
        prolog = etc / "task_prolog.sh"
        folder = f"{self.root}/tmp/$SLURM_JOB_ID"
        prolog.write_text(f'#!/bin/sh\nmkdir -p "{folder}"\necho "export TMPDIR={folder}"\n')
        prolog.chmod(0o755)

    def _link_configuration(self) -> None:
        BUILT_IN_CONFIGURATION.mkdir(exist_ok=True)
        for name in CONFIGURATION_FILES:
            link, target = BUILT_IN_CONFIGURATION / name, self.root / "etc" / name
            if link.is_symlink() and link.readlink() != target and link.exists():
                raise RuntimeError(f"{link} belongs to another one-box Slurm ({link.readlink()}): stop that one first")
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def _slurm_conf(self) -> str:
        host = socket.gethostname().partition(".")[0]
        run, log, state = (self.root / name for name in ("run", "log", "state"))
        lines = [
            "ClusterName=onebox",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={FIRST_PORT}",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            f"AuthInfo=socket={run / 'munge.sock'}",
            f"StateSaveLocation={state}",
            f"SlurmdSpoolDir={state}/%n",
            f"SlurmctldPidFile={run}/slurmctld.pid",
            f"SlurmdPidFile={run}/slurmd-%n.pid",
            f"SlurmctldLogFile={log}/slurmctld.log",
            f"SlurmdLogFile={log}/slurmd-%n.log",
            "ProctrackType=proctrack/linuxproc",  # no cgroups needed: works inside a container
            "TaskPlugin=task/none",
            f"TaskProlog={self.root}/etc/task_prolog.sh",
            "MpiDefault=none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            "DefMemPerCPU=1000",
            "SlurmdParameters=config_overrides",  # believe this file, not the machine's own cores and memory
            "GresTypes=gpu",
            "AccountingStorageType=accounting_storage/none",
            # Quick decisions: what a cluster does in half a minute is done here in a second.
            "SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=50000,bf_interval=1",
            f"KillWait={KILL_WAIT_S}",
        ]
        port = FIRST_PORT + 1
        for group in self.groups:
            gres = f" Gres=gpu:{group.name}:{group.gpus}" if group.gpus else ""
            lines.append(
                f"NodeName={group.node_range} NodeHostname={host} NodeAddr=127.0.0.1"
                f" Port=[{port}-{port + group.nodes - 1}] CPUs={group.cpus} RealMemory={group.memory_mb}{gres}"
            )
            port += group.nodes
        # One partition for every kind of node, as on many clusters: only the request can tell the GPUs apart.
        everything = ",".join(group.node_range for group in self.groups)
        lines.append(f"PartitionName=main Nodes={everything} Default=YES MaxTime=1-00:00:00")
        return "\n".join(lines) + "\n"

    def _gres_conf(self) -> str:
        lines = []
        for group in self.groups:
            if not group.gpus:
                continue
            for number in range(group.gpus):
                # Must resolve to a character device, or Slurm leaves CUDA_VISIBLE_DEVICES unset.
                device = self.root / "dev" / f"{group.name}-{number}"
                device.unlink(missing_ok=True)
                device.symlink_to("/dev/null")
            devices = f"{self.root}/dev/{group.name}-[0-{group.gpus - 1}]"
            lines.append(f"NodeName={group.node_range} Name=gpu Type={group.name} File={devices}")
        return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="A one-box Slurm with stand-in GPUs.")
    parser.add_argument("action", choices=["start", "stop", "status"])
    arguments = parser.parse_args()
    slurm = OneBoxSlurm()
    if arguments.action == "stop":
        slurm.stop()
        return 0
    if arguments.action == "start":
        if reason := why_not_here():
            print(f"one-box Slurm: {reason}", file=sys.stderr)
            return 1
        slurm.start()
    print(slurm.status(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
