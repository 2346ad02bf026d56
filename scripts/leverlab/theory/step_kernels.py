"""What the two largest classes of kernels of a decode step do on one GPU: operations, bytes that they must read, and their roofs.

Source: as for `leverlab.theory.roofline`, of which these are the two summands, divided over the GPUs that share the model.
"""

from dataclasses import dataclass

from leverlab.theory.roofline import matrix_parameters
from leverlab.theory.server import TheoryServer
from leverlab.theory.unknown import DoesNotApplyError


@dataclass(frozen=True, slots=True)
class Work:
    """Of one GPU in one decode step."""

    flop: float
    bytes_read: float
    """The least: weights or KV cache once. What a kernel reads and writes of activations comes on top."""

    @property
    def intensity(self) -> float:
        """FLOP/byte."""
        return self.flop / self.bytes_read


def products_work(server: TheoryServer, requests: float, tokens: float) -> Work:
    """Of the matrix products: 2 × weights a token, all weights read once for `tokens` of `requests` together.

    Raises NotKnownError for an architecture whose weights are not counted, and DoesNotApplyError for a mixture, whose experts are
    multiplied by kernels of another class.
    """
    if server.dimensions.experts is not None:
        raise DoesNotApplyError("the model is a mixture of experts, whose products are kernels of another class")
    flop = 2 * matrix_parameters(server.dimensions) * tokens
    return Work(flop / server.split, server.step_bytes_of_weights(requests) / server.split)


def attention_work(server: TheoryServer, requests: float, tokens: float, context_tokens: float) -> Work:
    """Of attention: scores and weighted values are 2 × heads × head size each, for every token of the context, in every layer.

    The KV cache of each of `requests` is read once; a prefix that they share, once for each of them, as kernels do that know nothing of it.
    Raises NotKnownError where the cache's type or the architecture is not known.
    """
    model = server.dimensions
    flop = 4 * model.layers * model.heads * model.head_dim * context_tokens * tokens
    return Work(flop / server.split, requests * context_tokens * server.kv_bytes_of_a_gpu)
