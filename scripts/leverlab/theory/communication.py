"""What GPUs send each other: all-reduces under tensor parallelism, the KV cache between prefill and decode."""

from collections.abc import Callable

from leverlab.models.dimensions import Dimensions
from leverlab.theory.weights import bytes_of_type

ALL_REDUCES_OF_A_LAYER = 2
"""After attention's output projection and after the MLP's: a column-parallel matrix followed by a row-parallel one needs no
all-gather between them. Source: Shoeybi et al. (2019), Megatron-LM, arXiv:1909.08053, section 3."""


def ring_bytes(message_bytes: float, gpus: int) -> float:
    """Bytes that each of `gpus` sends in a ring all-reduce: 2 (n - 1) / n of the message, the least that is possible.

    Source: Thakur, Rabenseifner and Gropp (2005), Optimization of Collective Communication Operations in MPICH, IJHPCA 19(1).
    """
    return 2 * (gpus - 1) / gpus * message_bytes


def one_shot_bytes(message_bytes: float, gpus: int) -> float:
    """The same where each GPU reads all others' parts at once, as vLLM's custom all-reduce does with small messages: n - 1 messages.

    One round instead of a ring's 2 (n - 1): at a small batch it is latency that counts. Source: vllm csrc/custom_all_reduce.cuh.
    """
    return (gpus - 1) * message_bytes


def decode_all_reduce_bytes(
    dimensions: Dimensions, batch: float, gpus: int, dtype: str, volume: Callable[[float, int], float] = ring_bytes
) -> float:
    """Bytes that one GPU sends in the all-reduces of a decode step of `batch` requests, by `volume`; 0 on one GPU."""
    message = batch * dimensions.hidden * bytes_of_type(dtype)
    return ALL_REDUCES_OF_A_LAYER * dimensions.layers * volume(message, gpus)


def transfer_s(bytes_sent: float, link_bytes_per_s: float) -> float:
    """The least that it takes to send so many bytes over a link, in one direction, without its latency.

    A prompt of 4096 tokens of Llama 3.1 8B is 0.54 GB of KV: 1.2 ms at 450 GB/s. Source: Zhong et al. (2024), DistServe, OSDI.
    """
    return bytes_sent / link_bytes_per_s
