"""A load client as one would write it: a task a request on httpx, `aiter_lines`, a time per event, JSON decoded on the way.

benchmarks/fidelity.py runs it beside the others: `python benchmarks/plain_client.py JOB`, a JSON file with
`{port, rate or null, streams or null, requests: [[id, prompt, tokens]], body, result}`.
"""

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx


async def offer(job: dict[str, Any]) -> None:
    """Send the requests at the job's rate, or in as many streams as it says, and write [id, sent, arrivals] for each."""
    url = f"http://127.0.0.1:{job['port']}/v1/completions"
    results: list[tuple[str, float, list[float]]] = []
    slots = asyncio.Semaphore(job["streams"]) if job["streams"] else contextlib.nullcontext()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None) as client:

        async def ask(name: str, prompt: str, tokens: int) -> None:
            body = {
                "model": "truth",
                "prompt": prompt,
                "max_tokens": tokens,
                "temperature": 0,
                "stream": True,
                **job["body"],
            }
            arrivals: list[float] = []
            async with slots:
                sent_s = time.perf_counter()
                async with client.stream("POST", url, json=body, headers={"X-Request-Id": name}) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {") and json.loads(line[6:])["choices"]:
                            arrivals.append(time.perf_counter())
            results.append((name, sent_s, arrivals))

        start_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for at, request in enumerate(job["requests"]):
                if job["rate"]:
                    await asyncio.sleep(start_s + at / job["rate"] - time.perf_counter())
                group.create_task(ask(*request))
    results.sort(key=lambda result: int(result[0][1:]))
    Path(job["result"]).write_text(json.dumps(results))


if __name__ == "__main__":
    asyncio.run(offer(json.loads(Path(sys.argv[1]).read_text())))
