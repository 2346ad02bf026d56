"""Nsight Systems round a server: its command line, its report awaited, its errors told."""

import json
from pathlib import Path

import pytest

from leverlab.engines.flags import flag_words
from leverlab.engines.profiling import PROFILING
from leverlab.profile import ncu, nsys
from leverlab.profile.nsys import NsysError

SERVER = ["python", "-m", "server"]


def program(folder: Path, body: str) -> str:
    """A stand-in for the program, which does what a test says."""
    path = folder / "nsys"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_the_server_is_the_programs_last_words(tmp_path: Path) -> None:
    command = [*nsys.command_prefix("/opt/nsys", tmp_path), *SERVER]
    assert command[:2] == ["/opt/nsys", "profile"] and command[-3:] == SERVER
    assert "--cuda-graph-trace=node" in command and "--capture-range=cudaProfilerApi" in command
    assert f"--output={tmp_path}/report" in command
    assert all(word.startswith("--") for word in command[2:-3]), "a word without -- would be the program to run"


def test_counters_are_of_few_kernels_within_the_window(tmp_path: Path) -> None:
    command = [*ncu.command_prefix("/opt/ncu", tmp_path, "nvjet|flash", 7, ["a.sum"]), *SERVER]
    assert command[0] == "/opt/ncu" and command[-3:] == SERVER
    assert {"--profile-from-start=off", "--kernel-name=regex:nvjet|flash", "--launch-count=7"} <= set(command)
    assert "--clock-control=none" in command, "clocks are never changed"


def test_libraries_stand_before_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/lib/x")
    assert nsys.library_environment("/libs") == {"LD_LIBRARY_PATH": "/libs:/usr/lib/x"}
    assert nsys.library_environment(None) == {}
    own = nsys.library_environment("/libs", {"LD_LIBRARY_PATH": "/opt/engine"})
    assert own == {"LD_LIBRARY_PATH": "/libs:/opt/engine"}, "the server's, which it would lose else"
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert nsys.library_environment("/libs") == {"LD_LIBRARY_PATH": "/libs"}


def test_a_report_is_whole_once_its_program_says_so(tmp_path: Path) -> None:
    nsys.report_file(tmp_path).write_bytes(b"x")
    assert nsys.wait_for_report(tmp_path, lambda: "Generated:\n\treport.nsys-rep", lambda: False, timeout_s=5)
    assert nsys.wait_for_report(tmp_path, str, lambda: True, timeout_s=5)
    assert not nsys.wait_for_report(tmp_path, str, lambda: False, timeout_s=0.1)


def test_a_program_that_ended_without_a_report_is_not_waited_for(tmp_path: Path) -> None:
    assert not nsys.wait_for_report(tmp_path, str, lambda: True, timeout_s=3600)


def test_the_export_is_found_wherever_the_program_puts_it(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    body = f"""echo "$@" >> {seen}
case $1 in
export) mkdir -p {tmp_path}/export_pqtdir && touch {tmp_path}/export_pqtdir/StringIds.parquet ;;
stats) [ "$3" = --report=cuda_api_sum ] && exit 1; echo Time,Name ;;
esac"""
    assert nsys.export(program(tmp_path, body), tmp_path, {}) == tmp_path / "export_pqtdir"
    assert "export --type=parquetdir" in seen.read_text()
    assert (tmp_path / "cuda_gpu_kern_sum.csv").read_text() == "Time,Name\n"
    assert not (tmp_path / "cuda_api_sum.csv").exists(), "a statistic that fails costs nobody the kernels"


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NsysError, match="No such file or directory: install NVIDIA Nsight Systems"):
        nsys.version(str(tmp_path / "nowhere"), {})
    failing = program(tmp_path, 'echo "Importer: libdw.so.1: cannot open shared object" >&2; exit 3')
    with pytest.raises(NsysError, match=r"status 3: .*--config nsys_libraries=FOLDER"):
        nsys.export(failing, tmp_path, {})
    with pytest.raises(NsysError, match="the export holds no tables"):
        nsys.export(program(tmp_path, "exit 0"), tmp_path, {})


def test_the_version_is_its_last_line(tmp_path: Path) -> None:
    assert nsys.version(program(tmp_path, "echo NVIDIA Nsight Systems version 2025.3"), {}).endswith("2025.3")


def test_vllms_flag_is_json() -> None:
    words = flag_words(dict(PROFILING["vllm"].flags("nsys", Path("/x"))))
    assert words == ["--profiler-config", '{"profiler":"cuda"}']
    torch = json.loads(flag_words(dict(PROFILING["vllm"].flags("torch", Path("/x"))))[1])
    assert torch["profiler"] == "torch" and torch["torch_profiler_dir"] == "/x"
    assert PROFILING["sglang"].start_body("nsys", Path("/x")) == {
        "output_dir": "/x", "activities": ["CUDA_PROFILER"], "with_stack": False,
    }  # fmt: skip


def test_iterations_are_the_engines_own_count() -> None:
    text = (
        "# TYPE vllm:iteration_tokens_total histogram\n"
        'vllm:iteration_tokens_total_bucket{engine="0",le="1.0"} 3.0\n'
        'vllm:iteration_tokens_total_bucket{engine="0",le="+Inf"} 85.0\n'
        'vllm:iteration_tokens_total_count{engine="0",model_name="model"} 85.0\n'
        'vllm:iteration_tokens_total_sum{engine="0",model_name="model"} 900.0\n'
    )
    assert PROFILING["vllm"].iteration_count(text) == 85.0
    assert PROFILING["sglang"].iteration_count(text) is None


def test_a_half_made_export_is_not_left_to_be_read_as_a_whole_one(tmp_path: Path) -> None:
    made = tmp_path / "export_pqtdir" / "StringIds.parquet"
    failing = program(tmp_path, f"mkdir -p {made.parent} && touch {made}; exit 143")
    with pytest.raises(NsysError, match="ended with status 143"):
        nsys.export(failing, tmp_path, {})
    assert not made.exists()
