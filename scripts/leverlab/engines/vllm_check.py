"""Asks vLLM, in its own environment, whether it accepts flags or a whole configuration."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from leverlab.engines.base import EngineUnreachableError, Launch, Settings
from leverlab.engines.flags import flag_and_value
from leverlab.engines.inherited import inherited_environment
from leverlab.records import Reason

RESERVED_FLAGS: Final = frozenset(
    {"host", "port", "api-key", "served-model-name", "model", "uds", "root-path", "config"}
)
"""Flags that leverlab sets itself, or that would take settings from where no identity can see them."""

OWN_VARIABLES: Final = (
    "VLLM_*",
    "LMCACHE_*",
    "FLASHINFER_*",
    "TORCH*",
    "PYTORCH_*",
    "TRITON_*",
    "CUDA_LAUNCH_BLOCKING",
    "KMP_*",
    "GOMP_*",
    "OMP_*",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)
"""Variables that change how vLLM, or a library below it, serves."""

_PROGRAM: Final = Path(__file__).with_name("vllm_parser.py")
_TIMEOUT_S: Final = 600.0
_OFFLINE: Final[Mapping[str, str]] = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def check_flags(command_prefix: Sequence[str], treatments: Sequence[Settings]) -> list[Reason | None]:
    """See `leverlab.engines.base.Engine.check_flags`. The engine is asked even where all are refused here already."""
    asked = _ask(command_prefix, {"treatments": [_question(treatment) for treatment in treatments]}, _OFFLINE)
    return [_reserved(treatment) or answer for treatment, answer in zip(treatments, asked, strict=True)]


def check_configuration(launch: Launch, environment: Mapping[str, str]) -> Reason | None:
    """Whether vLLM's `create_engine_config` accepts the launch on this machine's device, or why not."""
    settings = Settings(launch.identity["flags"], launch.identity["environment"])
    question = {"treatments": [_question(settings)], "model": str(launch.model_folder)}
    return _reserved(settings) or _ask(launch.command_prefix, question, environment)[0]


def _question(settings: Settings) -> dict[str, Any]:
    flags = {name: flag_and_value(name, value) for name, value in settings.flags.items() if name not in RESERVED_FLAGS}
    return {"flags": flags, "environment": dict(settings.environment)}


def _reserved(settings: Settings) -> Reason | None:
    for name in settings.flags:
        if name in RESERVED_FLAGS:
            return Reason(code="reserved_flag", message=f"--{name} is set by leverlab itself: take it out of the flags")
    return None


def _ask(prefix: Sequence[str], question: Mapping[str, Any], environment: Mapping[str, str]) -> list[Reason | None]:
    # The program goes by its text and the question by standard input: neither needs a path that a container can see.
    command = [*prefix, "-c", _PROGRAM.read_text(encoding="utf-8")]
    shown = " ".join(prefix)
    try:
        done = subprocess.run(
            command,
            input=json.dumps(question),
            env={**inherited_environment(OWN_VARIABLES), **environment},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineUnreachableError(f"`{shown}` does not run: {type(error).__name__}") from error
    # A login shell or a container may print lines of its own.
    answers = [line for line in done.stdout.splitlines() if line.startswith("leverlab:")]
    if done.returncode or not answers:
        tail = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise EngineUnreachableError(f"vLLM could not be asked through `{shown}`: exit code {done.returncode}: {tail}")
    answered = json.loads(answers[-1].removeprefix("leverlab:"))["answers"]
    return [None if answer is None else Reason(**answer) for answer in answered]
