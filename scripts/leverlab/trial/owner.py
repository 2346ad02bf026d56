"""Who holds a lease, and whether that process still lives: on this machine, in Slurm, or where nobody here can tell."""

import getpass
import json
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from leverlab.scheduler import job_is_alive


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, so described that another one on the same file system can find out whether it lives."""

    token: str
    user: str
    host: str
    boot: str
    """The machine's boot id: processes do not survive a boot."""
    namespace: str
    """The namespace in which `pid` counts: containers have their own."""
    pid: int
    started: int
    """When the process began, in clock ticks since the boot: a number that is used again is another process."""
    slurm_job: str | None
    slurm_restart: int
    since: str

    @classmethod
    def current(cls) -> Self:
        """The calling process, with a token of its own for each call."""
        return cls(
            token=secrets.token_hex(8),
            user=getpass.getuser(),
            host=socket.gethostname(),
            boot=boot_id(),
            namespace=_namespace(),
            pid=os.getpid(),
            started=_started(os.getpid()) or 0,
            slurm_job=os.environ.get("SLURM_JOB_ID"),
            slurm_restart=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            since=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """The owner that a lease's file names; None where it names none, as it does while it is being written."""
        try:
            data: dict[str, Any] = json.loads(text)
            return cls(**{name: data[name] for name in cls.__slots__})
        except (ValueError, KeyError, TypeError):
            return None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def is_alive(self, ask_slurm: Callable[[str], bool | None] = job_is_alive) -> bool | None:
        """Whether the process lives; None where that cannot be found out from here: then take it for alive."""
        if self.host == socket.gethostname():
            if self.boot != boot_id():
                return False
            if self.namespace == _namespace():
                return _started(self.pid) == self.started
        if self.slurm_job is None:
            return None
        if self.slurm_job == os.environ.get("SLURM_JOB_ID"):
            # Slurm starts a job anew under its old number: what ran before that is gone.
            return False if self.slurm_restart < int(os.environ.get("SLURM_RESTART_COUNT", "0")) else None
        return ask_slurm(self.slurm_job)

    def __str__(self) -> str:
        job = f", Slurm job {self.slurm_job}" if self.slurm_job else ""
        return f"process {self.pid} of {self.user} on {self.host}{job}, since {self.since}"


def _started(pid: int) -> int | None:
    """When a living process began; None for one that is gone or only waits to be collected."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    return None


def boot_id() -> str:
    """What the kernel calls this start of the machine; empty where it does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _namespace() -> str:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""
