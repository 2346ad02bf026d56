"""A job's specification on the truth engine, made by hand, and scripts/measure.py run on it as the rule does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from leverlab import DRAWING_VERSION, MEASUREMENT_VERSION
from leverlab.layout import REQUESTS_FILE, Layout
from leverlab.models.synthetic import synthetic_files
from leverlab.records import CellRecord, JobSpecification, PhaseSpecification, TrialRecord, read_json, write_json
from leverlab.trial.cell_files import read_cell
from leverlab.workloads import draw

MEASURE = Path(__file__).resolve().parents[2] / "scripts" / "measure.py"
SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}  # fmt: skip
ORDER_SEED = 7
BURST, RATE = {"kind": "burst"}, {"kind": "rate", "value": 40}


@dataclass(frozen=True)
class TrialJob:
    """A job below `root`, with all that it needs drawn and made there."""

    root: Path
    flags: Mapping[str, Any] = field(default_factory=dict)
    phases: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {"rate-0000000001": RATE, "burst-0000000002": BURST}
    )
    start_timeout_s: float = 20.0
    retry_failed: bool = False
    cache: str = "cold"
    stop_after_saturation: bool = False
    search: Mapping[str, Any] = field(default_factory=dict)
    """Of the phases that search for their rate: `search` of their identity, and `limit_s`."""
    request_timeout_s: float = 20.0
    shape: Mapping[str, int] = field(default_factory=dict)
    """What is otherwise in the workload: groups, prefix_tokens, suffix_tokens, output_tokens."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request's body, in the identity of each phase."""
    topology: Mapping[str, Any] = field(default_factory=lambda: {"topology": "single"})
    """`topology` and `topology_settings` of the server's identity."""
    server: str = "truth_server-0000000000"
    replicate: str = "r1"
    job: str = "abc"
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    """Every process that was started for this job, to be ended with the test."""

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    @property
    def output(self) -> Path:
        return self.layout.job_record(self.server, self.replicate, self.job)

    def specification(self) -> JobSpecification:
        flags = {
            "enable-prefix-caching": True,
            "enable-prompt-tokens-details": True,
            "ttft": 0.01,
            "gap": 0.002,
            **self.flags,
        }
        identity = {
            "engine": {"kind": "truth", "device": "cpu", "versions": {"truth": "1"}},
            "model": {"name": "tiny"},
            "gpu": {"type": "cpu", "count": 1},
            "flags": flags,
            "environment": {},
            **self.topology,
        }
        return JobSpecification(
            server=self.server, identity=identity, replicate=self.replicate, job=self.job, cells=[self._phase(name) for name in self.phases],
            engine="truth", engine_kind="truth", device="cpu", gpu_count=0, command_prefix=[sys.executable], identity_packages=[],
            model_folder=str(self.root / "model"), start_timeout_s=self.start_timeout_s, order_seed=ORDER_SEED, results=str(self.root),
            retry_failed=self.retry_failed,
        )  # fmt: skip

    def _phase(self, name: str) -> PhaseSpecification:
        load = dict(self.phases[name])
        requests = load.pop("requests", 16)
        workload = {
            "kind": "shared-prefix", "requests": requests, "groups": 2, "prefix_tokens": 96, "suffix_tokens": 16, "output_tokens": 8,
            **self.shape,
        }  # fmt: skip
        identity = {
            "measurement_version": MEASUREMENT_VERSION,
            "workload": {"id": f"w-{requests}", "drawing_version": DRAWING_VERSION, "workload": workload, "tokenizer": {"name": "tiny"}},
            "load": load, "cache": self.cache, "endpoint": "completions", "client": "replay",
            **({"request": dict(self.request)} if self.request else {}),
        }  # fmt: skip
        search = dict(self.search)
        limit_s = search.pop("limit_s", 60.0)
        if load["kind"] == "search":
            identity["search"] = search
        file = self.layout.workload(f"w-{requests}", self.replicate) / REQUESTS_FILE
        return PhaseSpecification(
            cell=f"cell_{name}",
            phase=name,
            identity=identity,
            workload_file=str(file),
            request_timeout_s=self.request_timeout_s,
            stop_after_saturation=self.stop_after_saturation and load["kind"] == "rate",
            search_limit_s=limit_s if load["kind"] == "search" else None,
        )

    def prepare(self) -> "TrialJob":
        """Make the model's folder, draw the workloads, write the specification."""
        spec = self.specification()
        for name, content in synthetic_files(SHAPE, 10_000).items():
            path = self.root / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for wanted in spec.cells:
            file = Path(wanted.workload_file)
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                draw(dict(wanted.identity["workload"]), 11, self.root / "model", file.parent, None)
        (self.root / "tmp").mkdir(exist_ok=True)
        write_json(self.layout.job_specification(self.server, self.replicate, self.job), spec)
        return self

    def changed(self, **changes: Any) -> "TrialJob":
        return replace(self, **changes).prepare()

    def start(self, **environment: str) -> subprocess.Popen[str]:
        spec = self.layout.job_specification(self.server, self.replicate, self.job)
        log = self.root / "job.log"
        command = [sys.executable, str(MEASURE), "--spec", str(spec), "--output", str(self.output), "--log", str(log)]
        # A folder for locks of its own: jobs of other tests hold the same cores.
        given = {**os.environ, "TMPDIR": str(self.root / "tmp"), **environment}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=given)
        self.started.append(process)
        return process

    def measure(self, timeout_s: float = 60, **environment: str) -> tuple[int, str]:
        """The exit code, and what was shown."""
        process = self.start(**environment)
        try:
            _, shown = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(
                f"measure.py took more than {timeout_s} s: {(self.root / 'job.log').read_text()}"
            ) from None
        return process.returncode, shown

    def end(self) -> None:
        """Leave no process behind."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=60)

    def cell(self, phase: str) -> CellRecord | None:
        return read_cell(self.cell_folder(phase))

    def cell_folder(self, phase: str) -> Path:
        return self.layout.cell(self.server, self.replicate, phase)

    def statuses(self) -> dict[str, str]:
        return {phase: cell.status for phase in self.phases if (cell := self.cell(phase)) is not None}

    def trial(self, number: int) -> TrialRecord:
        return TrialRecord.model_validate(read_json(self.trial_folder(number) / "trial.json"))

    def trial_folder(self, number: int) -> Path:
        return self.layout.trial(self.server, self.replicate, number)

    def trials(self) -> list[str]:
        """The outcome of each trial, in order."""
        count = len(list(self.trial_folder(1).parent.glob("*")))
        return [self.trial(number).outcome for number in range(1, count + 1)]

    def events(self, number: int = 1) -> list[dict[str, Any]]:
        path = self.trial_folder(number) / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def phases_begun(self, number: int = 1) -> int:
        return sum(event["event"] == "phase_started" for event in self.events(number))

    def servers(self) -> list[psutil.Process]:
        """Living truth engines of this job: its folder is in their command line."""
        found = []
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if "leverlab.truth" in command and any(str(self.root) in word for word in command):
                found.append(process)
        return found


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {timeout_s} s")


def words_of(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The events without the requests."""
    return [event["event"] for event in events if event["event"] != "request"]
