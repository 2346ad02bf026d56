"""SGLang's `Engine`, made of the flags of a server, and one batch through its `generate`.

SGLang is imported by name where it is used: it is not in the pipeline's environment, and takes seconds.
"""

import importlib
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from leverlab.offline_batch.generation import Answered, Done, Given, Wanted


def parsed(arguments: Sequence[str]) -> Given:
    """`arguments` by the parser of `sglang.launch_server`. Exits with status 2 and the parser's words where it refuses them."""
    given = importlib.import_module("sglang.srt.server_args").prepare_server_args(list(arguments))
    return Given(given.host, given.port, given.served_model_name, partial(Model, given))


class Model:
    """The engine of a server's flags. Raises what SGLang raises where it refuses them, or has no memory.

    It keeps no stamp of a token that is not streamed: of an answer that comes whole there is its end alone.
    """

    def __init__(self, given: Any) -> None:  # noqa: ANN401 - SGLang's ServerArgs
        self._engine: Any = importlib.import_module("sglang.srt.entrypoints.engine").Engine(server_args=given)
        manager = self._engine.tokenizer_manager
        self._tokenizer: Any = manager.tokenizer
        self.version = str(importlib.import_module("sglang.version").__version__)
        self.context_tokens = int(manager.model_config.context_len)
        self.vocabulary = int(manager.model_config.vocab_size)
        # Asked for here, as the engine answers in the thread that made it alone.
        self._told: Mapping[str, Any] = self._engine.get_server_info()

    def encode(self, text: str) -> list[int]:
        """See `leverlab.static_batching.api.Tokenizer`."""
        return list(self._tokenizer.encode(text))

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """Raises NotImplementedError: an offline batch is of prompts."""
        raise NotImplementedError

    def generate(self, batch: Sequence[Wanted]) -> Done:
        """One call of `Engine.generate` with all of `batch`, greedily; with prompts that are texts their tokenization is in the time."""
        texts = [one.prompt for one in batch if isinstance(one.prompt, str)]
        if len(texts) == len(batch):
            prompts: dict[str, Any] = {"prompt": texts}
        else:
            ids = [self.encode(one.prompt) if isinstance(one.prompt, str) else list(one.prompt) for one in batch]
            prompts = {"input_ids": ids}
        sampling = [
            {"temperature": 0, "max_new_tokens": one.output_tokens, "ignore_eos": one.ignore_end} for one in batch
        ]
        called_ns = time.monotonic_ns()
        outputs = self._engine.generate(**prompts, sampling_params=sampling)
        returned_ns = time.monotonic_ns()
        return Done(called_ns, returned_ns, [_answered(output) for output in outputs])

    def reset_prefix_cache(self, *, tiers: bool) -> bool:
        """Empty the radix cache; whether the engine says that it did. A hierarchical cache is emptied with it, with `tiers` or without."""
        return bool(self._engine.flush_cache().success)

    def metrics(self) -> bytes:
        """What the engine's processes count together, as `/metrics` of a server has it."""
        prometheus = importlib.import_module("prometheus_client")
        registry = prometheus.CollectorRegistry()
        importlib.import_module("prometheus_client.multiprocess").MultiProcessCollector(registry)
        text: bytes = prometheus.generate_latest(registry)
        return text

    def told(self) -> Mapping[str, Any]:
        """Arguments as they were resolved, as `/server_info` of a server has them; of the moment when the engine was made."""
        return self._told


def _answered(output: Mapping[str, Any]) -> Answered:
    kept = output["meta_info"]
    return Answered(
        prompt_tokens=kept["prompt_tokens"],
        tokens=output["output_ids"],
        text=output["text"],
        cached_tokens=kept.get("cached_tokens"),
        finish_reason=str(kept["finish_reason"]["type"]),
        first_token_s=None,
        last_token_s=None,
    )
