"""Why a vLLM server ended, by what its log says last."""

import re

import pytest

from leverlab.engines.vllm import VllmEngine

ENGINE = VllmEngine()

REFUSED = """\
(APIServer pid=1) INFO 11-21 10:11:30 [api_utils.py:286] non-default args: {'max_num_batched_tokens': 256}
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1)   File "arg_utils.py", line 2617, in create_engine_config
(APIServer pid=1)     scheduler_config = SchedulerConfig(
(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig
(APIServer pid=1)   Value error, max_num_batched_tokens (256) is smaller than max_model_len (4096). [type=value_error, input_value=ArgsKwargs((), {'x': 1})]
(APIServer pid=1)     For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
OUT_OF_MEMORY = """\
(EngineCore pid=2) ERROR 11-21 10:11:30 [core.py:900] EngineCore failed to start.
(EngineCore pid=2) ERROR 11-21 10:11:30 [core.py:900] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total capacity of 139.80 GiB
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
NO_BLOCKS = "(EngineCore pid=2) ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.\n"
LONG_CONTEXT = (
    "(EngineCore pid=2) ValueError: To serve at least one request with the models's max seq len (131072), 16.0 GiB KV "
    "cache is needed, which is larger than the available KV cache memory (4.1 GiB).\n"
)
CPU_MEMORY = "ValueError: Available memory on node 0 (7.32/9.59 GiB) on kv cache allocation is less than requested memory for kv (1e5 GiB)\n"
PORT = "(APIServer pid=1) OSError: [Errno 98] Address already in use\n"
USAGE = "usage: vllm serve [model_tag] [options]\nvllm: error: unrecognized arguments: --max-num-sequences 4\n"
CHAIN = """\
(Worker pid=3) ERROR 11-21 10:11:30 [multiproc_executor.py:1055] NotImplementedError: this backend has no fp8
(EngineCore pid=2) ERROR 11-21 10:11:30 [core.py:900] Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
"""
DIED = """\
INFO:     Application startup complete.
(EngineCore pid=2) ERROR 11-21 10:11:30 [core.py:1000] ValueError: a bad step
(APIServer pid=1) ERROR 11-21 10:11:31 [async_llm.py:500] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.
"""


@pytest.mark.parametrize(
    ("log", "code", "said"),
    [
        (REFUSED, "configuration_refused", r"max_num_batched_tokens \(256\) is smaller than max_model_len \(4096\)\.$"),
        (OUT_OF_MEMORY, "out_of_memory", "CUDA out of memory"),
        (NO_BLOCKS, "out_of_memory", "No available memory for the cache blocks"),
        (LONG_CONTEXT, "out_of_memory", r"max seq len \(131072\)"),
        (CPU_MEMORY, "out_of_memory", "is less than requested memory"),
        (PORT, "port_taken", "Address already in use"),
        (USAGE, "configuration_refused", "unrecognized arguments: --max-num-sequences 4"),
        (CHAIN, "configuration_refused", "this backend has no fp8"),
        (DIED, "server_died", "ValueError: a bad step"),
        ("INFO: loading\n", "server_died", "before it was ready"),
        ("", "server_died", "does not say why"),
    ],
)
def test_why_a_server_ended(log: str, code: str, said: str) -> None:
    reason = ENGINE.explain_exit(log)
    assert reason.code == code
    assert re.search(said, reason.message), reason.message
    assert len(reason.log) <= 20
    assert not any("pid=" in line for line in reason.log)
