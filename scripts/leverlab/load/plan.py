"""What is sent: planned requests, the server they go to, and the bytes on the wire."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from leverlab.load_point import LoadPoint

__all__ = ["KEY_VARIABLE", "Endpoint", "LoadPoint", "PlannedRequest", "Target", "read_requests", "request_bytes"]

KEY_VARIABLE: Final = "LEVERLAB_API_KEY"
"""The environment variable that carries the API key: never a file, never a command line."""


class Endpoint(StrEnum):
    """The two generating endpoints of the OpenAI-compatible interface."""

    COMPLETIONS = "completions"
    CHAT = "chat"

    @property
    def path(self) -> str:
        """The path of the endpoint's URL."""
        return "/v1/completions" if self is Endpoint.COMPLETIONS else "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One line of a workload's requests.jsonl.

    `arrival_unit_s` is the arrival in the process of rate 1 request/s: at rate r the request is sent at
    `arrival_unit_s / r`. `request_id` goes out as X-Request-Id. A request that waits for the one with the index `after` has no arrival
    of its own: it is due `pause_s` after that one's end, at every load. One that `joins` several is due
    that long after the last of them has ended. `priority` goes out in its body, unless it is None.
    `adapter` names the LoRA adapter that is asked instead of the base model.
    """

    index: int
    request_id: str
    prompt: str
    prompt_tokens: int
    output_tokens: int
    arrival_unit_s: float
    after: int | None = None
    pause_s: float = 0.0
    priority: int | None = None
    joins: tuple[int, ...] = ()
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """The server that requests go to. `extra_body` is added to every request's body: `ignore_eos`, continuous usage.

    `adapter_field` is the field of a body that names a LoRA adapter.
    """

    host: str
    port: int
    model: str
    api_key: str | None = field(repr=False)
    endpoint: Endpoint
    extra_body: Mapping[str, object]
    adapter_field: str = "model"


class _Line(msgspec.Struct):
    """The keys of a line of requests.jsonl that replaying needs; others (such as the group) are left alone."""

    index: int
    prompt: str
    prompt_tokens: int
    output_tokens: int
    arrival_unit_s: float
    after: int | None = None
    pause_s: float = 0.0
    priority: int | None = None
    joins: tuple[int, ...] = ()
    adapter: str | None = None


def read_requests(path: Path, prefix: str = "request") -> list[PlannedRequest]:
    """The requests of a workload, in the order of the file, with ids `<prefix>-<index>`.

    Raises ValueError, naming file, line and key, where a line is not what a workload's file holds.
    """
    decoder = msgspec.json.Decoder(_Line)
    planned: list[PlannedRequest] = []
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = decoder.decode(text)
            except msgspec.MsgspecError as error:
                raise ValueError(f"{path}:{number}: {error}; draw the workload again") from None
            if line.output_tokens < 1 or min(line.arrival_unit_s, line.pause_s) < 0:
                raise ValueError(
                    f"{path}:{number}: output_tokens must be at least 1, arrival_unit_s and pause_s at least 0"
                )
            planned.append(
                PlannedRequest(
                    index=line.index,
                    request_id=f"{prefix}-{line.index}",
                    prompt=line.prompt,
                    prompt_tokens=line.prompt_tokens,
                    output_tokens=line.output_tokens,
                    arrival_unit_s=line.arrival_unit_s,
                    after=line.after,
                    pause_s=line.pause_s,
                    priority=line.priority,
                    joins=line.joins,
                    adapter=line.adapter,
                )
            )
    return planned


def request_bytes(target: Target, request: PlannedRequest) -> bytes:
    """The whole HTTP/1.1 request: a streamed generation at temperature 0, on a connection that is kept.

    What every OpenAI-compatible engine understands stands here; `target.extra_body` adds to it or overrides it.
    """
    body: dict[str, object] = {
        "model": target.model,
        "max_tokens": request.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if target.endpoint is Endpoint.COMPLETIONS:
        body["prompt"] = request.prompt
    else:
        body["messages"] = [{"role": "user", "content": request.prompt}]
    if request.priority is not None:
        body["priority"] = request.priority
    if request.adapter is not None:
        body[target.adapter_field] = request.adapter
    content = json.dumps({**body, **target.extra_body}, ensure_ascii=False, separators=(",", ":")).encode()
    lines = [
        f"POST {target.endpoint.path} HTTP/1.1",
        f"Host: {target.host}:{target.port}",
        "Accept: text/event-stream",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        f"X-Request-Id: {request.request_id}",
    ]
    if target.api_key is not None:
        lines.append(f"Authorization: Bearer {target.api_key}")
    return "\r\n".join([*lines, "", ""]).encode() + content
