"""A GPU type (or the CPU as a device): its Slurm request, capacities, power and price."""

from typing import Literal

from pydantic import Field

from leverlab.config.base import ByteRate, Bytes, FlopRate, StrictModel, Watts


class SlurmRequest(StrictModel):
    """What a job asks Slurm for, per GPU (per job for a CPU)."""

    gpu_model: str | None = Field(
        default=None, description="the cluster's name of the GPU type, as in `--gpus=NAME:count`"
    )
    partition: str | None = Field(default=None, description="where its jobs run; default: as the profile says")
    account: str | None = Field(default=None, description="who pays; default: as the profile says")
    cpus: int = Field(default=8, ge=1, description="cores per GPU")
    memory: Bytes = Field(default=64 * 2.0**30, description="host memory per GPU")
    extra: str | None = Field(
        default=None, description="further options of sbatch, as one string: `--constraint=nvlink`"
    )


class Gpu(StrictModel):
    """A GPU type. `device: cpu` stands for a machine without one."""

    title: str = Field(description="the GPU's name for a reader")
    device: Literal["cpu", "cuda"] = Field(default="cuda", description="engines of the same device run on it")
    slurm: SlurmRequest = Field(default=SlurmRequest(), description="what its jobs ask Slurm for")
    memory: Bytes | None = Field(default=None, description="memory of one GPU")
    bandwidth: ByteRate | None = Field(default=None, description="peak memory bandwidth")
    peak: dict[str, FlopRate] = Field(default={}, description="dtype → dense peak rate of arithmetic")
    link: ByteRate | None = Field(default=None, description="peak bandwidth between GPUs, one direction")
    power: Watts | None = Field(default=None, description="board power limit")
    price_per_hour: float | None = Field(
        default=None, ge=0, description="price of a GPU-hour, in the currency of the reports"
    )
