"""`python -m leverlab.proxy`: start the proxy."""

import resource
import signal
import sys

from leverlab.proxy.server import ProxyServer
from leverlab.proxy.settings import parse_settings


def main(arguments: list[str]) -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = parse_settings(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # two descriptors a request
    try:
        server = ProxyServer(settings)
    except OSError as error:
        sys.exit(f"cannot listen on {settings.host}:{settings.port}: {error}; choose a free --port")
    signal.signal(signal.SIGINT, lambda *_: server.stop())
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    print(f"listening on {settings.host}:{server.port} before {settings}", file=sys.stderr, flush=True)
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1:])
