"""Static batching: Hugging Face transformers' `generate` behind an OpenAI-compatible streaming server.

What continuous batching is compared with. Waiting requests are collected into a batch, padded on the left to the longest
prompt, and generated together until the longest output is done. A finished sequence keeps its place, which computes for
nobody, and no request joins before the batch has ended.

It runs in an engine's environment, which has torch and transformers and not leverlab: apart from these two and the
tokenizers that transformers brings, its modules import the standard library and one another alone. Only
`leverlab.static_batching.generation` needs torch.
"""

from typing import Final

STATIC_VERSION: Final = "1"
"""Raised when the server batches, pads or streams in another way; `versions` in config/engines.yaml follows it."""
