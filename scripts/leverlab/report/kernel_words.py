"""What the classes of kernels are called on a page: in sentences, tables, figures and their legends alike."""

from typing import Final

from leverlab.report.profiled import IDLE

KERNEL_WORDS: Final = {
    "attention": "attention",
    "gemm": "matrix products",
    "moe": "routing to experts",
    "norm_elementwise": "norms and elementwise work",
    "sampling": "sampling",
    "kv_cache": "writing the KV cache",
    "communication": "communication",
    "copy": "copies",
    "other": "kernels without a class",
    IDLE: "time in which nothing runs",
}
"""Class of `leverlab.config.profile`, and what is in none → its name. In the order in which figures draw them."""
