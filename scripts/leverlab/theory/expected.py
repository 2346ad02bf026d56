"""Every quantity of `leverlab.quantities` for a server and a load, and what stands beside those that are no metric."""

from collections.abc import Callable, Mapping
from typing import Final

from leverlab.quantities import QUANTITIES
from leverlab.theory import memory, roofline, speculation
from leverlab.theory.communication import decode_all_reduce_bytes, one_shot_bytes, ring_bytes, transfer_s
from leverlab.theory.cost import energy_cost_per_million_tokens, gpu_cost_per_million_tokens
from leverlab.theory.drafting import draft_kv_bytes, draft_weights, drafting_of, speculates
from leverlab.theory.experts import expert_imbalance, experts_read, gpu_imbalance
from leverlab.theory.occasion import Occasion
from leverlab.theory.server import TheoryServer
from leverlab.theory.unknown import DoesNotApplyError, NotKnownError
from leverlab.theory.weights import counted

_GIB: Final = 2**30

Formula = Callable[[TheoryServer, Occasion], float]


def expected(name: str, server: TheoryServer, occasion: Occasion) -> float:
    """The quantity `name`, in its unit. Raises NotKnownError with a clause that says what it lacks."""
    return float(_FORMULAS[name](server, occasion))


def batch_of(server: TheoryServer, occasion: Occasion) -> float:
    """Requests that a decode step of one copy of the model serves: those that run, at most the batch limit, at least one."""
    if occasion.running is None:
        raise NotKnownError("how many requests ran at once was not measured")
    limit = server.flag("batch_limit")
    running = min(occasion.running, float(limit)) if limit else occasion.running
    return max(running / server.replicas, 1.0)


def step_flop(server: TheoryServer, occasion: Occasion) -> float:
    """Operations of a decode step of one copy of the model."""
    return roofline.decode_flop(server.dimensions, batch_of(server, occasion), occasion.context_tokens)


def step_bytes(server: TheoryServer, occasion: Occasion) -> float:
    """Bytes that a decode step of one copy of the model reads, on all GPUs that share it."""
    batch = batch_of(server, occasion)
    return roofline.decode_bytes(server.step_bytes_of_weights(batch), server.kv_bytes, batch, occasion.context_tokens)


def _weights(server: TheoryServer, _: Occasion) -> float:
    return server.weights_of_a_gpu + draft_weights(server)


def _kv_cache_tokens(server: TheoryServer, _: Occasion) -> float:
    return _kv_tokens_of_a_server(server) * server.topology.engine_servers


def _kv_tokens_of_a_server(server: TheoryServer) -> float:
    if "max-total-tokens" in server.flags:
        return float(server.flags["max-total-tokens"])
    if "num-gpu-blocks-override" in server.flags:
        return float(server.flags["num-gpu-blocks-override"]) * server.block_tokens
    if "kv-cache-memory-bytes" in server.flags:
        return float(server.flags["kv-cache-memory-bytes"]) // server.kv_bytes_of_a_gpu
    if server.gpu.device == "cpu":
        if "VLLM_CPU_KVCACHE_SPACE" not in server.environment:
            raise NotKnownError("on a CPU the KV cache is as large as the server is told, and it is not told")
        return float(server.environment["VLLM_CPU_KVCACHE_SPACE"]) * _GIB // server.kv_bytes_of_a_gpu
    share = server.flag("memory_share")
    if share is None:
        raise NotKnownError("the share of the memory that the server takes is not set")
    try:
        drafting = draft_weights(server), draft_kv_bytes(server)
    except NotKnownError:
        drafting = 0.0, 0.0  # it takes something, and what is left without it is a ceiling
    weights, kv_bytes = server.weights_of_a_gpu + drafting[0], server.kv_bytes_of_a_gpu + drafting[1]
    return memory.kv_cache_tokens(server.memory, float(share), weights, kv_bytes)


def _maximum_concurrency(server: TheoryServer, occasion: Occasion) -> float:
    tokens = occasion.kv_tokens if occasion.kv_tokens is not None else _kv_cache_tokens(server, occasion)
    held = memory.maximum_concurrency(tokens, occasion.lengths, server.block_tokens)
    limit = server.flag("batch_limit")
    return min(held, float(limit) * server.topology.engine_servers) if limit else held


def _block_waste(server: TheoryServer, occasion: Occasion) -> float:
    return memory.block_waste_tokens(occasion.lengths, server.block_tokens)


def _decode_floor(server: TheoryServer, occasion: Occasion) -> float:
    if speculates(server):
        raise DoesNotApplyError("with speculation a step gives several tokens")
    batch = batch_of(server, occasion)
    # Of a mixture the experts of one token: a router may send the whole batch to the same ones.
    weights = server.step_bytes_of_weights(1)
    least = roofline.decode_bytes(weights, server.kv_bytes, batch, occasion.context_tokens)
    read = roofline.decode_floor_s(least, server.bandwidth, server.tensor_parallel)
    return read + (_all_reduce_s(server, occasion) if server.tensor_parallel > 1 else 0)


def _caches(server: TheoryServer) -> bool:
    """Whether the server keeps the KV blocks of prompts that are done, as far as its flags say."""
    off = server.flags.get("enable-prefix-caching") is False or server.flags.get("disable-radix-cache") is True
    return not off and server.engine != "static"


def _cached_tokens(server: TheoryServer, occasion: Occasion) -> float:
    """Tokens of a mean prompt that are not computed: as measured, else as an ideal cache would have it."""
    ratio = occasion.hit_ratio
    if ratio is None:
        ratio = _prefix_hit_ratio(server, occasion) if _caches(server) else 0.0
    return min(ratio, 1.0) * occasion.prompt_tokens


def _prefill_floor(server: TheoryServer, occasion: Occasion) -> float:
    # Attention to what is cached is left out: with hits that differ between requests, that of a mean request would be too much.
    flop = roofline.prefill_flop(server.dimensions, occasion.prompt_tokens - _cached_tokens(server, occasion))
    return roofline.prefill_floor_s(
        flop, server.peak, server.step_bytes_of_weights(1), server.bandwidth, server.tensor_parallel
    )


def _ridge(server: TheoryServer, _: Occasion) -> float:
    return roofline.ridge_flop_per_byte(server.peak, server.bandwidth)


def _decode_intensity(server: TheoryServer, occasion: Occasion) -> float:
    return step_flop(server, occasion) / step_bytes(server, occasion)


def _prefill_intensity(server: TheoryServer, occasion: Occasion) -> float:
    prompt, cached = occasion.prompt_tokens, _cached_tokens(server, occasion)
    read = server.step_bytes_of_weights(max(prompt - cached, 1)) + prompt * server.kv_bytes
    return roofline.prefill_flop(server.dimensions, prompt, cached) / read


def _decode_roof(server: TheoryServer, occasion: Occasion) -> float:
    _knows_what_is_read(server, occasion)
    gpus = server.tensor_parallel
    return roofline.roof_flop_per_s(_decode_intensity(server, occasion), server.peak * gpus, server.bandwidth * gpus)


def _knows_what_is_read(server: TheoryServer, occasion: Occasion) -> None:
    if server.dimensions.experts is not None and batch_of(server, occasion) > 1:
        raise DoesNotApplyError("which experts a batch reads is up to the router")


def _bandwidth(server: TheoryServer, occasion: Occasion) -> float:
    _knows_what_is_read(server, occasion)
    return server.bandwidth * server.tensor_parallel


def _prefix_hit_ratio(server: TheoryServer, occasion: Occasion) -> float:
    if not _caches(server):
        raise DoesNotApplyError("the server keeps no prefix cache")
    if not occasion.cold:
        raise NotKnownError("the cache is warm at first, and the ratio is that of one that is empty")
    block = server.block_tokens
    if block not in occasion.ideal_hits and occasion.shared is not None:
        drawn = occasion.shared
        return memory.shared_prefix_hit_ratio(
            drawn.prefix_tokens, drawn.suffix_tokens, drawn.groups, drawn.requests, block
        )
    if block not in occasion.ideal_hits:
        known = ", ".join(map(str, sorted(occasion.ideal_hits))) or "none"
        raise NotKnownError(f"the workload's card has no hit ratio for blocks of {block} tokens (it has {known})")
    return occasion.ideal_hits[block]


def _tokens_per_draft(server: TheoryServer, occasion: Occasion) -> float:
    drafting = drafting_of(server)
    if drafting.declared is not None:
        return drafting.declared
    if occasion.accepted_share is None:
        raise NotKnownError("the server did not tell how many drafted tokens it accepted")
    acceptance = speculation.acceptance_of(occasion.accepted_share, drafting.tokens)
    return speculation.tokens_per_draft(acceptance, drafting.tokens)


def _speculative_speedup(server: TheoryServer, occasion: Occasion) -> float:
    drafting = drafting_of(server)
    cost = drafting.cost(server)
    tokens = occasion.tokens_per_draft
    return speculation.speedup(_tokens_per_draft(server, occasion) if tokens is None else tokens, drafting.tokens, cost)


def _all_reduce_bytes(
    server: TheoryServer, occasion: Occasion, volume: Callable[[float, int], float] = ring_bytes
) -> float:
    return batch_of(server, occasion) * _token_all_reduce_bytes(server, volume)


def _token_all_reduce_bytes(server: TheoryServer, volume: Callable[[float, int], float] = ring_bytes) -> float:
    if server.tensor_parallel == 1:
        raise DoesNotApplyError("no layer is split, and nothing is added up")
    return decode_all_reduce_bytes(server.dimensions, 1, server.tensor_parallel, server.dtype, volume)


def _all_reduce_bytes_per_token(server: TheoryServer, _: Occasion) -> float:
    # Of several groups of GPUs a token passes through one.
    return _token_all_reduce_bytes(server) * server.tensor_parallel / server.gpu_count


def _one_shot_bytes(server: TheoryServer, occasion: Occasion) -> float:
    return _all_reduce_bytes(server, occasion, one_shot_bytes)


def _all_reduce_s(server: TheoryServer, occasion: Occasion) -> float:
    return transfer_s(_all_reduce_bytes(server, occasion), server.link)


def _kv_transfer(server: TheoryServer, occasion: Occasion) -> float:
    if not server.hands_over:
        raise DoesNotApplyError("no server hands the KV cache of a prompt over to another")
    tokens = occasion.prompt_tokens - _cached_tokens(server, occasion)
    return transfer_s(tokens * server.kv_bytes, server.link)


def _mixture(server: TheoryServer) -> tuple[int, int]:
    if server.dimensions.experts is None or server.dimensions.experts_per_token is None:
        raise DoesNotApplyError("the model is no mixture of experts whose routing is known")
    return server.dimensions.experts, server.dimensions.experts_per_token


def _experts_read(server: TheoryServer, occasion: Occasion) -> float:
    return experts_read(*_mixture(server), batch_of(server, occasion))


def _expert_imbalance(server: TheoryServer, occasion: Occasion) -> float:
    return expert_imbalance(*_mixture(server), round(batch_of(server, occasion)))


def _gpu_imbalance(server: TheoryServer, occasion: Occasion) -> float:
    experts, per_token = _mixture(server)
    ranks = int(server.flag("data") or 1)
    gpus = server.tensor_parallel * ranks
    if not server.flags.get("enable-expert-parallel") or gpus < 2:
        raise DoesNotApplyError("no GPU holds whole experts that others have not")
    if experts % gpus:
        raise NotKnownError(f"how {experts} experts lie on {gpus} GPUs is not known")
    # The tokens of every rank come to the experts that all of them share.
    return gpu_imbalance(experts, per_token, round(ranks * batch_of(server, occasion)), gpus)


def _tokens_per_s(server: TheoryServer, occasion: Occasion) -> float:
    """Of decode steps at their floor."""
    return batch_of(server, occasion) * server.replicas / _decode_floor(server, occasion)


def _gpu_cost(server: TheoryServer, occasion: Occasion) -> float:
    price = server.price
    return gpu_cost_per_million_tokens(price, server.gpu_count, _tokens_per_s(server, occasion))


def _energy_cost(server: TheoryServer, occasion: Occasion) -> float:
    price, power_w = server.energy_price, server.power * server.gpu_count
    return energy_cost_per_million_tokens(price, power_w / _tokens_per_s(server, occasion))


_FORMULAS: Final[Mapping[str, Formula]] = {
    "parameters": lambda server, _: counted(server.dimensions)[0],
    "active_parameters": lambda server, _: counted(server.dimensions)[1],
    "weights_bytes": _weights,
    "kv_bytes_per_token": lambda server, _: server.kv_bytes,
    "kv_cache_tokens": _kv_cache_tokens,
    "maximum_concurrency": _maximum_concurrency,
    "block_waste_tokens": _block_waste,
    "decode_floor_s": _decode_floor,
    "prefill_floor_s": _prefill_floor,
    "ridge_flop_per_byte": _ridge,
    "decode_intensity_flop_per_byte": _decode_intensity,
    "prefill_intensity_flop_per_byte": _prefill_intensity,
    "decode_roof_flop_per_s": _decode_roof,
    "decode_bandwidth_bytes_per_s": _bandwidth,
    "prefix_hit_ratio": _prefix_hit_ratio,
    "tokens_per_draft": _tokens_per_draft,
    "speculative_speedup": _speculative_speedup,
    "all_reduce_bytes": _all_reduce_bytes,
    "all_reduce_one_shot_bytes": _one_shot_bytes,
    "all_reduce_bytes_per_token": _all_reduce_bytes_per_token,
    "all_reduce_s": _all_reduce_s,
    "kv_transfer_s": _kv_transfer,
    "experts_read": _experts_read,
    "expert_imbalance": _expert_imbalance,
    "expert_gpu_imbalance": _gpu_imbalance,
    "gpu_cost_per_million_tokens": _gpu_cost,
    "energy_cost_per_million_tokens": _energy_cost,
}
assert set(_FORMULAS) == set(QUANTITIES), "a quantity has a name and no formula, or a formula and no name"
