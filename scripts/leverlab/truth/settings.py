"""What the truth engine is told on its command line."""

import argparse
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Settings:
    """The engine's whole configuration; times in seconds. The command line's help is made from `_HELP`."""

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str = "truth"
    seed: int = 0
    ttft: float = 0.05
    prefill_per_token: float = 0.0
    gap: float = 0.01
    tokens_per_chunk: int = 1
    natural_tokens: int = 0
    max_num_seqs: int = 1024
    enable_prefix_caching: bool = True
    block_size: int = 16
    enable_prompt_tokens_details: bool = False
    truth_log: str | None = None
    startup_s: float = 0.0
    exit_after_requests: int = 0
    refuse: str | None = None
    http_error_every: int = 0
    http_error_status: int = 500
    silent_every: int = 0
    no_tokens_every: int = 0
    short_every: int = 0
    stop_every: int = 0
    cut_every: int = 0
    malformed_every: int = 0
    usage: bool = True
    wrong_usage_by: int = 0
    refuse_reset: bool = False
    keep_cache_on_reset: bool = False
    empty_text_every: int = 0
    split_chunks: bool = False

    def public(self) -> dict[str, Any]:
        """The configuration as it is shown at /leverlab/config."""
        return asdict(self)


_HELP = {
    "host": "address to listen on",
    "port": "port to listen on",
    "served_model_name": "the model's name in the interface",
    "seed": "decides the words and the natural lengths",
    "ttft": "seconds from a request's admission to its first chunk, without prefill",
    "prefill_per_token": "seconds added to that for each prompt token that is not in the prefix cache",
    "gap": "seconds between the chunks of a stream",
    "tokens_per_chunk": "tokens in a chunk, as with speculative decoding",
    "natural_tokens": "mean length at which generation ends by itself unless ignore_eos is asked for; 0: never",
    "max_num_seqs": "requests served at a time; others wait, first in, first out",
    "enable_prefix_caching": "keep the prompts' blocks and charge no prefill for those seen before",
    "block_size": "tokens in a block of the prefix cache; only whole blocks are found again",
    "enable_prompt_tokens_details": "report cached tokens in the last usage",
    "truth_log": "file for the true instant of every send (FILE and FILE.requests); see leverlab.truth.log",
    "startup_s": "seconds before the server answers at all",
    "exit_after_requests": "die once this many requests have ended, cutting the others; 0: never",
    "refuse": "refuse to start, with this text as the error",
    "http_error_every": "refuse every n-th request with --http-error-status; 0: none (this and all faults below spare warm-up requests)",
    "http_error_status": "HTTP status of these refusals: 500, 429, 503, …",
    "silent_every": "take every n-th request in and never answer it; 0: none",
    "no_tokens_every": "end every n-th answer without a token; 0: none",
    "short_every": "generate half of the tokens that every n-th request asks for; 0: none",
    "stop_every": "end every n-th answer half-way by itself, whatever ignore_eos says; 0: none",
    "cut_every": "close the connection half-way through every n-th answer; 0: none",
    "malformed_every": "send an event that is no JSON half-way through every n-th answer; 0: none",
    "usage": "report usage where it is asked for",
    "wrong_usage_by": "report so many tokens too many in the last usage",
    "refuse_reset": "refuse to reset the prefix cache",
    "keep_cache_on_reset": "say that the prefix cache was reset, and keep it",
    "empty_text_every": "give every n-th token an empty text, as random weights do; 0: none",
    "split_chunks": "send each chunk in two segments, cut inside a character where it holds one of several bytes",
}

_AT_LEAST = {
    "max_num_seqs": 1,
    "block_size": 1,
    "tokens_per_chunk": 1,
    "ttft": 0,
    "gap": 0,
    "prefill_per_token": 0,
    "startup_s": 0,
    "http_error_status": 400,
}


def parse_settings(arguments: list[str]) -> Settings:
    """The settings that `arguments` ask for. Exits with status 2 and a message for what is not known or not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m leverlab.truth",
        description="A streaming server with declared times that logs when it really sent. The API key, if any, is taken "
        "from LEVERLAB_API_KEY.",
        epilog="example: python -m leverlab.truth --port 8000 --ttft 0.05 --gap 0.01 --truth-log truth.log",
        allow_abbrev=False,
    )
    for field in fields(Settings):
        name = "--" + field.name.replace("_", "-")
        text = f"{_HELP[field.name]} (default: %(default)s)"
        if field.type is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default, help=text)
        else:
            kind = field.type if field.type in (int, float) else str
            parser.add_argument(name, type=kind, default=field.default, help=text)
    values = vars(parser.parse_args(arguments))
    for name, least in _AT_LEAST.items():
        if values[name] < least:
            parser.error(f"--{name.replace('_', '-')} {values[name]}: must be at least {least}")
    if values["truth_log"] is not None and not Path(values["truth_log"]).parent.is_dir():
        parser.error(f"--truth-log {values['truth_log']}: there is no such folder; make it first")
    return Settings(**values)
