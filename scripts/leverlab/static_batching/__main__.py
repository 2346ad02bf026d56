"""`python scripts/leverlab/static_batching/__main__.py --help`: start the static-batching server, by path."""

import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Serve until SIGINT or SIGTERM."""
    from leverlab.static_batching.settings import parse_settings

    settings = parse_settings(arguments)
    # torch takes seconds to import, which a mistake on the command line or --help need not wait for.
    from leverlab.static_batching.starting import serve

    sys.exit(serve(settings))


if __name__ == "__main__":
    # Started by path: Python looks into this folder first, whose modules have names of the standard library's. The engine's
    # environment does not have leverlab, which is therefore looked for last, so that nothing of the engine's is hidden.
    sys.path[:1] = []
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    main(sys.argv[1:])
