"""The configuration that a vLLM server runs with, against the one that was asked for."""

import ast
import re
from collections.abc import Mapping
from typing import Any, Final

from leverlab.engines.base import Difference
from leverlab.engines.comparison import left_to_the_engine, number, same, shown

_CALLED: Final[Mapping[str, str]] = {
    "kv_cache_dtype": "cache_config.cache_dtype",
    "tokenizer_mode": "model_config.tokenizer_mode",
    "num_gpu_blocks_override": "cache_config.num_gpu_blocks_override",
    "max_model_len": "model_config.max_model_len",
    "data_parallel_size": "parallel_config.data_parallel_size",
    "enable_lora": "lora_config",
    "speculative_config": "speculative_config",
    "compilation_config": "compilation_config",
    "kv_transfer_config": "kv_transfer_config",
    "kernel_config": "kernel_config",
    "quantization": "model_config.quantization",
}
"""Flags whose value stands under another name, or under one that several parts of the configuration have."""

_ARGUMENTS: Final = re.compile(r"non-default args: (\{.*\})\s*$", re.MULTILINE)
_ADAPTERS: Final = "lora_modules"
_ENUMERATION: Final = re.compile(r"'(\w+)': <\w+\.(\w+): [^>]*>")
_FACTS: Final[Mapping[str, re.Pattern[str]]] = {
    "attention_backend": re.compile(r"Using (\S+) attention backend"),
    "model_runner": re.compile(r"using (?:the )?(V\d) model runner", re.IGNORECASE),
    "kv_cache_tokens": re.compile(r"(?:GPU|CPU)(?: \+ host)? KV cache size: ([\d,]+) tokens"),
    "kv_cache_memory_gib": re.compile(r"Available KV cache memory: ([\d.]+) GiB"),
    "model_loading_s": re.compile(r"Model loading took [\d.]+ GiB(?: memory)? and ([\d.]+) seconds"),
    "torch_compile_s": re.compile(r"torch\.compile took ([\d.]+) s in total"),
    "graph_capture_s": re.compile(r"Graph capturing finished in (\d+) secs"),
    "graph_memory_bytes": re.compile(r"Graph capturing finished in \d+ secs, took ([\d.]+) GiB"),
    "weights_bytes": re.compile(r"Model loading took ([\d.]+) GiB"),
    "engine_init_s": re.compile(r"init engine \(profile, create kv cache, warmup model\) took ([\d.]+) s"),
    "omp_cores": re.compile(r"local_rank=0, core ids=(\[[\d, ]+\])"),
}
_GIB: Final = 2**30
_OVERRIDES: Final = re.compile(
    r"(?:overrid|disabling|disabled|not support|fall(?:ing)? back|ignored|is set to|instead of|using the V1|Reset )",
    re.IGNORECASE,
)
COMPILATION: Final = re.compile(
    r"torch\.compile (?:took|and initial)|Starting torch\.compile|Compiling a graph|Compiling model again|"
    r"Recompiling the model|[Gg]raph capturing|Capturing (?:CUDA graphs|model)|Compile and warming up|[Aa]utotun|"
    r"JIT compilation during inference:"
)
"""Lines of the log that tell of a compilation, a graph's capture or a kernel's tuning."""


def effective_settings(configuration: Mapping[str, Any] | None, log: str) -> dict[str, Any]:
    """Every part of vLLM's configuration as /server_info tells it, and under `arguments` what the log says it was given.

    `configuration` is None where the server does not tell it: then there are the arguments alone.
    """
    arguments = _arguments(log)
    known = {name: part for name, part in (configuration or {}).items() if name != "instance_id"}
    # Enumerations come as bare numbers from /server_info; the log has their names.
    if isinstance(known.get("compilation_config"), Mapping):
        names = {key: name for key, name in _ENUMERATION.findall(log) if key in known["compilation_config"]}
        known["compilation_config"] = {**known["compilation_config"], **names}
    return {**known, "arguments": arguments}


def _arguments(log: str) -> dict[str, Any]:
    """What the log says that the server was given; adapters as they are asked for, `name=path`."""
    given = _ARGUMENTS.search(log)
    if given is None:
        return {}
    try:
        found: dict[str, Any] = ast.literal_eval(_ObjectsAsMappings().visit(ast.parse(given[1], mode="eval")))
    except (ValueError, SyntaxError):
        return {}
    if found.get(_ADAPTERS):
        found[_ADAPTERS] = [
            f"{told['name']}={told['path']}" if isinstance(told, Mapping) else told for told in found[_ADAPTERS]
        ]
    return found


class _ObjectsAsMappings(ast.NodeTransformer):
    """`LoRAModulePath(name='a', path='/a')`, as Python shows an object of named fields, is a mapping of these."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        fields = [field for field in node.keywords if field.arg is not None]
        named: list[ast.expr | None] = [ast.Constant(field.arg) for field in fields]
        return self.generic_visit(ast.copy_location(ast.Dict(named, [field.value for field in fields]), node))


def startup_facts(log: str) -> dict[str, Any]:
    """What the start-up log says besides: sizes, times of its steps, backends, and the warnings that name an override."""
    facts: dict[str, Any] = {}
    for name, pattern in _FACTS.items():
        found = pattern.search(log)
        if found:
            facts[name] = number(found[1]) * _GIB if name.endswith("_bytes") else number(found[1])
    if "kv_cache_tokens" in facts:
        # A server that told its cache has told of its graphs too, if it captured any.
        facts = {"graph_capture_s": 0, "graph_memory_bytes": 0, **facts}
    warnings = [line.partition("] ")[2] for line in log.splitlines() if " WARNING " in line]
    facts["overrides"] = sorted({warning.strip() for warning in warnings if _OVERRIDES.search(warning)})
    return facts


def differences(identity: Mapping[str, Any], effective: Mapping[str, Any]) -> list[Difference]:
    """Flags and variables of `identity` that took another value than intended.

    What the server does not tell is not claimed to differ. A value left to the engine (`auto`) is expected to differ.
    """
    settings = effective.get("settings", {})
    found = []
    for flag, intended in identity["flags"].items():
        known, value = _effective_value(flag.replace("-", "_"), settings)
        if known and not same(intended, value):
            found.append(Difference(flag, intended, shown(intended, value), expected=left_to_the_engine(intended)))
    variables = effective.get("environment", {})
    for name, intended in identity["environment"].items():
        if name in variables and not same(intended, variables[name]):
            found.append(Difference(name, intended, variables[name], expected=intended == "auto"))
    return found


def _effective_value(name: str, settings: Mapping[str, Any]) -> tuple[bool, Any]:
    """Whether the configuration tells the setting `name`, and its value."""
    arguments = settings.get("arguments", {})
    if "." in name:
        return _at(f"{name.partition('.')[0]}.{name.partition('.')[2]}", settings)
    if name in _CALLED:
        known, value = _at(_CALLED[name], settings)
        if known:
            return True, value
    parts = [part for key, part in settings.items() if key.endswith("_config") and isinstance(part, Mapping)]
    values = [part[name] for part in parts if name in part]
    if values:
        return True, values[0]
    return (name in arguments), arguments.get(name)


def _at(path: str, settings: Mapping[str, Any]) -> tuple[bool, Any]:
    value: Any = settings
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False, None
        value = value[key]
    return True, value
