"""vLLM, 0.26 and later: how its API server is started, asked, reset and understood."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from leverlab import offline_batch
from leverlab.engines.base import OPENAI_REQUEST_EXTRAS, Difference, Launch, Settings, Transfer
from leverlab.engines.cores import dealt
from leverlab.engines.exits import explain_exit
from leverlab.engines.flags import flag_words
from leverlab.engines.inherited import LIBRARY_VARIABLES
from leverlab.engines.keyed_start import keyed_start
from leverlab.engines.lmcache import clear_in_process, restores_in, serves_in_process, socket_variables
from leverlab.engines.own_check import OwnParser
from leverlab.engines.prometheus import VLLM_METRICS, cache_info, canonical_metrics
from leverlab.engines.vllm_disaggregation import handing_over
from leverlab.engines.vllm_exit import LOG_WORDS
from leverlab.engines.vllm_experts import expert_loads_in
from leverlab.engines.vllm_settings import COMPILATION, differences, effective_settings, startup_facts
from leverlab.load.plan import KEY_VARIABLE
from leverlab.records import Reason

_RESET_ATTEMPTS: Final = 20
_RESET_PAUSE_S: Final = 0.5
_INFO_TIMEOUT_S: Final = 60.0

_ALWAYS: Final[Mapping[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # /reset_prefix_cache and /server_info exist only then
    "VLLM_LOGGING_LEVEL": "INFO",  # the start-up log is read for the effective configuration
    "VLLM_LOGGING_COLOR": "0",
}

_PARSER: Final = OwnParser(
    kind="vllm",
    name="vLLM",
    reserved=frozenset({"host", "port", "api-key", "served-model-name", "model", "uds", "root-path", "config"}),
    own_variables=("VLLM_*", *LIBRARY_VARIABLES),
    offline={"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"},
)


class VllmEngine:
    """One vLLM API server. It needs no console script, so that it starts from any interpreter that can import vLLM."""

    kind = "vllm"
    served_model_name = "model"
    adapter_field = "model"
    own_variables = _PARSER.own_variables
    compilation = COMPILATION

    def command(self, launch: Launch) -> list[str]:
        flags = dict(launch.identity["flags"])
        offline = launch.identity.get("topology") == "offline"
        # A line in the log for each request and each look at /metrics would be work inside the measurement.
        flags.setdefault("disable-uvicorn-access-log", True)
        return [
            *launch.command_prefix,
            *(
                [str(offline_batch.PROGRAM), self.kind]
                if offline
                else [*keyed_start("vllm.entrypoints.cli.main"), "serve"]
            ),
            str(launch.model_folder),
            *("--served-model-name", self.served_model_name),
            *("--host", launch.host, "--port", str(launch.port)),
            *flag_words(flags),
        ]

    def environment(self, launch: Launch) -> dict[str, str]:
        # Not VLLM_API_KEY: it is part of the key under which vLLM keeps compiled code, and each start would compile anew.
        environment = {**_ALWAYS, KEY_VARIABLE: launch.api_key}
        if launch.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(launch.gpus)
        if launch.identity["engine"]["device"] == "cpu" and launch.cores:
            ranks = dealt(launch.cores, _ranks(launch.identity["flags"]))
            environment["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(",".join(map(str, cores)) for cores in ranks)
            # Where no worker process is made (one rank, in the engine's own process) the binding above is not read.
            environment["OMP_NUM_THREADS"] = str(len(ranks[0]))
            # N-gram lookup runs in numba, which takes every core of the machine and gives torch as many threads as it has itself:
            # with fewer cores than threads a step then takes seconds instead of milliseconds.
            environment["NUMBA_NUM_THREADS"] = environment["OMP_NUM_THREADS"]
        if launch.scratch and serves_in_process(launch.identity["flags"]):
            environment |= socket_variables(launch.scratch)
        return environment | dict(launch.identity["environment"])

    def handing_over(self, transfer: Transfer, flags: Mapping[str, Any]) -> Settings:
        return handing_over(transfer, flags)

    def check_flags(self, command_prefix: Sequence[str], treatments: Sequence[Settings]) -> list[Reason | None]:
        return _PARSER.check_flags(command_prefix, treatments)

    def check_configuration(self, launch: Launch) -> Reason | None:
        return _PARSER.check_configuration(launch, self.environment(launch))

    def ready(self, client: httpx.Client) -> bool:
        # Only this server knows the key: another one that took the port meanwhile would refuse it.
        if client.get("/health").status_code != httpx.codes.OK:
            return False
        models = client.get("/v1/models")
        return models.status_code == httpx.codes.OK and any(
            model.get("id") == self.served_model_name for model in models.json().get("data", [])
        )

    def reset_cache(self, client: httpx.Client, *, tiers: bool = True) -> bool:
        """Asks again while blocks are still held by requests that are just ending; about ten seconds at most.

        A connector that cannot be emptied is reported as emptied all the same; `empty_tiers` reaches the one that matters.
        """
        for _ in range(_RESET_ATTEMPTS):
            answer = client.post("/reset_prefix_cache", params={"reset_external": str(tiers).lower()})
            # vLLM 0.26 answers 200 without a body once it has passed the wish on.
            if answer.status_code == httpx.codes.OK and (not answer.content or answer.json().get("success") is True):
                return True
            time.sleep(_RESET_PAUSE_S)
        return False

    def empty_tiers(self, scratch: Path) -> bool:
        return clear_in_process(scratch)

    def keeps_prefix_cache(self, client: httpx.Client) -> bool | None:
        return None

    def request_extras(self) -> dict[str, Any]:
        return dict(OPENAI_REQUEST_EXTRAS)

    def effective_configuration(self, client: httpx.Client, log: str) -> dict[str, Any]:
        # It also lists the system, by running a dozen programs, and answers with an error where one of them is missing.
        try:
            info = client.get("/server_info", params={"config_format": "json"}, timeout=_INFO_TIMEOUT_S)
            known = info.json() if info.status_code == httpx.codes.OK else {}
        except httpx.TimeoutException:
            known = {}
        version = client.get("/version")
        return {
            "settings": effective_settings(known.get("vllm_config"), log),
            "environment": known.get("vllm_env", {}),
            "cache": cache_info(client.get("/metrics").text),
            "version": version.json().get("version") if version.status_code == httpx.codes.OK else None,
            **startup_facts(log),
        }

    def differences(self, identity: Mapping[str, Any], effective: Mapping[str, Any]) -> list[Difference]:
        return differences(identity, effective)

    def canonical_metrics(self, text: str) -> dict[str, float]:
        return canonical_metrics(text, VLLM_METRICS)

    def log_counters(self, log: str) -> dict[str, float]:
        return {**restores_in(log), **expert_loads_in(log)}

    def explain_exit(self, log: str) -> Reason:
        return explain_exit(log, LOG_WORDS)


def _ranks(flags: Mapping[str, Any]) -> int:
    sizes = (flags.get(f"{kind}-parallel-size", 1) for kind in ("tensor", "pipeline", "data"))
    ranks = 1
    for size in sizes:
        ranks *= size if isinstance(size, int) else 1
    return ranks
