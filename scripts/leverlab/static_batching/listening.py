"""How a server that runs in an engine's environment begins: the key that it is told, its port, and the signals that end it."""

import signal
import socket
import sys
from types import FrameType
from typing import Final

KEY_VARIABLE: Final = "LEVERLAB_API_KEY"


def leave_on_signals() -> None:
    """End the process, with status 0, at SIGINT and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def bound(host: str, port: int) -> socket.socket | None:
    """A socket that holds the port and does not listen yet; None, with a message on standard error, where the port is taken.

    Bound before the engine is made, which costs nothing: nobody can connect to one that is still being made.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        print(f"cannot listen on {host}:{port}: {error}; choose a free --port", file=sys.stderr)
        return None
    return listener


def _leave(_: int, __: FrameType | None) -> None:
    sys.exit(0)
