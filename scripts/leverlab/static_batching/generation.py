"""The model, its tokenizer, and one batch through transformers' `generate`.

`generate` itself is called, as its users call it, and not a decode loop of our own that would resemble it. It tells the
truth about each sequence through one hook: a stopping criterion, which `generate` asks after every step (in transformers
4.39 and later) with the tokens of all sequences, and which answers for each sequence whether it has ended. That is when a
step's tokens are known, and where a batch ends as soon as its longest output is done. A streamer would be no second way:
its place in the loop differs between versions, and it may lag a step behind. From then on `generate` feeds an ended
sequence padding, as for one that has said its end token.

The model's own sampling defaults are not used: decoding is greedy, and ends are the batch's business.
"""

import time
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers.decoders import DecodeStream

from leverlab.static_batching.batches import Batch, Stepped
from leverlab.static_batching.settings import Settings

_INVALID_PREFIX: Final = "Invalid prefix encountered"


class Model:
    """A causal language model on its device. Raises what torch and transformers raise where it cannot be loaded."""

    def __init__(self, settings: Settings) -> None:
        begun_s = time.monotonic()
        configuration = transformers.AutoConfig.from_pretrained(settings.model)
        text = configuration.get_text_config()
        self.context_tokens = settings.max_model_len or text.max_position_embeddings
        self.vocabulary = int(text.vocab_size)
        if self.context_tokens > text.max_position_embeddings:
            raise ValueError(
                f"--max-model-len {settings.max_model_len}: the model has {text.max_position_embeddings} positions"
            )
        how = {
            "dtype": configuration.dtype or torch.float32
            if settings.dtype == "auto"
            else getattr(torch, settings.dtype),
            "attn_implementation": settings.attn_implementation,
        }
        if settings.load_format == "dummy":
            torch.manual_seed(settings.seed)
            with torch.device(settings.device):
                model = transformers.AutoModelForCausalLM.from_config(configuration, **how)
        else:
            model = transformers.AutoModelForCausalLM.from_pretrained(settings.model, **how)
        self._model: Any = model.to(settings.device).eval()
        defaults = self._model.generation_config
        self.end_tokens = _ids(defaults.eos_token_id)
        self.pad_token = int(min(_ids(defaults.pad_token_id) or self.end_tokens or {0}))
        self._model.generation_config = transformers.GenerationConfig(pad_token_id=self.pad_token)
        self._loaded_s = time.monotonic() - begun_s

    def facts(self) -> dict[str, Any]:
        """What is true of the loaded model: types, sizes in bytes, versions, seconds."""
        model = self._model
        return {
            "dtype": str(model.dtype).removeprefix("torch."),
            "attn_implementation": model.config._attn_implementation,
            "device": model.device.type,
            "context_tokens": self.context_tokens,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "weight_bytes": sum(weight.numel() * weight.element_size() for weight in model.parameters()),
            "threads": torch.get_num_threads(),
            "model_loading_s": round(self._loaded_s, 3),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def generate(self, batch: Batch, stepped: Stepped) -> None:
        """Generate `batch` until `stepped` says that every sequence has ended."""
        ids, mask = (torch.tensor(rows, device=self._model.device) for rows in batch.padded(self.pad_token))
        # Where every prompt has the same length `generate` drops the mask by itself, and computes faster.
        self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=batch.most_steps,
            do_sample=False,
            stopping_criteria=[_AfterEachStep(stepped, self.end_tokens)],
        )


class _AfterEachStep:
    """The stopping criterion. `generate` feeds padding to ended sequences only where a criterion has `eos_token_id`."""

    def __init__(self, stepped: Stepped, end_tokens: frozenset[int]) -> None:
        self._stepped = stepped
        self.eos_token_id = torch.tensor(sorted(end_tokens))

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ANN401 - torch's, which the pipeline has not got
        return torch.tensor(self._stepped(ids[:, -1].tolist()), device=ids.device)


class Tokenizer:
    """The tokenizer of a model's folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)

    def encode(self, text: str) -> list[int]:
        """See `leverlab.static_batching.api.Tokenizer`."""
        return list(self._tokenizer(text)["input_ids"])

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """See `leverlab.static_batching.api.Tokenizer`."""
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decoder(self) -> "Decoder":
        """A decoder for one answer."""
        return Decoder(self._tokenizer.backend_tokenizer)


class Decoder:
    """Turns the tokens of one answer into text as they come; a token may add none, and a later one its characters."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - tokenizers has no types
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def text(self, token: int) -> str:
        """What `token` adds."""
        try:
            return self._stream.step(self._tokenizer, token) or ""
        except Exception as error:
            # Random weights make sequences of bytes that are no characters, at which tokenizers' stream gives up.
            if not str(error).startswith(_INVALID_PREFIX):
                raise
            self._stream = DecodeStream(skip_special_tokens=True)
            return self._stream.step(self._tokenizer, token) or ""


def _ids(told: int | list[int] | None) -> frozenset[int]:
    return frozenset([told] if isinstance(told, int) else told or [])
