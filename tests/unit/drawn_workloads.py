"""Workloads drawn for tests: their identities, and lines and card of one in a folder."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from leverlab import DRAWING_VERSION
from leverlab.config.workload import Workload
from leverlab.identity import canonical

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}


KINDS: dict[str, dict[str, Any]] = {
    "shared-prefix": {"requests": 12, "groups": 3, "prefix_tokens": 200, "suffix_tokens": 24, "output_tokens": 8},
    "random": {"requests": 40, "prompt_tokens": 64, "output_tokens": 16, "spread": 0.5},
    "sharegpt-shaped": {"requests": 30},
    "mixed-long-short": {"requests": 20, "short_tokens": 16, "long_tokens": 512, "long_share": 0.1, "output_tokens": 4},
    "multi-turn": {
        "requests": 12,
        "turns": 4,
        "system_tokens": 48,
        "message_tokens": 20,
        "output_tokens": 12,
        "think_time": 2.0,
    },
    "agent-loop": {
        "requests": 10,
        "steps": 5,
        "prefix_tokens": 160,
        "task_tokens": 16,
        "result_tokens": 32,
        "output_tokens": 8,
    },
    "retrieval": {
        "requests": 16,
        "instruction_tokens": 16,
        "chunks": 4,
        "chunk_tokens": 64,
        "question_tokens": 12,
        "output_tokens": 8,
        "repeated_share": 0.5,
    },
    "near-miss": {
        "requests": 12,
        "groups": 3,
        "prefix_tokens": 200,
        "changed_token": 40,
        "suffix_tokens": 24,
        "output_tokens": 8,
    },
    "variable-output": {"requests": 20, "prompt_tokens": 64, "outputs": [16, 32, 64, 256, 512]},
    "branches": {
        "requests": 10,
        "branches": 3,
        "prefix_tokens": 100,
        "task_tokens": 60,
        "branch_tokens": 12,
        "join_tokens": 9,
        "output_tokens": 8,
    },
    "interactive-batch": {
        "requests": 20,
        "interactive_share": 0.25,
        "interactive_prompt_tokens": 16,
        "interactive_output_tokens": 4,
        "batch_prompt_tokens": 200,
        "batch_output_tokens": 32,
    },
}


def identity_of(kind: str, **changes: Any) -> dict[str, Any]:
    workload = TypeAdapter(Workload).validate_python({"kind": kind, **KINDS.get(kind, {}), **changes}).model_dump()
    # Younger than the cards that test_workloads.py holds against; no real identity holds a key at its default.
    if not workload.get("adapters"):
        workload.pop("adapters", None)
    return canonical({"drawing_version": DRAWING_VERSION, "workload": workload, "tokenizer": {"name": "tiny"}})


def drawn(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    lines = (folder / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((folder / "card.json").read_text())
