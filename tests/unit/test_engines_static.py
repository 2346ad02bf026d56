"""The static engine's module, without a server."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from leverlab.engines.base import EngineUnreachableError, Settings
from leverlab.engines.static import _PROGRAM, StaticEngine, _look_at
from leverlab.load.plan import KEY_VARIABLE
from tests.unit.test_topology import KEY, launch_in

ENGINE = StaticEngine()


def test_it_is_started_by_path_on_the_device_of_its_identity(tmp_path: Path) -> None:
    launch = launch_in(tmp_path, **{"max-batch-size": 4, "stream": "step"})
    command = ENGINE.command(replace(launch, cores=[0, 2], gpus=["GPU-1"]))
    assert command[:2] == [sys.executable, str(_PROGRAM)] and _PROGRAM.is_file()
    assert command[command.index("--device") + 1] == "cpu"
    assert command[-4:] == ["--max-batch-size", "4", "--stream", "step"]
    assert KEY not in " ".join(command)
    environment = ENGINE.environment(replace(launch, cores=[0, 2], gpus=["GPU-1"]))
    assert (environment["OMP_NUM_THREADS"], environment["CUDA_VISIBLE_DEVICES"]) == ("2", "GPU-1")
    assert environment[KEY_VARIABLE] == KEY
    assert f'"{KEY_VARIABLE}"' in _PROGRAM.with_name("listening.py").read_text(), (
        "the server looks for it under the same name"
    )


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ({"max-batch-sizes": 4}, "unknown_flag", "did you mean 'max-batch-size'"),
        ({"max-batch-size": 0}, "bad_flag_value", "must be at least 1"),
        ({"batch-wait": float("inf")}, "bad_flag_value", "and finite"),
        ({"stream": "never"}, "bad_flag_value", "invalid choice: 'never'"),
        ({"device": "cuda"}, "reserved_flag", "--device"),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_starts(flags: dict[str, object], code: str, said: str) -> None:
    treatments = [Settings({"batch-wait": 0, "load-format": "dummy"}, {}), Settings(flags, {})]
    good, bad = (ENGINE.check_configuration(replace_flags(treatment.flags)) for treatment in treatments)
    assert good is None
    assert bad is not None
    assert (bad.code, said in bad.message) == (code, True), bad.message


def replace_flags(flags: object, gpus: int = 1):
    launch = launch_in(Path())
    return replace(launch, identity={**launch.identity, "flags": flags, "gpu": {"count": gpus}})


def test_it_computes_on_one_gpu() -> None:
    reason = ENGINE.check_configuration(replace_flags({}, gpus=2))
    assert reason is not None and reason.code == "configuration_refused" and "not on 2" in reason.message


def test_an_environment_without_torch_or_without_python_is_told() -> None:
    with pytest.raises(EngineUnreachableError, match=r"needs torch.*: torch transformers"):
        ENGINE.check_flags([sys.executable], [])
    with pytest.raises(EngineUnreachableError, match="does not run"):
        _look_at(["/nowhere/python"])


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("static batching 1: {}\ncannot listen on 127.0.0.1:1: [Errno 98] Address already in use; choose a free --port\n", "port_taken"),
        ("usage: static_batching\nstatic_batching: error: argument --stream: invalid choice\n", "configuration_refused"),
        ("error: --max-model-len 9000: the model has 4096 positions\n", "configuration_refused"),
        ("  File x\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n", "out_of_memory"),
        ("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried\n", "out_of_memory"),
        ("listening on 127.0.0.1:1\n", "server_died"),
        ("", "server_died"),
    ],
)  # fmt: skip
def test_why_it_ended(log: str, code: str) -> None:
    assert ENGINE.explain_exit(log).code == code


def test_a_value_that_the_model_has_otherwise_is_a_difference() -> None:
    effective = {"settings": {"dtype": "bfloat16", "max_batch_size": 4, "attn_implementation": "eager"}}
    identity = {"flags": {"dtype": "auto", "max-batch-size": 4, "attn-implementation": "sdpa"}}
    found = [(item.key, item.effective, item.expected) for item in ENGINE.differences(identity, effective)]
    assert found == [("dtype", "bfloat16", True), ("attn-implementation", "eager", False)]
