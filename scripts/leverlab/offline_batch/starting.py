"""Making the engine and taking batches."""

import os
import sys

from leverlab.offline_batch.front import Front
from leverlab.offline_batch.generation import Model, parsed
from leverlab.static_batching.listening import KEY_VARIABLE, bound, leave_on_signals


def serve(arguments: list[str]) -> int:
    """Make the engine of `arguments`, those of `vllm serve`, and take batches until SIGINT or SIGTERM; the exit status.

    The engine is made and asked in the calling thread, as in a script of vLLM's.
    """
    leave_on_signals()
    api_key = os.environ.pop(KEY_VARIABLE, None)
    given = parsed(arguments)
    listener = bound(given.host, given.port)
    if listener is None:
        return 1
    front = Front(Model(given), given.served_model_name[0], api_key)
    front.start(listener)
    print(f"takes batches on {given.host}:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    while True:
        front.line.get().run()
