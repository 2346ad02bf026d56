"""Metrics of servers behind a proxy, and of what prefill servers hand over to decode servers."""

from typing import Final

from leverlab.metrics.metric import Metric

DISAGGREGATION: Final = (
    Metric(
        "handed_over_ratio",
        "1",
        "difference of prompt tokens that decode servers took over from prefill servers / difference of those that they asked for",
        "higher",
        "difference",
        label="share of prompts handed over",
        source="server counters",
    ),
    Metric(
        "kv_transfer_s",
        "s",
        "mean time of a transfer of KV cache from a prefill to a decode server, as the connector (NIXL) or SGLang says; it runs beside the "
        "computing of others",
        "lower",
        label="time of a KV-cache transfer",
        source="server counters",
    ),
    Metric(
        "kv_transfer_bytes",
        "bytes",
        "mean size of such a transfer",
        "neither",
        label="size of a KV-cache transfer",
        source="server counters",
    ),
    Metric(
        "kv_transfer_rate",
        "bytes/s",
        "bytes of all such transfers / their times added up",
        "higher",
        label="rate of KV-cache transfers",
        source="server counters",
    ),
    Metric(
        "proxy_prefill_s",
        "s",
        "mean time from a request's sending to a prefill server to that server's answer, as the proxy sees it",
        "lower",
        label="time of the prefill server's part",
        source="server counters",
    ),
    Metric(
        "proxy_added_s",
        "s",
        "mean of what the proxy itself adds to a request's first token, from the kernel's receive stamps to its own sends",
        "lower",
        "difference",
        label="time added by the proxy",
        source="server counters",
    ),
    Metric(
        "prefill_gpu_utilisation_ratio",
        "1",
        "mean over the window of throughput, and over the GPUs of the prefill servers, of the share of time in which a kernel ran (NVML)",
        "neither",
        "difference",
        label="GPU utilisation of the prefill servers",
        source="NVML",
    ),
    Metric(
        "decode_gpu_utilisation_ratio",
        "1",
        "the same over the GPUs of the decode servers",
        "neither",
        "difference",
        label="GPU utilisation of the decode servers",
        source="NVML",
    ),
)
