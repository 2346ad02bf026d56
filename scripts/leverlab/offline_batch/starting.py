"""Making the engine and taking batches."""

import os
import signal
import socket
import sys
from types import FrameType
from typing import Final

from leverlab.offline_batch.front import Front
from leverlab.offline_batch.generation import Model, parsed

KEY_VARIABLE: Final = "LEVERLAB_API_KEY"


def serve(arguments: list[str]) -> int:
    """Make the engine of `arguments`, those of `vllm serve`, and take batches until SIGINT or SIGTERM; the exit status.

    The engine is made and asked in the calling thread, as in a script of vLLM's.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    api_key = os.environ.pop(KEY_VARIABLE, None)
    given = parsed(arguments)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        # Bound first, which costs nothing, and not yet listening: nobody can connect to an engine that is still being made.
        listener.bind((given.host, given.port))
    except OSError as error:
        print(f"cannot listen on {given.host}:{given.port}: {error}; choose a free --port", file=sys.stderr)
        return 1
    front = Front(Model(given), given.served_model_name[0], api_key)
    front.start(listener)
    print(f"takes batches on {given.host}:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    while True:
        front.line.get().run()


def _leave(_: int, __: FrameType | None) -> None:
    sys.exit(0)
