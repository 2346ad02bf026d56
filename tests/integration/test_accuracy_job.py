"""How a job of the rule `accuracy` ends, on truth engines and a stand-in for lm_eval: asked, failed, killed, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from leverlab.accuracy.plan import AccuracyJob, all_jobs, jobs_by_study, read_run, run_folder, specification
from leverlab.records import write_json
from tests.unit.repository import SOURCE, STUDY, Repository

STAND_IN = """\
import json, os, pathlib, sys, time, urllib.request
if sys.argv[1] == "-c":
    print("leverlab:" + json.dumps({"version": VERSION, "known": [], "path": "/t.yaml", "output_type": "generate_until", "splits": []}))
    sys.exit()
given = dict(zip(sys.argv[4::2], sys.argv[5::2]))
model = json.loads(sys.argv[sys.argv.index("--model_args") + 1])
for number in range(3):
    body = json.dumps({"model": model["model"], "prompt": f"What is {number} + 1?", "max_tokens": 4}).encode()
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(model["base_url"], body, headers), timeout=30).read()
print("asked", os.environ["OPENAI_API_KEY"], flush=True)
ENDING
"""
WRITES = """\
output = pathlib.Path(sys.argv[sys.argv.index("--output_path") + 1]) / "model"
output.mkdir(parents=True)
(output / "results_1.json").write_text(json.dumps({
    "results": {"gsm8k": {"exact_match,none": 0.5, "exact_match_stderr,none": 0.1}}, "configs": {"gsm8k": {}},
    "higher_is_better": {"gsm8k": {"exact_match": True}}, "n-samples": {"gsm8k": {"effective": 3}}}))
(output / "samples_gsm8k_1.jsonl").write_text("")
"""


@dataclass(frozen=True)
class Asked:
    """A job whose lm_eval is a stand-in; `at` is the folder in which it runs."""

    at: Path
    repository: Repository
    job: AccuracyJob

    @property
    def run(self) -> Path:
        return run_folder(self.job, self.repository.layout)

    def start(self, ending: str = WRITES, version: str = "0.4.13", **changed: object) -> subprocess.Popen[str]:
        stand_in = self.at / "stand_in.py"
        stand_in.write_text(STAND_IN.replace("ENDING", ending).replace("VERSION", repr(version)))
        told = specification(self.job, self.repository.configuration(), self.repository.layout)
        job = told.job.model_copy(update=changed)
        written = told.model_copy(update={"job": job, "lm_eval_prefix": [sys.executable, str(stand_in)]})
        write_json(self.at / "spec.json", written)
        command = [sys.executable, str(SOURCE / "scripts" / "accuracy.py")]
        command += ["--spec", str(self.at / "spec.json"), "--output", str(self.at / "record.json")]
        return subprocess.Popen(
            command, cwd=self.at, env={**os.environ, "TMPDIR": str(self.at / "tmp")},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def done(self, *arguments: str, code: int = 0, **changed: object) -> str:
        process = self.start(*arguments, **changed)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == code, said
        return said

    def servers(self) -> list[psutil.Process]:
        """Living truth engines and stand-ins of this test."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = " ".join(process.info["cmdline"] or [])
            if str(self.at) in words and ("leverlab.truth" in words or "stand_in.py" in words):
                found.append(process)
        return found


def asked_with(root: Path, flags: str = "") -> Asked:
    repository = Repository.at(root)
    (root / "tmp").mkdir()
    if flags:
        repository.change(
            "flags: {enable-prefix-caching: true, ttft",
            f"flags: {{{flags}, enable-prefix-caching: true, ttft",
            "config/engines.yaml",
        )
    repository.write("small", STUDY + "accuracy: {prompts: [Name a river.], prompt_tokens: 4}\n")
    return Asked(root, repository, next(iter(all_jobs(jobs_by_study(repository.matrix())).values())))


def test_a_run_is_kept_whole_and_the_key_is_in_no_file(tmp_path: Path) -> None:
    asked = asked_with(tmp_path)
    asked.done()
    record = read_run(asked.run)
    assert (record.status, record.scores[0].value, record.scores[0].questions) == ("measured", 0.5, 3)
    assert json.loads((tmp_path / "record.json").read_text())["status"] == "measured"
    assert (asked.run / "lm_eval.log").read_text() == "asked <API_KEY>\n"
    assert asked.servers() == []
    before = (asked.run / "accuracy.json").stat().st_mtime_ns
    asked.done("sys.exit(1)")
    assert (asked.run / "accuracy.json").stat().st_mtime_ns == before, "what is measured is not asked again"


def test_a_record_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    asked = asked_with(tmp_path)
    asked.run.mkdir(parents=True)
    (asked.run / "accuracy.json").write_text("{")
    (asked.run / "samples.jsonl").write_text("answers")
    said = asked.done(code=1)
    assert "accuracy.json cannot be read; delete its folder to ask again" in said
    assert (asked.run / "samples.jsonl").read_text() == "answers"


def test_a_failure_of_lm_eval_is_recorded_and_gives_way_to_a_run(tmp_path: Path) -> None:
    asked = asked_with(tmp_path)
    asked.done("sys.exit('no data in the hub')")
    failed = read_run(asked.run)
    assert (failed.status, failed.reason.code) == ("failed", "lm_eval_failed")
    assert "no data in the hub" in failed.reason.message
    asked.done()
    assert read_run(asked.run).status == "failed", "only where it is asked for"
    asked.done(retry_failed=True)
    assert read_run(asked.run).status == "measured"
    assert sorted(path.name for path in asked.run.parent.iterdir()) == [asked.job.task.id]


def test_a_server_that_dies_twice_is_failed_with_its_reason(tmp_path: Path) -> None:
    asked = asked_with(tmp_path, "exit-after-requests: 2")
    asked.done("time.sleep(600)")
    record = read_run(asked.run)
    assert (record.status, record.reason.code) == ("failed", "server_died")
    assert asked.servers() == []


def test_a_job_that_is_told_to_end_stops_its_server_and_lm_eval_and_keeps_no_run(tmp_path: Path) -> None:
    asked = asked_with(tmp_path)
    process = asked.start("time.sleep(600)")
    log = asked.repository.layout.accuracy(asked.job.server.id, "r1") / "attempts" / "1" / ".lm_eval.log.part"
    deadline = time.monotonic() + 90
    while not (log.is_file() and "asked" in log.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    assert len(asked.servers()) >= 2
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert asked.servers() == []
    assert not asked.run.exists()
    assert (log.parent / "server.log").is_file(), "its logs are left to be looked at"
    asked.done()
    assert read_run(asked.run).status == "measured"


def test_another_version_of_lm_eval_starts_no_server_and_leaves_no_record(tmp_path: Path) -> None:
    asked = asked_with(tmp_path)
    said = asked.done(WRITES, "0.4.9", code=1)
    assert "lm_eval 0.4.9 is installed, and 0.4.13" in said
    assert not asked.run.exists()
    assert not (asked.run.parent.parent / "attempts").exists()


def test_what_an_engine_refuses_is_infeasible(tmp_path: Path) -> None:
    asked = asked_with(tmp_path, "refuse: no such format")
    asked.done()
    record = read_run(asked.run)
    assert record.status == "infeasible"
    assert "no such format" in record.reason.message


def test_a_lever_that_did_not_take_is_kept_and_told(tmp_path: Path) -> None:
    asked = asked_with(tmp_path, "max-num-seqs: 3, ignore-flag: max-num-seqs")
    asked.done()
    record = read_run(asked.run)
    assert record.status == "measured"
    assert "max-num-seqs" in {found["key"] for found in record.differences if not found["expected"]}
