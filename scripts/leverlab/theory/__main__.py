"""Print what theory says of a model on a GPU: `python -m leverlab.theory llama-3.1-8b h200`.

Without a GPU of all in config/gpus.yaml, without a model of all in config/models.yaml.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from leverlab.config import ConfigError, Configuration, load
from leverlab.config.base import nearest
from leverlab.config.topology import PrefillDecode
from leverlab.quantities import QUANTITIES
from leverlab.theory.configured import base_of_adapters, is_adapters, model_dimensions
from leverlab.theory.expected import expected
from leverlab.theory.occasion import Occasion
from leverlab.theory.server import TheoryServer
from leverlab.theory.shown import shown
from leverlab.theory.unknown import NotKnownError

BATCHES: Final = (1, 4, 16, 64)
_OF_A_WORKLOAD: Final = {"prefix_hit_ratio", "tokens_per_draft", "speculative_speedup"}
"""What follows from a study's prompts or from its speculation, and not from a model and a GPU."""


def tables(
    configuration: Configuration, models: Sequence[str], gpus: Sequence[str], options: argparse.Namespace
) -> str:
    """A table for each model and GPU: a row a quantity, a column a batch size; and why a quantity is missing."""
    return "\n\n".join("\n".join(_table(configuration, model, gpu, options)) for model in models for gpu in gpus)


def _table(configuration: Configuration, model: str, gpu: str, options: argparse.Namespace) -> Iterator[str]:
    count = options.gpus
    title = f"{model} on {count} × {gpu}" if count > 1 else f"{model} on {gpu}"
    yield f"{title}: prompts of {options.prompt} tokens, outputs of {options.output}"
    try:
        dimensions = model_dimensions(model, configuration)
    except NotKnownError as error:
        yield f"  nothing is known: {error}"
        return
    flags: dict[str, Any] = {"tensor-parallel-size": count, "gpu-memory-utilization": options.share}
    flags |= {"kv-cache-dtype": options.kv_dtype, "enable-prefix-caching": False}
    flags |= {"quantization": options.quantization} if options.quantization else {}
    server = TheoryServer(dimensions, gpu, configuration.gpus[gpu], count, "vllm", flags, {})
    # What one server hands over to another is told of two such.
    apart = dataclasses.replace(server, topology=PrefillDecode(connector="nixl"))
    rows: list[tuple[str, ...]] = [("", *(f"batch {batch}" for batch in BATCHES))]
    missing: dict[str, list[str]] = {}
    for name, quantity in QUANTITIES.items():
        if name in _OF_A_WORKLOAD:
            continue
        try:
            of = apart if name == "kv_transfer_s" else server
            values = [expected(name, of, _occasion(options, batch)) for batch in BATCHES]
        except NotKnownError as error:
            missing.setdefault(str(error), []).append(name)
            continue
        texts = [shown(quantity, value) for value in values]
        rows.append((name, texts[0], *([""] * 3 if len(set(texts)) == 1 else texts[1:])))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        yield f"  {'  '.join(cells)}".rstrip()
    for reason, names in missing.items():
        yield f"  not known ({', '.join(names)}): {reason}"


def _occasion(options: argparse.Namespace, batch: int) -> Occasion:
    return Occasion(prompts=(options.prompt,), outputs=(options.output,), running=float(batch))


def main() -> int:
    """Print the tables; 1, with a sentence, where a name is not known."""
    parser = argparse.ArgumentParser(prog="python -m leverlab.theory", description=__doc__)
    parser.add_argument("model", nargs="?", help="a name of config/models.yaml; default: every one")
    parser.add_argument("gpu", nargs="?", help="a name of config/gpus.yaml; default: every one")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs that share the model (tensor parallelism)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--output", type=int, default=128, help="tokens of an output")
    parser.add_argument("--share", type=float, default=0.9, help="share of the GPU's memory that the server takes")
    parser.add_argument("--quantization", help="how the weights are quantized, as vLLM calls it: fp8, awq, …")
    parser.add_argument("--kv-dtype", default="auto", help="type of the KV cache: auto, fp8, …")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of config/")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the command line, as JSON")
    options = parser.parse_args()
    try:
        configuration = load(options.root, {**options.settings, "study": []})
        for asked, known, file in (
            (options.model, configuration.models, "models"),
            (options.gpu, configuration.gpus, "gpus"),
        ):
            if asked is not None and asked not in known:
                raise ConfigError(f"there is no {asked!r} in config/{file}.yaml{nearest(asked, known)}")
        if options.model and (base := base_of_adapters(options.model, configuration)):
            raise ConfigError(f"{options.model} are LoRA adapters, which are served with their base: ask for {base}")
    except ConfigError as error:
        print(f"theory: {error}", file=sys.stderr)
        return 1
    served = [name for name in configuration.models if not is_adapters(name, configuration)]
    models = [options.model] if options.model else served
    print(tables(configuration, models, [options.gpu] if options.gpu else list(configuration.gpus), options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
