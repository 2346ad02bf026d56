"""Making the engine and taking batches."""

import importlib
import os
import sys
from typing import Final

from leverlab.offline_batch.front import Front
from leverlab.offline_batch.generation import Given
from leverlab.static_batching.listening import KEY_VARIABLE, bound, leave_on_signals

ENGINES: Final = ("vllm", "sglang")
"""Kinds of engines that there is a module `on_…` for."""


def serve(engine: str, arguments: list[str]) -> int:
    """Make the engine of `arguments`, those of its server, and take batches until SIGINT or SIGTERM; the exit status.

    `engine` is one of `ENGINES`. It is made and asked in the calling thread, as in a script of its own.
    """
    leave_on_signals()
    api_key = os.environ.pop(KEY_VARIABLE, None)
    given: Given = importlib.import_module(f"leverlab.offline_batch.on_{engine}").parsed(arguments)
    listener = bound(given.host, given.port)
    if listener is None:
        return 1
    model = given.make()
    # SGLang takes signals for itself, and heeds them only while it generates.
    leave_on_signals()
    front = Front(model, given.served_model_name, api_key)
    front.start(listener)
    print(f"takes batches on {given.host}:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    while True:
        front.line.get().run()
        leave_on_signals()
