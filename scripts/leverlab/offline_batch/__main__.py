"""`python scripts/leverlab/offline_batch/__main__.py vllm MODEL FLAGS`: start the offline batch's program, by path.

SGLang's flags name the model: `… __main__.py sglang --model-path MODEL FLAGS`.
"""

import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Take batches until SIGINT or SIGTERM. `arguments` are the kind of engine and what its server is started with."""
    from leverlab.offline_batch.starting import ENGINES, serve

    if not arguments or arguments[0] not in ENGINES:
        sys.exit(f"name the engine first: {' or '.join(ENGINES)}")
    sys.exit(serve(arguments[0], arguments[1:]))


if __name__ == "__main__":
    # Started by path: Python looks into this folder first, whose modules have names that others may want. The engine's
    # environment does not have leverlab, which is therefore looked for last, so that nothing of the engine's is hidden.
    sys.path[:1] = []
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    main(sys.argv[1:])
