"""benchmarks/fidelity.py as its reader would run it: small, with the clients that are always there."""

import json
import subprocess
import sys
from pathlib import Path

from tests.unit.repository import SOURCE


def test_clients_are_held_against_the_truth(tmp_path: Path) -> None:
    output = tmp_path / "fidelity.json"
    command = [sys.executable, "benchmarks/fidelity.py", "--quick", "--output", str(output)]
    command += ["--vllm", "/nowhere/vllm", "--sglang", "/nowhere/python"]
    ended = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "`vllm bench serve` is left out: there is no /nowhere/vllm: name one with --vllm" in ended.stdout
    assert "`sglang.bench_serving` is left out: there is no /nowhere/python" in ended.stdout
    results = {(one["client"], one["kind"]): one for one in json.loads(output.read_text())["results"]}
    assert set(results) == {(client, kind) for client in ("replay", "httpx") for kind in ("rate", "concurrency")}
    for (client, _), one in results.items():
        assert one["failed"] == 0 and one["chunks_per_s"] > 0
        if client == "replay":
            # It states how late it may have been, of which its error from the actual send is a part.
            assert -1e-3 < one["ttft_error_p50_s"] <= one["ttft_error_p99_s"] <= one["stated_ttft_error_s"] + 1e-3
