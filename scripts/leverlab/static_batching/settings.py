"""What the static-batching server is told on its command line."""

import argparse
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

Stream = Literal["step", "end"]

_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "device": ("cpu", "cuda"),
    "load_format": ("auto", "dummy"),
    "dtype": ("auto", "bfloat16", "float16", "float32"),
    "attn_implementation": ("sdpa", "eager"),
    "stream": ("step", "end"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The server's whole configuration; times in seconds. The command line's help is made from `_HELP`."""

    model: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str = "model"
    device: str = "cpu"
    load_format: str = "auto"
    dtype: str = "auto"
    attn_implementation: str = "sdpa"
    seed: int = 0
    max_model_len: int = 0
    max_batch_size: int = 16
    batch_wait: float = 0.05
    stream: Stream = "end"

    def public(self) -> dict[str, Any]:
        """The configuration as it is shown at /server_info."""
        return asdict(self)


_HELP: Final = {
    "model": "folder with config.json, a tokenizer and, unless --load-format dummy, weights",
    "host": "address to listen on",
    "port": "port to listen on; 0: any that is free",
    "served_model_name": "the model's name in the interface",
    "device": "what to compute on; cuda: the first GPU that is visible",
    "load_format": "dummy: random weights of the model's shape, drawn from --seed",
    "dtype": "type of weights and KV cache; auto: the model's own",
    "attn_implementation": "transformers' attention",
    "seed": "decides the dummy weights",
    "max_model_len": "most tokens of a prompt and its output together; 0: as many as the model has positions for",
    "max_batch_size": "most requests in a batch",
    "batch_wait": "seconds that the request which has waited longest waits for a batch to fill",
    "stream": "when tokens are sent: end: with the end of their batch, which is when `generate` returns; step: with the end of "
    "the step that made them",
}
_AT_LEAST: Final = {"port": 0, "max_model_len": 0, "max_batch_size": 1, "batch_wait": 0}


def parse_settings(arguments: list[str]) -> Settings:
    """The settings that `arguments` ask for. Exits with status 2 and a message for what is not known or not possible."""
    parser = argparse.ArgumentParser(
        prog="static_batching",
        description="An OpenAI-compatible server that batches statically, with transformers' `generate`. The API key, if any, "
        "is taken from LEVERLAB_API_KEY.",
        epilog="example: python scripts/leverlab/static_batching/__main__.py --model results/models/tiny-llama "
        "--load-format dummy --max-batch-size 8",
        allow_abbrev=False,
    )
    for setting in fields(Settings):
        kind = setting.type if setting.type in (int, float) else str
        parser.add_argument(
            "--" + setting.name.replace("_", "-"),
            type=kind,
            choices=_CHOICES.get(setting.name),
            default=setting.default,
            help=f"{_HELP[setting.name]} (default: {setting.default})",
        )
    values = vars(parser.parse_args(arguments))
    for name, least in _AT_LEAST.items():
        if not least <= values[name] < math.inf:
            parser.error(f"--{name.replace('_', '-')} {values[name]}: must be at least {least}, and finite")
    if not values["model"]:
        parser.error("--model: name the folder of the model")
    return Settings(**values)
