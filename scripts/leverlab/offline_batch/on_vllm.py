"""vLLM's `LLM`, made of the flags of a server, and one batch through its `generate`.

vLLM is imported by name where it is used: it is not in the pipeline's environment, and takes seconds.
"""

import argparse
import dataclasses
import importlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from leverlab.offline_batch.generation import Answered, Done, Given, Wanted


def parsed(arguments: Sequence[str]) -> Given:
    """`arguments` by the parser of `vllm serve`. Exits with status 2 and the parser's words where it refuses them."""
    parser = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser(prog="vllm")
    serve = importlib.import_module("vllm.entrypoints.cli.serve").ServeSubcommand()
    given: argparse.Namespace = serve.subparser_init(parser.add_subparsers()).parse_args(list(arguments))
    given.model = given.model_tag or given.model
    return Given(given.host, given.port, given.served_model_name[0], partial(Model, given))


class Model:
    """The engine of a server's flags. Raises what vLLM raises where it refuses them, or has no memory."""

    def __init__(self, given: argparse.Namespace) -> None:
        vllm = importlib.import_module("vllm")
        arguments = vllm.EngineArgs.from_cli_args(given)
        self._llm: Any = vllm.LLM(
            **{field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
        )
        self._sampling = vllm.SamplingParams
        self._tokenizer: Any = self._llm.get_tokenizer()
        self._configuration: Any = self._llm.llm_engine.vllm_config
        self.version = str(vllm.__version__)
        self.context_tokens = int(self._configuration.model_config.max_model_len)
        self.vocabulary = int(self._configuration.model_config.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """See `leverlab.static_batching.api.Tokenizer`."""
        return list(self._tokenizer(text)["input_ids"])

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """Raises NotImplementedError: an offline batch is of prompts."""
        raise NotImplementedError

    def generate(self, batch: Sequence[Wanted]) -> Done:
        """One call of `LLM.generate` with all of `batch`, greedily; with a prompt that is a text its tokenization is in the time."""
        prompts = [
            one.prompt if isinstance(one.prompt, str) else {"prompt_token_ids": list(one.prompt)} for one in batch
        ]
        sampling = [
            self._sampling(temperature=0, max_tokens=one.output_tokens, ignore_eos=one.ignore_end) for one in batch
        ]
        called_ns = time.monotonic_ns()
        outputs = self._llm.generate(prompts, sampling, use_tqdm=False)
        returned_ns = time.monotonic_ns()
        return Done(called_ns, returned_ns, [_answered(output) for output in outputs])

    def reset_prefix_cache(self, *, tiers: bool) -> bool:
        """Empty the prefix cache and, with `tiers`, what a connector keeps below it; whether the engine says that it did."""
        return bool(self._llm.reset_prefix_cache(reset_connector=tiers))

    def metrics(self) -> bytes:
        """What the engine counts, as `/metrics` of a server has it."""
        text: bytes = importlib.import_module("prometheus_client").generate_latest()
        return text

    def told(self) -> Mapping[str, Any]:
        """Configuration and variables, as `/server_info` of a server has them."""
        adapter = importlib.import_module("pydantic").TypeAdapter(type(self._configuration))
        variables = importlib.import_module("vllm.envs")
        names = [name for name in dir(variables) if name.startswith("VLLM_") and "KEY" not in name]
        values = {name: getattr(variables, name, None) for name in names}
        return {
            "vllm_config": adapter.dump_python(self._configuration, mode="json", fallback=str),
            "vllm_env": {
                name: value if isinstance(value, bool | int | float | str) else str(value)
                for name, value in values.items()
                if value is not None
            },
        }


def _answered(output: Any) -> Answered:  # noqa: ANN401 - vLLM's RequestOutput
    [completion] = output.outputs
    kept = output.metrics
    return Answered(
        prompt_tokens=len(output.prompt_token_ids),
        tokens=list(completion.token_ids),
        text=completion.text,
        cached_tokens=output.num_cached_tokens,
        finish_reason=str(completion.finish_reason),
        first_token_s=getattr(kept, "first_token_ts", None) or None,
        last_token_s=getattr(kept, "last_token_ts", None) or None,
    )
