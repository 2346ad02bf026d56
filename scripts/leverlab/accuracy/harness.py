"""lm_eval, run in its own environment: a task found, its data overridden, the served endpoint asked, what it wrote read."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leverlab.config.base import nearest
from leverlab.records import Score, write_bytes, write_json
from leverlab.redaction import Redactor

RESULTS_FILE: Final = "results.json"
SAMPLES_FILE: Final = "samples.jsonl"
LOG_FILE: Final = "lm_eval.log"

_KEY_VARIABLE: Final = "OPENAI_API_KEY"
"""Where the model type `local-completions` looks for the key: it is on no command line."""

_FIND_TIMEOUT_S: Final = 300
_POLL_S: Final = 0.5
_STOP_S: Final = 10.0
_RETRIES: Final = 3
_TAIL_LINES: Final = 15
_MARK: Final = "leverlab:"
_FIND: Final = f"""
import importlib.metadata, json, sys
from lm_eval.tasks import TaskManager
manager = TaskManager()
entry = manager.task_index.get(sys.argv[1])
found = {{"version": importlib.metadata.version("lm-eval"), "known": [], "path": None, "output_type": None, "splits": []}}
if entry is None:
    found["known"] = sorted(manager.task_index)
elif "task" in entry.cfg and isinstance(entry.cfg["task"], str) and entry.yaml_path is not None:
    from lm_eval.tasks._yaml_loader import load_yaml
    cfg = load_yaml(entry.yaml_path, resolve_func=False)
    found["path"], found["output_type"] = str(entry.yaml_path), cfg.get("output_type", "generate_until")
    found["splits"] = sorted({{cfg[key] for key in cfg if key.endswith("_split") and isinstance(cfg[key], str)}})
print("\\n{_MARK}" + json.dumps(found))
"""


class CannotAskError(Exception):
    """What is installed here cannot ask this: nothing was asked, and nothing is recorded. The message says what to do."""


class HarnessError(Exception):
    """lm_eval came to grief. `tail` is the end of what it said."""

    def __init__(self, message: str, tail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.tail = list(tail)


@dataclass(frozen=True, slots=True)
class FoundTask:
    """A task as the installed lm_eval knows it: its version, the task's own file, and the splits that it reads."""

    version: str
    path: Path
    splits: Sequence[str]


def find_task(prefix: Sequence[str], name: str) -> FoundTask:
    """The task `name` in the environment behind `prefix`.

    Raises CannotAskError for one that is not there, for a group of tasks, and for one that is scored by likelihoods.
    """
    command = [*prefix, "-c", _FIND, name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_FIND_TIMEOUT_S, check=False, env=_quiet()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotAskError(f"`{' '.join(prefix)}` does not run lm_eval: {error}") from None
    answers = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not answers:
        said = "\n".join(done.stderr.splitlines()[-_TAIL_LINES:])
        raise CannotAskError(f"`{' '.join(prefix)}` does not run lm_eval: {said}")
    found = json.loads(answers[-1].removeprefix(_MARK))
    if found["known"]:
        raise CannotAskError(
            f"accuracy.task: lm_eval {found['version']} has no {name!r}{nearest(name, found['known'])}"
        )
    if found["path"] is None:
        raise CannotAskError(f"accuracy.task: {name!r} is a group of tasks: name one task of it")
    if found["output_type"] != "generate_until":
        raise CannotAskError(
            f"accuracy.task: {name!r} is scored by likelihoods ({found['output_type']}), which not every server tells: name a task "
            "whose answers are generated, such as gsm8k"
        )
    return FoundTask(found["version"], Path(found["path"]), found["splits"])


def check_splits(task: FoundTask, files: Collection[str]) -> None:
    """See that local `files`, by split, hold all that the task reads. Raises CannotAskError."""
    missing = sorted(set(task.splits) - set(files))
    if missing:
        raise CannotAskError(
            f"accuracy.data: the task reads the splits {', '.join(task.splits)}, and there is no file {missing[0]}.jsonl"
        )


def write_task(folder: Path, task: FoundTask, files: Mapping[str, Path]) -> str:
    """What `--tasks` names: the task with local `files` in place of its data."""
    override = {
        "include": str(task.path),
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(files[split].resolve()) for split in task.splits}},
    }
    path = folder / "task.yaml"
    # JSON is YAML, and has no surprises.
    write_json(path, override)
    return str(path)


def arguments(task: str, asked: Mapping[str, Any], url: str, model: str, timeout_s: float, output: Path) -> list[str]:
    """The arguments after the interpreter. `asked` is the identity of what is asked; greedy decoding is the task's own."""
    model_arguments = {
        "model": model,
        "base_url": url,
        "num_concurrent": asked.get("concurrency", 8),
        "max_retries": _RETRIES,
        "timeout": round(timeout_s),
        # Text goes out as it is and the server's tokenizer reads it; likelihoods, which need another, are not asked for.
        "tokenized_requests": False,
        "tokenizer_backend": None,
        "seed": asked.get("seed", 1234),
    }
    return [
        *("-m", "lm_eval", "run"),
        *("--model", "local-completions", "--model_args", json.dumps(model_arguments)),
        *("--tasks", task),
        *("--seed", str(asked.get("seed", 1234))),
        *("--gen_kwargs", json.dumps({"temperature": 0, "do_sample": False})),
        *(["--num_fewshot", str(asked["few_shot"])] if "few_shot" in asked else []),
        *(["--limit", str(asked["limit"])] if "limit" in asked else []),
        *("--output_path", str(output), "--log_samples"),
    ]


def run(
    command: Sequence[str],
    api_key: str,
    folder: Path,
    *,
    offline: bool,
    cores: Sequence[int],
    redactor: Redactor,
    check_alive: Callable[[], None],
    progress: Callable[[str], None],
) -> None:
    """Run lm_eval to its end, its log in `folder`. Every way out ends it. Raises HarnessError, and what `check_alive` raises."""
    environment = {**_quiet(), _KEY_VARIABLE: api_key, "HF_DATASETS_CACHE": str(folder / "datasets")}
    if offline:
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    log, said = folder / LOG_FILE, folder / f".{LOG_FILE}.part"
    allowed = os.sched_getaffinity(0)
    with said.open("wb") as output:
        # The process inherits the client's cores from this thread, which has them for that moment.
        os.sched_setaffinity(0, cores or allowed)
        try:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        finally:
            os.sched_setaffinity(0, allowed)
    try:
        while process.poll() is None:
            check_alive()
            progress(_last_line(said))
            time.sleep(_POLL_S)
    finally:
        _end(process)
        text = redactor.text(said.read_text(encoding="utf-8", errors="replace"))
        write_bytes(log, text.encode())
        said.unlink()
    if process.returncode != 0:
        check_alive()
        tail = [line for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
        last = tail[-1] if tail else "it said nothing"
        raise HarnessError(f"lm_eval ended with status {process.returncode}: {last}", tail)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)


def _quiet() -> dict[str, str]:
    """The environment without keys of other endpoints, and without what would report to somebody."""
    kept = {name: value for name, value in os.environ.items() if name != _KEY_VARIABLE}
    return {**kept, "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def take_results(output: Path, folder: Path) -> dict[str, Any]:
    """Move what lm_eval wrote below `output` to `folder` under lasting names; its results. Raises HarnessError."""
    found = {name: sorted(output.rglob(pattern)) for name, pattern in _WRITTEN.items()}
    for name, paths in found.items():
        if len(paths) != 1:
            raise HarnessError(f"lm_eval wrote {len(paths)} files for {name}, and one is expected")
        paths[0].rename(folder / name)
    results: dict[str, Any] = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    return results


_WRITTEN: Final = {RESULTS_FILE: "results_*.json", SAMPLES_FILE: "samples_*.jsonl"}


def scores_of(results: Mapping[str, Any]) -> list[Score]:
    """The scores of the one task in `results`, in the order of its filters. Raises HarnessError where there is none."""
    (name, own), *_ = results["results"].items()
    filters = [each["name"] for each in results["configs"][name].get("filter_list") or []] or ["none"]
    better = results.get("higher_is_better", {}).get(name, {})
    count = int(results["n-samples"][name]["effective"])
    found = []
    for key, value in own.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = own.get(f"{metric}_stderr,{chosen}")
        found.append(
            Score(
                metric=metric,
                filter=chosen,
                value=float(value),
                standard_error=float(error) if isinstance(error, int | float) else None,
                questions=count,
                higher_is_better=better.get(metric) is not False,
            )
        )
    if not found:
        raise HarnessError(f"lm_eval's results hold no score of {name}")
    return sorted(found, key=lambda score: filters.index(score.filter) if score.filter in filters else len(filters))
