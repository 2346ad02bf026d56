"""How SGLang's log tells why a server ended."""

import re
from typing import Final

from leverlab.engines.exits import LogWords

LOG_WORDS: Final = LogWords(
    name="SGLang",
    prefix=re.compile(r"^\[\d{4}-\d\d-\d\d [^\]]*\] (?:(?:INFO|WARNING|ERROR|CRITICAL): +)?"),
    ready=("The server is fired up and ready to roll",),
    consequences=("scheduler died during initialization", "Please see the error messages above"),
    out_of_memory=(
        "not enough gpu memory",
        "leave no gpu memory for the kv cache",
        "prefill out of memory",
        "decode out of memory",
        "alloc_req_slots runs out of memory",
    ),
)
