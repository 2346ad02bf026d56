"""Exclusive leases: on a server's replicate in the results folder, and on this machine's GPUs and cores.

Two runs of Snakemake, or one that was killed and its successor, may want the same place at once. A lease names the
process that holds it. While that one lives it is respected; once it is dead the next takes over.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from leverlab.layout import Layout
from leverlab.telemetry.gpu import GpuUnavailableError, visible_gpus
from leverlab.trial.owner import Owner

Log = Callable[[str], None]

_POLL_S: Final = 2.0


class LeaseHeldError(Exception):
    """Somebody else holds what is wanted, and the time to wait is over. The message names who, and the remedy."""


class DevicesUnavailableError(Exception):
    """What is asked for is not on this machine, or not in this job's share of it."""


@contextmanager
def replicate_lease(
    layout: Layout,
    server: str,
    replicate: str,
    log: Log,
    timeout_s: float | None = None,
    poll_s: float = _POLL_S,
) -> Iterator[Owner]:
    """Hold the lease on a server's replicate: nobody else measures it meanwhile, from whatever node. See `file_lease`."""
    with file_lease(layout.lease(server, replicate), log, timeout_s, poll_s) as owner:
        yield owner


@contextmanager
def file_lease(path: Path, log: Log, timeout_s: float | None = None, poll_s: float = _POLL_S) -> Iterator[Owner]:
    """Hold the lease `path` on the folder in which it is.

    Waits for an owner that lives, at most `timeout_s` (None: as long as it takes), and tells `log` for whom. Raises
    LeaseHeldError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = Owner.current()
    _wait(lambda: _obstacle(path, mine), log, timeout_s, poll_s)
    try:
        yield mine
    finally:
        holder = _read(path)
        if holder is not None and holder.token == mine.token:
            path.unlink(missing_ok=True)


def _wait(attempt: Callable[[], str | None], log: Log, timeout_s: float | None, poll_s: float) -> None:
    """Call `attempt` until it returns None; what it returns otherwise says what is waited for, and is told once."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    told = None
    while (obstacle := attempt()) is not None:
        if end is not None and time.monotonic() >= end:
            raise LeaseHeldError(obstacle)
        if obstacle != told:
            log(f"{obstacle} Waiting.")
            told = obstacle
        time.sleep(poll_s)


def _obstacle(path: Path, mine: Owner) -> str | None:
    """None once `path` names `mine`; otherwise who holds it.

    A lease comes into being whole, by a link to a finished file. The right to succeed a dead owner is itself taken by
    such a link, under a name made of that owner's token, which only one process can make. It then looks again whether
    the lease is still the dead one's: otherwise a slow process could replace the lease of a successor that was quicker.
    """
    draft = path.with_name(f".{path.name}.{mine.token}")
    draft.write_text(mine.to_json(), encoding="utf-8")
    claims: list[Path] = []
    try:
        if _link(draft, path):
            return None
        first = holder = _read(path)
        while holder is not None:
            alive = holder.is_alive()
            if alive is not False:
                return _held(path, holder, certain=alive is True)
            claim = path.with_name(f".{path.name}.{holder.token}.taken")
            claims.append(claim)
            if _link(draft, claim):
                break
            holder = _read(claim)
        now = _read(path)
        if first is None or holder is None or now is None or now.token != first.token:
            if holder is not None:
                claims[-1].unlink(missing_ok=True)
            return None if now is not None and now.token == mine.token else f"{path} is just changing hands."
        draft.replace(path)
        for claim in claims:
            claim.unlink(missing_ok=True)
        return None
    finally:
        draft.unlink(missing_ok=True)


def _link(draft: Path, name: Path) -> bool:
    """Give the finished file `draft` a second name, unless somebody has that name."""
    try:
        os.link(draft, name)
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> Owner | None:
    with suppress(OSError):
        return Owner.from_json(path.read_text(encoding="utf-8"))
    return None


def _held(path: Path, holder: Owner, *, certain: bool) -> str:
    if certain:
        return f"{path.parent} is being measured by {holder}."
    return (
        f"{path.parent} is being measured by {holder}, and whether it lives cannot be seen from here. If it is gone, "
        f"delete {path}."
    )


@dataclass(slots=True)
class DeviceLease:
    """GPUs and cores that nobody else of this user measures on. Leave it by `release` or a `with` block."""

    gpus: list[str]
    """UUIDs, or indices where there is no NVML. Empty for an engine that computes on the CPU."""
    engine_cores: list[int]
    client_core: int
    shared_core: bool
    """Engine and client share the only core there is: what is measured must carry a caution."""
    descriptors: list[int] = field(repr=False)
    """The locks. A process that inherits them keeps the lease alive after this one has died."""

    @property
    def client_cores(self) -> list[int]:
        """The client's core, as a set of cores."""
        return [self.client_core]

    def release(self) -> None:
        """Give everything back."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()


def lease_devices(
    device: str, gpu_count: int, log: Log, timeout_s: float | None = None, poll_s: float = _POLL_S
) -> DeviceLease:
    """Lease what a server needs: for `cuda` its GPUs and their share of the cores, for `cpu` all cores; one is the client's.

    Only what this process may use is taken: CUDA_VISIBLE_DEVICES, its CPU affinity, in a Slurm job the allocated number
    of CPUs. Waits while another process of this user holds it, and tells `log` who. Raises DevicesUnavailableError, and
    LeaseHeldError after `timeout_s`.
    """
    gpus = _candidates(gpu_count) if device == "cuda" else []
    allowed = sorted(os.sched_getaffinity(0))
    wanted = _core_count(len(allowed), gpu_count, len(gpus)) if device == "cuda" else _allocated(len(allowed))
    least = min(2, len(allowed)) if device == "cuda" else wanted
    folder = _lock_folder()
    taken: list[DeviceLease] = []

    def attempt() -> str | None:
        # One process at a time chooses, so that two never hold half of what each needs.
        with _Locks(folder, poll_s) as locks:
            held_gpus = locks.take(((f"gpu-{_scope(name)}{name}", name) for name in gpus), gpu_count)
            if len(held_gpus) < (gpu_count if device == "cuda" else 0):
                return f"{gpu_count} GPUs are needed, and {locks.holder} measures on one of {len(gpus)}."
            cores = [int(name) for name in locks.take(((f"core-{core}", str(core)) for core in allowed), wanted)]
            if len(cores) < least:
                return f"{least} cores are needed, and {locks.holder} measures on some of {len(allowed)}."
            taken.append(
                DeviceLease(
                    gpus=held_gpus,
                    engine_cores=cores[:-1] or cores,
                    client_core=cores[-1],
                    shared_core=len(cores) == 1,
                    descriptors=locks.keep(),
                )
            )
            return None

    _wait(attempt, log, timeout_s, poll_s)
    return taken[0]


def _candidates(gpu_count: int) -> list[str]:
    try:
        gpus = visible_gpus()
    except GpuUnavailableError as error:
        raise DevicesUnavailableError(
            f"no GPU can be found here ({error}): run on a machine with GPUs, or choose gpus: [cpu] in the study"
        ) from error
    if len(gpus) < gpu_count:
        raise DevicesUnavailableError(
            f"{gpu_count} GPUs are needed and {len(gpus)} are visible here (CUDA_VISIBLE_DEVICES="
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'unset')}): see config/gpus.yaml and the profile"
        )
    return gpus


def _scope(gpu: str) -> str:
    """Before the index of a GPU: Slurm may call different GPUs by one index in different jobs, and keeps them apart."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"slurm{job}-" if job and gpu.isdigit() else ""


def _allocated(allowed: int) -> int:
    """CPUs of this job on this node, where Slurm does not bind it to them; all that are allowed otherwise."""
    cpus = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return min(allowed, int(cpus)) if cpus.isdigit() and int(cpus) > 0 else allowed


def _core_count(allowed: int, gpu_count: int, visible: int) -> int:
    """The cores that go with `gpu_count` of the visible GPUs, at least two: so that all GPUs can be used side by side."""
    return min(allowed, max(2, _allocated(allowed) * gpu_count // visible))


def _lock_folder() -> Path:
    """A folder of this user's on this machine. Raises DevicesUnavailableError where it is not theirs."""
    folder = Path(tempfile.gettempdir()) / f"leverlab-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise DevicesUnavailableError(f"{folder} is not this user's: remove it, or set TMPDIR")
    return folder


class _Locks:
    """Locks in a folder, of which those not kept are given back when the block ends."""

    def __init__(self, folder: Path, patience_s: float) -> None:
        self._folder = folder
        self._patience_s = patience_s
        self._held: list[int] = []
        self.holder = "another process"

    def __enter__(self) -> Self:
        self._choosing = os.open(self._folder / "choosing.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._choosing, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for descriptor in self._held:
            os.close(descriptor)
        os.close(self._choosing)

    def take(self, names: Iterator[tuple[str, str]], most: int) -> list[str]:
        """Lock at most `most` of `names` (of the lock, of what it stands for); what was free."""
        taken: list[str] = []
        for lock, meant in names:
            if len(taken) == most:
                break
            descriptor = os.open(self._folder / f"{lock}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = Owner.from_json(os.pread(descriptor, 1 << 16, 0).decode())
                self.holder = str(holder or self.holder)
                os.close(descriptor)
                continue
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, Owner.current().to_json().encode(), 0)
            self._held.append(descriptor)
            taken.append(meant)
        return taken

    def keep(self) -> list[int]:
        """Hand the locks over to the caller."""
        held, self._held = self._held, []
        return held
