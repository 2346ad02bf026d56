"""The truth: when each request really came in and each chunk really went out, in ns of CLOCK_MONOTONIC.

Two files, so that writing costs the server almost nothing: FILE holds records of five 64-bit integers, one a chunk;
FILE.requests holds a JSON line a request. Client and server on one machine read the same clock.
"""

from array import array
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

_RECORD_FIELDS: Final = ("number", "tokens", "due_ns", "begun_ns", "ended_ns")
_FLUSH_ITEMS: Final = 5 * 20_000


class RequestTruth(msgspec.Struct, frozen=True):
    """One request as the server saw it. `number` counts requests since the start; `admitted_ns` is when it got its seat."""

    number: int
    request_id: str
    received_ns: int
    admitted_ns: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class TruthLog:
    """Collects in memory and writes when `flush` is called: between bursts, when much has gathered, and at the end."""

    def __init__(self, path: Path | None) -> None:
        self.records = array("q")
        self._chunks: BinaryIO | None = None
        self._requests: BinaryIO | None = None
        self._pending: list[RequestTruth] = []
        if path is not None:
            self._chunks = path.open("wb")
            self._requests = path.with_name(path.name + ".requests").open("wb")

    @property
    def full(self) -> bool:
        """Whether so much has gathered that it should be written even under load."""
        return len(self.records) >= _FLUSH_ITEMS

    def add(self, request: RequestTruth) -> None:
        """Note a request that got its seat."""
        if self._requests is not None:
            self._pending.append(request)

    def flush(self) -> None:
        """Write what has gathered."""
        if self._chunks is not None and self._requests is not None:
            encode = msgspec.json.encode
            self._requests.write(b"".join(encode(request) + b"\n" for request in self._pending))
            self._requests.flush()
            self._chunks.write(self.records.tobytes())
            self._chunks.flush()
        del self.records[:]
        self._pending.clear()


def read_truth_requests(path: Path) -> list[RequestTruth]:
    """The requests of the truth log at `path`, in the order of admission."""
    decoder = msgspec.json.Decoder(RequestTruth)
    return [decoder.decode(line) for line in path.with_name(path.name + ".requests").read_bytes().splitlines()]


def read_truth_chunks(path: Path) -> dict[str, list[int]]:
    """The sends of the truth log at `path` in the order of time: columns number, tokens, due_ns, begun_ns, ended_ns.

    A chunk was handed to the kernel between begun_ns and ended_ns; due_ns is when that was planned. A record that a killed
    server wrote in part is left out.
    """
    content = path.read_bytes()
    values = array("q")
    values.frombytes(content[: len(content) // 40 * 40])
    return {name: values[at::5].tolist() for at, name in enumerate(_RECORD_FIELDS)}
