"""What all trials of a job share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leverlab.engines.base import Engine
from leverlab.layout import Layout
from leverlab.load.plan import PlannedRequest
from leverlab.records import JobSpecification
from leverlab.trial.lease import DeviceLease
from leverlab.trial.progress import Progress


@dataclass(frozen=True, slots=True)
class Job:
    """A job under way: what it is to measure, the engine's module, and the devices and cores that it has leased.

    `workloads` maps each `workload_file` of the specification to its requests. `check_lease` raises MayPassError once
    somebody else has taken over the server's replicate.
    """

    specification: JobSpecification
    layout: Layout
    engine: Engine
    devices: DeviceLease
    workloads: Mapping[str, Sequence[PlannedRequest]]
    check_lease: Callable[[], None]
    progress: Progress

    @property
    def client_cores(self) -> list[int]:
        """Where load clients run."""
        return [self.devices.client_core]
