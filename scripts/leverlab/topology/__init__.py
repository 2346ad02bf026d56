"""The processes of a server: what a topology declares of them, and how they are started, asked, reset and stopped."""

from leverlab.topology.confinement import confine
from leverlab.topology.counters import over_all
from leverlab.topology.declared import LOG_FILE, Plan, ProcessPlan
from leverlab.topology.ports import LOOPBACK, free_port
from leverlab.topology.processes import Part
from leverlab.topology.running import Progress, RunningServer, ServerEnded, StartTimeout, start, wait_ready
from leverlab.topology.servers import Servers
from leverlab.topology.topologies import engine_launches, launches_to_check

__all__ = [
    "LOG_FILE",
    "LOOPBACK",
    "Part",
    "Plan",
    "ProcessPlan",
    "Progress",
    "RunningServer",
    "ServerEnded",
    "Servers",
    "StartTimeout",
    "confine",
    "engine_launches",
    "free_port",
    "launches_to_check",
    "over_all",
    "start",
    "wait_ready",
]
