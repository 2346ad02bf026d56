"""`python -m leverlab.truth`: start the truth engine."""

import os
import resource
import signal
import sys
import time

from leverlab.load.plan import KEY_VARIABLE
from leverlab.truth.server import TruthServer
from leverlab.truth.settings import parse_settings


def main(arguments: list[str]) -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = parse_settings(arguments)
    print(f"truth engine: {settings.public()}", file=sys.stderr, flush=True)
    if settings.refuse is not None:
        sys.exit(f"ValueError: {settings.refuse}")
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a descriptor a client
    time.sleep(settings.startup_s)
    try:
        server = TruthServer(settings, os.environ.get(KEY_VARIABLE))
    except OSError as error:
        sys.exit(f"cannot listen on {settings.host}:{settings.port}: {error}; choose a free --port")
    signal.signal(signal.SIGINT, lambda *_: server.stop())
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    print(f"listening on {settings.host}:{server.port}", file=sys.stderr, flush=True)
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
