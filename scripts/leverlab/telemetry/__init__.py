"""What is observed while a phase is measured: the GPUs, the host, and the server's own counters."""

from leverlab.telemetry.sampling import Sampling
from leverlab.telemetry.server_metrics import difference, snapshot

__all__ = ["Sampling", "difference", "snapshot"]
