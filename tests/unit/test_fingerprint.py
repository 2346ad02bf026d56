"""The fingerprint: what is there is said, what cannot be seen is unknown, and nothing that fails fails the trial."""

import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from leverlab.records import JobSpecification
from leverlab.static_batching import STATIC_VERSION
from leverlab.trial import fingerprint as module
from leverlab.trial.fingerprint import UNKNOWN, fingerprint
from leverlab.trial.owner import Owner
from leverlab.truth import TRUTH_VERSION


def job(**changed: object) -> JobSpecification:
    values = {
        "server": "s", "identity": {}, "replicate": "r1", "job": "j", "cells": [], "engine": "e", "engine_kind": "vllm",
        "device": "cpu", "gpu_count": 0, "command_prefix": [sys.executable], "identity_packages": ["pydantic"],
        "model_folder": "m", "start_timeout_s": 1, "order_seed": 1,
    }  # fmt: skip
    return JobSpecification(**{**values, **changed})


def test_it_says_where_and_with_what() -> None:
    found = fingerprint(job())
    assert found["node"]["hostname"] == socket.gethostname()
    assert found["node"]["boot_id"] == Owner.current().boot != ""
    assert found["cpu"]["allowed"] == sorted(os.sched_getaffinity(0))
    assert found["versions"].keys() == {"python", "pydantic"}
    assert found["versions"]["python"] == platform.python_version()
    assert found["gpu"] == {}
    json.dumps(found, allow_nan=False)


def test_the_commit_and_whether_it_is_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    monkeypatch.chdir(tmp_path)
    assert fingerprint(job())["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "file").write_text("two")
    assert fingerprint(job())["git"]["dirty"] is True


def test_what_cannot_be_seen_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: 1 / 0)
    monkeypatch.setattr(module, "boot_id", lambda: "")
    found = fingerprint(job(device="cuda", command_prefix=["/nowhere/python"]), ["GPU-that-is-not-here"])
    assert (found["git"], found["memory"], found["versions"]) == (UNKNOWN, UNKNOWN, UNKNOWN)
    assert found["gpu"] == found["node"]["boot_id"] == UNKNOWN


def test_the_truth_engine_has_a_version_of_its_own() -> None:
    assert fingerprint(job(engine_kind="truth", identity_packages=[]))["versions"] == {"truth": TRUTH_VERSION}


def test_the_static_server_has_a_version_beside_those_of_its_packages() -> None:
    versions = fingerprint(job(engine_kind="static"))["versions"]
    assert versions.keys() == {"python", "pydantic", "static"} and versions["static"] == STATIC_VERSION


def test_an_image_is_known_by_its_digest() -> None:
    prefix = ["env", "IMAGE=registry/vllm@sha256:abc", sys.executable]
    assert fingerprint(job(command_prefix=prefix))["versions"]["image"] == "sha256:abc"


def test_slurms_names_are_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert fingerprint(job())["slurm"] == {}
    for name, value in (("SLURM_JOB_ID", "17"), ("SLURM_JOB_GPUS", "2,3"), ("CUDA_VISIBLE_DEVICES", "0,1")):
        monkeypatch.setenv(name, value)
    slurm = fingerprint(job())["slurm"]
    assert (slurm["id"], slurm["gpus"], slurm["visible_devices"]) == ("17", [2, 3], "0,1")


def test_the_sites_own_settings_are_kept_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    monkeypatch.setenv("CUDA_TEST_TOKEN", "secret")
    environment = fingerprint(job())["environment"]
    assert environment["NCCL_SOCKET_IFNAME"] == "ib0"
    assert "CUDA_TEST_TOKEN" not in environment
