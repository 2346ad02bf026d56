"""How tests launch SGLang."""

from collections.abc import Mapping
from typing import Any

import httpx

from leverlab.engines.sglang import SglangEngine

ENGINE = SglangEngine()


def identity(environment: Mapping[str, str] | None = None, **flags: Any) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    return {"engine": {"kind": "sglang", "device": "cuda"}, "flags": named, "environment": environment or {}}


def client(answer: Any) -> httpx.Client:
    return httpx.Client(base_url="http://server", transport=httpx.MockTransport(answer))
