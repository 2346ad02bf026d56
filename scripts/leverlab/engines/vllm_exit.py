"""How vLLM's log tells why a server ended."""

import re
from typing import Final

from leverlab.engines.exits import LogWords

LOG_WORDS: Final = LogWords(
    name="vLLM",
    prefix=re.compile(r"^(\([\w-]+( pid=\d+)?\) )?((INFO|WARNING|ERROR|DEBUG|CRITICAL) \d\d-\d\d [\d:]+ \[[^]]+\] ?)?"),
    ready=("Application startup complete", "Starting vLLM server on", "takes batches on"),
    consequences=(
        "Engine core initialization failed",
        "Engine process failed to start",
        "EngineDeadError",
        "WorkerProc initialization failed due to an exception in a background process",
        "See root cause above",
        "See stack trace for root cause",
    ),
    out_of_memory=(
        "no available memory for the cache blocks",
        "larger than the maximum number of tokens that can be stored in kv cache",
        "larger than the available kv cache",
        "less than desired gpu memory utilization",
        "is less than requested memory",
    ),
)
