"""`python scripts/leverlab/offline_batch/__main__.py MODEL FLAGS`: start the offline batch's program, by path."""

import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Take batches until SIGINT or SIGTERM. `arguments` are those of `vllm serve`."""
    from leverlab.offline_batch.starting import serve

    sys.exit(serve(arguments))


if __name__ == "__main__":
    # Started by path: Python looks into this folder first, whose modules have names that others may want. The engine's
    # environment does not have leverlab, which is therefore looked for last, so that nothing of the engine's is hidden.
    sys.path[:1] = []
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    main(sys.argv[1:])
