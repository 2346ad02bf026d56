"""What the truth engine is told on its command line."""

import argparse
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from leverlab.truth.distributions import FORMS_TEXT, Distribution, constant, parse_distribution


@dataclass(frozen=True, slots=True)
class Settings:
    """The engine's whole configuration; times in seconds. The command line's help is made from `_HELP`.

    What is drawn is drawn from the seed, the request's id and its prompt: the same whatever came before it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str = "truth"
    seed: int = 0
    ttft: Distribution = field(default_factory=lambda: constant(0.05))
    prefill_per_token: float = 0.0
    serial_prefill: bool = False
    gap: Distribution = field(default_factory=lambda: constant(0.01))
    gap_per_stream: float = 0.0
    tokens_per_chunk: int = 1
    acceptance: float = 1.0
    natural_tokens: int = 0
    solves: float = 0.0
    max_num_seqs: int = 1024
    enable_prefix_caching: bool = True
    block_size: int = 16
    tier: bool = False
    restore_per_token: float = 0.0
    tier_file: str | None = None
    enable_prompt_tokens_details: bool = False
    kv_transfer_per_token: float = 0.0
    kv_bytes_per_token: int = 131072
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
    keep_tier_on_reset: bool = False
    ignore_flag: str | None = None
    pause_at_request: int = 0
    pause_s: float = 0.0
    pause_is_logged: bool = True
    drift_per_s: float = 0.0
    reset_counters_at_request: int = 0
    empty_text_every: int = 0
    empty_first_chunk: bool = False
    split_chunks: bool = False
    split_json: bool = False
    stands_for: str = ""

    def public(self) -> dict[str, Any]:
        """The configuration as it is shown at /leverlab/config."""
        return asdict(self) | {"ttft": self.ttft.public(), "gap": self.gap.public()}


_HELP = {
    "host": "address to listen on",
    "port": "port to listen on",
    "served_model_name": "the model's name in the interface",
    "seed": "decides the words and the natural lengths",
    "ttft": f"seconds from a request's admission to its first chunk, without prefill: a number, or one of {FORMS_TEXT}",
    "prefill_per_token": "seconds added to that for each prompt token that is not in the prefix cache",
    "serial_prefill": "let prefills queue behind each other, as in one engine that computes one prompt at a time",
    "gap": "seconds between the chunks of a stream: a number or a distribution, as with --ttft, drawn for each chunk",
    "gap_per_stream": "seconds added to each gap for every other stream that has a seat then",
    "tokens_per_chunk": "most tokens in a chunk: one, and those that speculative decoding drafted",
    "acceptance": "probability that a drafted token is accepted, given that those before it were",
    "natural_tokens": "mean length at which generation ends by itself unless ignore_eos is asked for; 0: never",
    "solves": "answer a prompt that holds a sum (`3 + 4`) with its value, right with this probability, where no stream is asked for; 0: never",
    "max_num_seqs": "requests served at a time; others wait, first in, first out",
    "enable_prefix_caching": "keep the prompts' blocks and charge no prefill for those seen before",
    "block_size": "tokens in a block of the prefix cache; only whole blocks are found again",
    "tier": "keep the blocks also in a tier below the prefix cache, which a reset of that cache alone leaves as it is",
    "restore_per_token": "seconds that a prompt token costs which is found in the tier, instead of --prefill-per-token",
    "tier_file": "file in which the tier keeps its blocks' names, so that it outlives the engine",
    "enable_prompt_tokens_details": "report cached tokens in the last usage",
    "kv_transfer_per_token": "seconds that a prompt's token takes that a prefill server has computed and hands over",
    "kv_bytes_per_token": "bytes of KV cache that are counted for each of these tokens",
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
    "keep_tier_on_reset": "say that the tier was reset too, and keep it, as LMCache in vLLM's processes does",
    "ignore_flag": "take no notice of this flag: its default is in effect and is shown, as where a lever does not take",
    "pause_at_request": "make no progress for --pause-s from the n-th request on, as when a kernel is compiled; 0: never",
    "pause_s": "length of that pause in seconds",
    "pause_is_logged": "log the pause in the words in which vLLM logs a compilation",
    "drift_per_s": "share by which times to first token and gaps grow with every second since the first request",
    "reset_counters_at_request": "let the counters of /metrics begin again at the n-th request; 0: never",
    "empty_text_every": "give every n-th token an empty text, as random weights do; 0: none",
    "empty_first_chunk": "send a first chunk without a token as soon as a request has its seat",
    "split_chunks": "send each chunk in two segments, cut inside a character where it holds one of several bytes",
    "split_json": "send each chunk in two segments, cut at the beginning of a JSON string",
    "stands_for": "levels of levers that nothing here can stand in for: a name that changes nothing",
}

_AT_LEAST = {
    "max_num_seqs": 1,
    "block_size": 1,
    "tokens_per_chunk": 1,
    "prefill_per_token": 0,
    "kv_transfer_per_token": 0,
    "kv_bytes_per_token": 0,
    "gap_per_stream": 0,
    "restore_per_token": 0,
    "acceptance": 0,
    "solves": 0,
    "pause_s": 0,
    "drift_per_s": 0,
    "startup_s": 0,
    "http_error_status": 400,
}


def _distribution(text: str) -> Distribution:
    try:
        return parse_distribution(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_READ: dict[Any, Any] = {int: int, float: float, Distribution: _distribution}
"""How the value of a flag is read, by the type of its field; as text where the type is not here."""


def parse_settings(arguments: list[str]) -> Settings:
    """The settings that `arguments` ask for. Exits with status 2 and a message for what is not known or not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m leverlab.truth",
        description="A streaming server with declared times that logs when it really sent. The API key, if any, is taken "
        "from LEVERLAB_API_KEY.",
        epilog="example: python -m leverlab.truth --port 8000 --ttft 0.05 --gap 0.01 --truth-log truth.log",
        allow_abbrev=False,
    )
    defaults = {setting.name: getattr(Settings(), setting.name) for setting in fields(Settings)}
    shown = Settings().public()
    for setting in fields(Settings):
        name = "--" + setting.name.replace("_", "-")
        text = f"{_HELP[setting.name]} (default: {shown[setting.name]})"
        if setting.type is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=defaults[setting.name], help=text)
        else:
            parser.add_argument(name, type=_READ.get(setting.type, str), default=defaults[setting.name], help=text)
    values = vars(parser.parse_args(arguments))
    for name, least in _AT_LEAST.items():
        if values[name] < least:
            parser.error(f"--{name.replace('_', '-')} {values[name]}: must be at least {least}")
    for name in ("acceptance", "solves"):
        if values[name] > 1:
            parser.error(f"--{name} {values[name]}: must be at most 1")
    if (ignored := values["ignore_flag"]) is not None:
        name = ignored.removeprefix("--").replace("-", "_")
        if name not in defaults:
            parser.error(f"--ignore-flag {ignored}: there is no such flag")
        values[name] = defaults[name]
    if values["truth_log"] is not None and not Path(values["truth_log"]).parent.is_dir():
        parser.error(f"--truth-log {values['truth_log']}: there is no such folder; make it first")
    return Settings(**values)
