"""A server as theory sees it: a model's dimensions, the GPUs, and what the flags say of types, splits and limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from leverlab.config.gpu import Gpu
from leverlab.config.topology import PrefillDecode, Single, Topology
from leverlab.models.dimensions import DTYPE_BYTES, Dimensions
from leverlab.theory.memory import kv_bytes_per_token
from leverlab.theory.unknown import DoesNotApplyError, NotKnownError
from leverlab.theory.weights import step_weight_bytes, weights_bytes

_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "tensor": ("tensor-parallel-size", "tp-size"),
    "pipeline": ("pipeline-parallel-size", "pp-size"),
    "data": ("data-parallel-size", "dp-size"),
    "memory_share": ("gpu-memory-utilization", "mem-fraction-static"),
    "batch_limit": ("max-num-seqs", "max-running-requests", "max-batch-size"),
    "block": ("block-size", "page-size"),
    "context": ("max-model-len", "context-length"),
}
"""What theory asks → the flags that say it, of vLLM, of SGLang and of the static server."""

_BLOCKS: Final[Mapping[tuple[str, str], int]] = {
    ("vllm", "cuda"): 16,
    ("vllm", "cpu"): 128,
    ("sglang", "cuda"): 1,
    ("truth", "cpu"): 16,
}
"""(Engine, device) → tokens of a block of the KV cache where no flag says another number."""

_SINGLE: Final = Single()

_HALF: Final = {"bfloat16", "float16"}


@dataclass(frozen=True, slots=True)
class TheoryServer:
    """A server: `flags` and `environment` as in its identity, `gpu` an entry of gpus.yaml of which it takes `gpu_count`."""

    dimensions: Dimensions
    gpu_name: str
    gpu: Gpu
    gpu_count: int
    engine: str
    """The kind of engine."""
    flags: Mapping[str, Any]
    environment: Mapping[str, str]
    topology: Topology = _SINGLE
    """Its engine servers: one, replicas, or those that prefill and those that decode."""
    draft: Dimensions | None = None
    """Of the model that drafts, where a flag names one of models.yaml."""
    energy_price_per_kwh: float | None = None
    """As the settings of the configuration give it."""

    def flag(self, what: str) -> Any:  # noqa: ANN401 - a flag's value
        """The value of the flag that says `what` (a key of the table above); None where none does."""
        return next((self.flags[name] for name in _ALIASES[what] if name in self.flags), None)

    @property
    def tensor_parallel(self) -> int:
        """GPUs that share every layer."""
        return int(self.flag("tensor") or 1)

    @property
    def split(self) -> int:
        """GPUs that hold one copy of the model together."""
        return self.tensor_parallel * int(self.flag("pipeline") or 1)

    @property
    def replicas(self) -> int:
        """Copies of the model that generate: of every server that does, as many as a flag asks for."""
        here = self.topology
        generating = here.decode.servers if isinstance(here, PrefillDecode) else here.engine_servers
        return generating * int(self.flag("data") or 1)

    @property
    def hands_over(self) -> bool:
        """Whether the KV cache of a prompt goes from one server to another."""
        return isinstance(self.topology, PrefillDecode)

    @property
    def dtype(self) -> str:
        """Type of what is not quantized."""
        asked = str(self.flags.get("dtype", "auto"))
        return self.dimensions.dtype if asked == "auto" else {"half": "float16", "float": "float32"}.get(asked, asked)

    @property
    def quantization(self) -> str | None:
        """How the weights are quantized: by flag, or in the checkpoint."""
        asked = self.flags.get("quantization")
        overridden = self.flags.get("hf-overrides")
        if asked is None and isinstance(overridden, Mapping):
            asked = overridden.get("quantization_config", {}).get("quant_method")
        return str(asked) if asked is not None else self.dimensions.quantization

    @property
    def block_tokens(self) -> int:
        """Tokens of a block of the KV cache. Raises NotKnownError where neither a flag nor the engine's default is known."""
        asked = self.flag("block") or _BLOCKS.get((self.engine, self.gpu.device))
        if asked is None:
            raise NotKnownError(f"the block size of the KV cache of {self.engine} is not known")
        return int(asked)

    @property
    def kv_bytes(self) -> int:
        """KV cache of a token, of all GPUs that share a copy of the model."""
        return kv_bytes_per_token(self.dimensions, str(self.flags.get("kv-cache-dtype", "auto")))

    @property
    def kv_bytes_of_a_gpu(self) -> float:
        """The same of one GPU: a KV head is not split, so that with more GPUs than KV heads some keep the same one."""
        pipeline = self.split // self.tensor_parallel
        return self.kv_bytes / pipeline * max(1 / self.tensor_parallel, 1 / self.dimensions.kv_heads)

    @property
    def weights_of_a_gpu(self) -> float:
        """Bytes of the weights on one GPU. Raises NotKnownError for experts that are spread over replicas."""
        if self.replicas > 1 and self.flags.get("enable-expert-parallel"):
            raise NotKnownError("experts spread over data-parallel replicas are not counted")
        return weights_bytes(self.dimensions, self.dtype, self.quantization) / self.split

    def step_bytes_of_weights(self, batch: float) -> float:
        """Bytes of the weights that a step of one copy of the model reads, for `batch` requests."""
        return step_weight_bytes(self.dimensions, self.dtype, self.quantization, batch)

    @property
    def bandwidth(self) -> float:
        """Memory bandwidth of one GPU in bytes/s. Raises NotKnownError where gpus.yaml does not state it."""
        return self._stated("bandwidth", "memory bandwidth")

    @property
    def link(self) -> float:
        """Bandwidth between GPUs in bytes/s, one direction. Raises NotKnownError where gpus.yaml does not state it."""
        return self._stated("link", "bandwidth between GPUs")

    @property
    def memory(self) -> float:
        """Memory of one GPU in bytes. Raises NotKnownError where gpus.yaml does not state it."""
        return self._stated("memory", "memory")

    @property
    def price(self) -> float:
        """Price of a GPU-hour. Raises NotKnownError where gpus.yaml states none; of a CPU none is missed."""
        if self.gpu.price_per_hour is None:
            # A machine of one's own has no price by the hour; who rents a GPU knows his.
            error = DoesNotApplyError if self.gpu.device == "cpu" else NotKnownError
            raise error(f"no price is given: config/gpus.yaml states no `price_per_hour` of {self.gpu_name}")
        return self.gpu.price_per_hour

    @property
    def energy_price(self) -> float:
        """Price of a kilowatt-hour. Raises NotKnownError where the settings give none; of a CPU, whose energy nobody measures, none is missed."""
        if self.gpu.device == "cpu":
            raise DoesNotApplyError("nothing measures the energy of a CPU")
        if self.energy_price_per_kwh is None:
            raise NotKnownError("no price of energy is given: config/config.yaml states no `energy_price_per_kwh`")
        return self.energy_price_per_kwh

    @property
    def power(self) -> float:
        """Power limit of one GPU's board in watts. Raises NotKnownError where gpus.yaml does not state it."""
        return self._stated("power", "power limit")

    def _stated(self, key: Literal["bandwidth", "link", "memory", "power"], what: str) -> float:
        value: float | None = getattr(self.gpu, key)
        if value is None:
            raise NotKnownError(f"config/gpus.yaml states no {what} of {self.gpu_name} (`{key}`)")
        return value

    @property
    def peak(self) -> float:
        """Peak rate of one GPU in FLOP/s: of 16-bit numbers, or the highest where weights are quantized.

        Raises NotKnownError where gpus.yaml does not state it, or the model computes in another type.
        """
        if self.quantization is not None and self.gpu.peak:
            return max(self.gpu.peak.values())
        return self.unquantized_peak

    @property
    def unquantized_peak(self) -> float:
        """The same of what is computed in the model's own type, as attention is. Raises as `peak` does."""
        if self.dtype not in _HALF:
            known = self.dtype in DTYPE_BYTES
            raise NotKnownError(
                f"no peak rate is stated for numbers of type {self.dtype}"
                if known
                else f"the type {self.dtype!r} is not known"
            )
        if "bf16" not in self.gpu.peak:
            raise NotKnownError(f"config/gpus.yaml states no peak rate of {self.gpu_name} (`peak: {{bf16: …}}`)")
        return self.gpu.peak["bf16"]
