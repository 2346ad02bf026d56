"""The study files of the studies that are made up for the report's tests."""

TROUBLED, CROSSED, SIMULATED, FLOORED, LARGE, ROOFED, PROFILED = (
    "troubled",
    "crossed",
    "simulated",
    "floored",
    "large",
    "roofed",
    "profiled",
)
RANKING = "ranking"

_LEVERS = "levers: {prefix_caching: [on, off], max_num_seqs: [64, 4]}\nbaseline: {prefix_caching: on, max_num_seqs: 64}\nreplicates: 3\n"
STUDIES = {
    TROUBLED: """\
title: A study with every kind of trouble
question: What does a reader see of cells that failed, were refused, or are <missing>?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: shared-system-prompt
load: {rates: [1, inf]}
primary: {prefix_caching: ttft_s p50 at rate 1, max_num_seqs: throughput at burst}
objectives: {ttft_p95: 500 ms}
"""
    + _LEVERS,
    CROSSED: """\
question: Does prefix caching pay on every model and GPU?
engines: [vllm]
models: [llama-3.1-8b, llama-3.1-8b-shape]
gpus: ["h100:2"]
workload: {kind: sharegpt-shaped, requests: 48}
load: {rates: [1, 4, 16, inf], concurrencies: [8]}
primary: {prefix_caching: ttft_s p50 at rate 4, max_num_seqs: throughput at burst}
"""
    + _LEVERS,
    SIMULATED: """\
question: Does the pipeline find what the truth engine declares?
engines: [truth]
models: [tiny-llama]
gpus: [cpu]
workload: shared-system-prompt
load: {rates: [2]}
primary: {prefix_caching: ttft_s p50 at rate 2, max_num_seqs: throughput at rate 2}
"""
    + _LEVERS,
    FLOORED: """\
question: What does the same server differ by from one start to the next?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: shared-system-prompt
load: {rates: [1, 4, inf]}
primary: {prefix_caching: ttft_s p50 at rate 1, max_num_seqs: throughput at burst}
noise_floor: true
endpoint: chat
design: factorial
"""
    + _LEVERS,
    ROOFED: """\
question: How near does decoding come to its floor?
engines: [vllm]
models: [llama-3.1-8b]
gpus: [h200]
workload: shared-system-prompt
load: {concurrencies: [1, 16]}
primary: {prefix_caching: ttft_s p50 at concurrency 1, max_num_seqs: throughput at concurrency 16}
questions:
  - ask: What is the ratio of measured decode latency to its theoretical minimum?
    answers:
      - {kind: theory, quantities: [decode_floor_s at concurrency 1, kv_bytes_per_token, all_reduce_s]}
collects:
  Theoretical decode latency: "theory: decode_floor_s"
  Arithmetic intensity: ["theory: decode_intensity_flop_per_byte", "theory: ridge_flop_per_byte"]
  "HBM utilization %": "theory: decode_bandwidth_bytes_per_s at concurrency 1"
"""
    + _LEVERS,
    PROFILED: """\
question: What do kernels say?
engines: [vllm-cpu]
models: [tiny-llama]
gpus: [cpu]
workload: shared-system-prompt
load: {rates: [1]}
primary: {prefix_caching: ttft_s p50 at rate 1, max_num_seqs: throughput at rate 1}
profile: {at: [rate 1]}
questions:
  - ask: Where does the time go?
    answers: [{kind: profile, shows: time by class}]
"""
    + _LEVERS,
    RANKING: """\
question: Which levers pay, and do they stack?
engines: [vllm]
models: [llama-3.1-8b]
gpus: [h200]
workload: shared-system-prompt
load: {rates: [4, inf]}
primary: {prefix_caching: ttft_s p50 at rate 4, max_num_seqs: throughput at burst}
design: factorial
ranks: all
questions:
  - ask: Do they stack?
    answers:
      - {kind: stacking, levers: [prefix_caching, max_num_seqs], metrics: [ttft_s p50 at rate 4, throughput at burst, goodput at burst]}
"""
    + _LEVERS,
    LARGE: """\
question: How large does a page get?
engines: [vllm]
models: [llama-3.1-8b, llama-3.1-8b-shape, tiny-llama]
gpus: [a100, h100, h200, "h100:4"]
workload: shared-system-prompt
load: {rates: [1, 4, inf]}
levers: {prefix_caching: [on, off], max_num_seqs: [64, 4, 8, 16, 32]}
baseline: {prefix_caching: on, max_num_seqs: 64}
primary: {prefix_caching: ttft_s p50 at rate 4, max_num_seqs: throughput at burst}
design: factorial
replicates: 3
""",
}
