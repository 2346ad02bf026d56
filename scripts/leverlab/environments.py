"""Engines' environments: how each is made or found, what it has installed, and the command prefix that runs Python in it.

An engine never shares an environment with the pipeline. One with a lock is installed into `.envs/<engine>` by uv; an
existing interpreter, a container image or environment modules are only looked at. To the rest of leverlab all of them
are a command prefix: `[*prefix, "-m", "vllm…"]` runs the engine.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from packaging.markers import Marker
from packaging.utils import canonicalize_name
from uv import find_uv_bin

from leverlab.config import ConfigError
from leverlab.config.engine import Container, Engine, InProcess, Interpreter, LockedEnvironment, Module
from leverlab.records import read_json, write_json

ENVIRONMENTS: Final = Path(".envs")
"""Where locked environments are, relative to the repository."""

_CONTAINER_SCRIPT: Final = "scripts/in_container.sh"
_INSTALLED: Final = "installed.json"  # what an environment was made from; the workflow's own marker may be deleted
_PIN: Final = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[^\s;\\]+)\s*(?:;\s*(?P<marker>[^\\]+))?")
_ASK_TIMEOUT_S: Final = 300
_ASK_VERSIONS: Final = """
import importlib.metadata as metadata, json, platform
found = {}
for distribution in metadata.distributions():
    name = distribution.metadata["Name"]
    if name and name not in found:
        found[name] = distribution.version
print("\\nleverlab:" + json.dumps({"python": platform.python_version(), "packages": found}))
"""


class EnvironmentUnavailableError(Exception):
    """An engine's environment could not be made or run. The message names the cause and the remedy."""


def command_prefix(name: str, engine: Engine) -> list[str]:
    """The command that runs a Python program in the environment of the engine `name`, from the repository's folder.

    Holds no machine's path, unless config/engines.yaml does. Arguments for the interpreter follow it.
    """
    match engine.launch:
        case LockedEnvironment():
            return [str(ENVIRONMENTS / name / "bin" / "python")]
        case Interpreter(python=python):
            return [python]
        case Container() as container:
            image = _image_reference(container)
            return ["bash", _CONTAINER_SCRIPT, container.runtime, engine.device, image, container.python]
        case Module(load=modules, python=python):
            # A login shell, because that is where clusters define `module`.
            load = " ".join(f"'{module}'" for module in modules)
            return ["bash", "-lc", f'module load {load} && exec "$0" "$@"', python]
        case InProcess():
            return [sys.executable]


def _image_reference(container: Container) -> str:
    """The image by its digest; an image file has none in its name, and is compared with it when it is looked at."""
    if Path(container.image).suffix == ".sif" or "@" in container.image:
        return container.image
    return f"{container.image}@{container.digest}"


def identity_versions(lock: Path, packages: Sequence[str]) -> dict[str, str]:
    """The versions that `lock` pins for `packages` on this platform. Raises KeyError with the first that is missing."""
    pins = locked_versions(lock)
    return {package: pins[canonicalize_name(package)] for package in packages}


def locked_versions(lock: Path) -> dict[str, str]:
    """Every pin of a requirement file that applies to this platform: normalised name → version."""
    pins = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        pin = _PIN.match(line)
        if pin and (not pin["marker"] or Marker(pin["marker"].strip()).evaluate()):
            pins[str(canonicalize_name(pin["name"]))] = pin["version"]
    return pins


def installed_versions(prefix: Sequence[str], packages: Sequence[str]) -> dict[str, str]:
    """What the environment behind `prefix` says it has of `packages` (missing ones are left out), and its `python`.

    Raises EnvironmentUnavailableError where it cannot be asked.
    """
    answer = _ask(prefix)
    found = answer["packages"]
    versions = {
        package: found[canonicalize_name(package)] for package in packages if canonicalize_name(package) in found
    }
    return {"python": answer["python"], **versions}


def _ask(prefix: Sequence[str]) -> dict[str, Any]:
    """All distributions of an environment by normalised name, and its Python's version."""
    shown = " ".join(prefix)
    try:
        done = subprocess.run(
            [*prefix, "-c", _ASK_VERSIONS], capture_output=True, text=True, timeout=_ASK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentUnavailableError(f"`{shown}` does not run: {error}") from None
    # A login shell or a container may print lines of its own.
    answers = [line for line in done.stdout.splitlines() if line.startswith("leverlab:")]
    if done.returncode or not answers:
        raise EnvironmentUnavailableError(
            f"`{shown}` does not run Python: exit code {done.returncode}: {_tail(done.stderr)}"
        )
    answer = json.loads(answers[-1].removeprefix("leverlab:"))
    packages = {str(canonicalize_name(name)): version for name, version in sorted(answer["packages"].items())}
    return {"python": answer["python"], "packages": packages}


def prepare(name: str, engine: Engine, root: Path = Path()) -> dict[str, Any]:
    """Make the environment of the engine `name`, or look at the one it names; what is there, for ready.json.

    Raises ConfigError where config/engines.yaml and the environment disagree, and EnvironmentUnavailableError.
    """
    if isinstance(engine.launch, LockedEnvironment):
        return provision(name, engine.launch, root)
    return _look_at(name, engine)


def _look_at(name: str, engine: Engine) -> dict[str, Any]:
    key = f"config/engines.yaml: {name}"
    prefix = command_prefix(name, engine)
    if isinstance(engine.launch, Container):
        _check_image_file(key, engine.launch)
    try:
        answer = _ask(prefix)
    except EnvironmentUnavailableError as error:
        if isinstance(engine.launch, Interpreter):
            raise ConfigError(f"{key}.launch.python: {error}") from None
        # A cluster's login node may lack the container runtime or the modules that its compute nodes have. The trial
        # compares versions again, in the job.
        return {"engine": name, "launch": engine.launch.model_dump(), "reachable": False, "reason": str(error)}
    for package, declared in engine.versions.items():
        found = answer["packages"].get(canonicalize_name(package))
        if found is not None and found != declared:
            raise ConfigError(f"{key}.versions.{package}: declared {declared}, but `{' '.join(prefix)}` has {found}")
    return {"engine": name, "launch": engine.launch.model_dump(), "reachable": True, **answer}


def _check_image_file(key: str, container: Container) -> None:
    image = Path(container.image)
    if image.suffix != ".sif":
        return
    if not image.is_file():
        raise ConfigError(f"{key}.launch.image: there is no file {image}")
    with image.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if digest != container.digest:
        raise ConfigError(f"{key}.launch.digest: {image} has the digest {digest}, not {container.digest}")


def provision(name: str, launch: LockedEnvironment, root: Path = Path()) -> dict[str, Any]:
    """Install `.envs/<name>` from its lock, with the Python that runs this; nothing is done where that is done already.

    Order: torch's own build, the lock (each file checked against its hash), local packages. An installation that was
    interrupted is started over. Raises ConfigError for a missing file, EnvironmentUnavailableError where uv fails or
    what is installed differs from the lock.
    """
    lock = root / launch.lock
    if not lock.is_file():
        raise ConfigError(f"config/engines.yaml: {name}.launch.lock: there is no file {launch.lock}")
    folder = root / ENVIRONMENTS / name
    specification = _specification(name, launch, root)
    python = folder / "bin" / "python"
    done = folder / _INSTALLED
    if done.is_file() and python.exists():
        known = read_json(done)
        if known["specification"] == specification:
            return known
    done.unlink(missing_ok=True)
    _uv(name, ["venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
    install = ["pip", "install", "--quiet", "--no-deps", "--compile-bytecode", "--python", str(python)]
    if launch.torch:
        _install_torch(name, install, launch.torch)
    _uv(name, [*install, "--require-hashes", "--requirement", str(lock)])
    for package in launch.local:
        # Built by what the lock has installed: nothing is fetched for it.
        _uv(name, [*install, "--no-index", "--no-build-isolation", str((root / package).resolve())])
    answer = _ask([str(python)])
    pins = locked_versions(lock) | ({"torch": launch.torch} if launch.torch else {})
    wrong = {package: answer["packages"].get(package) for package, pin in pins.items()}
    wrong = {package: version for package, version in wrong.items() if version != pins[package]}
    if wrong:
        raise EnvironmentUnavailableError(f"{folder}: {wrong} was installed, and {launch.lock} says otherwise")
    record = {"engine": name, "specification": specification, "reachable": True, **answer}
    write_json(done, record)
    return record


def _specification(name: str, launch: LockedEnvironment, root: Path) -> dict[str, Any]:
    local = {}
    for package in launch.local:
        files = sorted(path for path in (root / package).rglob("*") if path.is_file())
        if not files:
            raise ConfigError(f"config/engines.yaml: {name}.launch.local: there is no package in {package}")
        local[package] = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
    lock = hashlib.sha256((root / launch.lock).read_bytes()).hexdigest()
    return {"lock": launch.lock, "lock_sha256": lock, "torch": launch.torch, "local": local, "python": sys.version}


def _install_torch(name: str, install: Sequence[str], version: str) -> None:
    """Install torch's own build, such as 2.13.0+cpu.

    It is not in the lock: such builds lie beside the package index, each machine may keep them elsewhere, and their
    hashes differ by Python version and platform. The exact version is the pin. Where pip has been told of a folder or
    page of builds, uv is told the same; otherwise, and where that has not got it, uv knows torch's own index.
    """
    backend = version.partition("+")[2] or "auto"
    links = _pip_find_links()
    if links:
        try:
            _uv(name, [*install, f"torch=={version}"], {"UV_FIND_LINKS": links})
        except EnvironmentUnavailableError as error:
            print(f"{error}\ntorch {version} is not where pip finds its builds; trying torch's own index", flush=True)
        else:
            return
    _uv(name, [*install, "--torch-backend", backend, f"torch=={version}"])


def _pip_find_links() -> str:
    """Folders and pages where pip of this interpreter looks for builds, separated by commas, as uv wants them."""
    links = os.environ.get("PIP_FIND_LINKS", "")
    if not links:
        asked = subprocess.run(
            [sys.executable, "-m", "pip", "config", "get", "global.find-links"],
            capture_output=True,
            text=True,
            check=False,
        )
        links = asked.stdout if asked.returncode == 0 else ""
    return ",".join(links.split())


def _uv(name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        [find_uv_bin(), *arguments],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EnvironmentUnavailableError(
            f"{ENVIRONMENTS / name}: uv {arguments[0]} failed: {_tail(done.stdout)}\n"
            "Without a network: run this once on a machine that has one and shares this folder, or name an existing"
            f" interpreter, a container image or environment modules in config/engines.yaml: {name}.launch"
            " (`kind: python`, `container` or `module`; docs/environments.md)."
        )


def _tail(text: str, lines: int = 12) -> str:
    return "\n".join(text.strip().splitlines()[-lines:]) or "it said nothing"
