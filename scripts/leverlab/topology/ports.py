"""Ports on this machine that a server's processes listen on."""

import contextlib
import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"
_STEADY_FROM: Final = 15600
_STEADY_TO: Final = 16600
"""Below the ports that Linux hands out by itself (32768 and up), so that they are nearly always free."""


def free_port(host: str = LOOPBACK) -> int:
    """A port that was free a moment ago. Another process may take it first: then the server's log says `port_taken`."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = LOOPBACK) -> list[int]:
    """`count` different ports that were free a moment ago."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def steady_ports(count: int, host: str = LOOPBACK) -> list[int]:
    """`count` different free ports, the same at every start unless somebody has them.

    For what is part of the key under which an engine keeps compiled code, as vLLM's `VLLM_NIXL_SIDE_CHANNEL_PORT` is.
    Raises OSError where too few are free.
    """
    found: list[int] = []
    for port in range(_STEADY_FROM, _STEADY_TO):
        if len(found) == count:
            return found
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((host, port))
            found.append(port)
    raise OSError(f"{count} free ports are needed, and there are {len(found)} from {_STEADY_FROM} to {_STEADY_TO}")
