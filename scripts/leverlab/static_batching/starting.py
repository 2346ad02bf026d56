"""Loading the model and serving it."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

from leverlab.static_batching import STATIC_VERSION
from leverlab.static_batching.generation import Model, Tokenizer
from leverlab.static_batching.listening import KEY_VARIABLE, bound, leave_on_signals
from leverlab.static_batching.server import StaticServer
from leverlab.static_batching.settings import Settings

_SWITCH_S: Final = 0.0005
"""How long the generating thread may hold Python's lock against the one that sends; Python's default is 5 ms."""


def serve(settings: Settings) -> int:
    """Load the model and serve it until SIGINT or SIGTERM; the exit status. Its log says why it could not start."""
    leave_on_signals()
    print(f"static batching {STATIC_VERSION}: {settings.public()}", file=sys.stderr, flush=True)
    listener = bound(settings.host, settings.port)
    if listener is None:
        return 1
    try:
        model, tokenizer = Model(settings), Tokenizer(Path(settings.model))
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"loaded: {model.facts()}", file=sys.stderr, flush=True)
    sys.setswitchinterval(_SWITCH_S)
    server = StaticServer(settings, model, tokenizer, os.environ.get(KEY_VARIABLE))
    asyncio.run(server.serve(listener))
    return 0
