"""The exit codes of the commands that start a server, whichever they are."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from leverlab.records import JobRecord, Reason, Record, read_json, write_json
from leverlab.trial.command import command
from leverlab.trial.outcomes import Interrupted, MayPassError
from leverlab.trial.progress import Progress


class Asked(Record):
    """A specification."""

    server: str


class RefusedError(Exception):
    """What trying again will not mend."""


def finished(asked: Asked, progress: Progress) -> JobRecord:
    progress.say(f"serving {asked.server}")
    return JobRecord(server=asked.server, replicate="r1", job="0f", cells={"rate": "measured"})


def failing(error: BaseException) -> Callable[[Asked, Progress], JobRecord]:
    def run(asked: Asked, progress: Progress) -> JobRecord:
        raise error

    return run


def ran(folder: Path, run: Callable[[Asked, Progress], JobRecord]) -> int:
    write_json(folder / "spec.json", Asked(server="s"))
    return command(folder / "spec.json", folder / "record.json", folder / "log", Asked, run, (RefusedError,))


def test_a_record_is_written_and_what_was_shown_is_kept(tmp_path: Path) -> None:
    assert ran(tmp_path, finished) == 0
    assert read_json(tmp_path / "record.json")["cells"] == {"rate": "measured"}
    assert "serving s" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MayPassError(Reason(code="c", message="no device")), 75, "this may pass, try again: no device"),
        (Interrupted(15), 143, ""),
        (RefusedError("ask something else"), 1, "ask something else"),
        (OSError(errno.ENOSPC, "No space left on device"), 75, "make room and run the same command again"),
    ],
)
def test_what_ends_it_decides_the_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    assert ran(tmp_path, failing(error)) == code
    assert not (tmp_path / "record.json").exists()
    shown = capfd.readouterr()
    assert said in shown.out + shown.err


def test_what_is_not_known_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not that"):
        ran(tmp_path, failing(OSError(errno.EIO, "not that")))


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_specification_that_cannot_be_read_names_its_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str | None
) -> None:
    spec = tmp_path / "spec.json"
    if content is not None:
        spec.write_text(content)
    assert command(spec, tmp_path / "record.json", None, Asked, finished) == 1
    assert f"{spec}: " in (told := capfd.readouterr().err) and "start Snakemake again" in told


CRASHING = """
import ctypes, resource, sys, threading
from pathlib import Path
from leverlab.trial.command import command
from leverlab.records import Record

class Asked(Record):
    server: str

def samples(begun):
    begun.set()
    threading.Event().wait()

def run(asked, progress):
    begun = threading.Event()
    threading.Thread(target=samples, args=(begun,), daemon=True).start()
    begun.wait()
    if asked.server == "in a trial":
        with progress.also_to(Path("trial/client.log")):
            ctypes.string_at(0)
    with progress.also_to(Path("trial/client.log")):
        pass
    ctypes.string_at(0)

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
log = Path(sys.argv[1]) if len(sys.argv) > 1 else None
command(Path("spec.json"), Path("record.json"), log, Asked, run)
"""


@pytest.mark.parametrize(
    ("server", "log", "told_in"),
    [("in a trial", "log", "trial/client.log"), ("after it", "log", "log"), ("after it", None, "stderr")],
)
def test_a_crash_in_native_code_leaves_the_stacks_of_all_threads(
    tmp_path: Path, server: str, log: str | None, told_in: str
) -> None:
    write_json(tmp_path / "spec.json", Asked(server=server))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"}
    ended = subprocess.run(
        [sys.executable, "-c", CRASHING, *([log] if log else [])],
        cwd=tmp_path,
        env=environment,
        stderr=(tmp_path / "stderr").open("wb"),
        check=False,
    )
    assert ended.returncode == -signal.SIGSEGV
    told = (tmp_path / told_in).read_text()
    assert "Fatal Python error: Segmentation fault" in told
    assert "in string_at" in told and "in run" in told, "the thread that crashed"
    assert "in samples" in told, "the other one"
