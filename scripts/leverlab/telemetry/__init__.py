"""What is observed while a phase is measured: the GPUs, the host, and the server's own counters."""

from leverlab.telemetry.sampling import Sampling
from leverlab.telemetry.server_metrics import difference

__all__ = ["Sampling", "difference"]
