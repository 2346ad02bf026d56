"""An offline batch: vLLM's `LLM.generate`, or SGLang's `Engine.generate`, on the requests of a workload, without an API server between.

What a program does that has all its prompts and wants all its answers: it hands them over in one call and is given everything
when the last is done. The engine is made of the same flags as a server. Beside it, in a thread of its own, a small HTTP front
takes whole batches, probes and questions. A batch is timed around the call itself, so that the front is in no latency; of several
batches the throughput holds their hand-over.

It runs in the engine's environment, which has not got leverlab: apart from the engine and what it brings, its modules import the standard
library and `leverlab.static_batching`'s HTTP alone.
"""

from pathlib import Path
from typing import Final

PROGRAM: Final = Path(__file__).with_name("__main__.py")
"""What an engine's Python runs, with the kind of the engine and the flags of its server."""
