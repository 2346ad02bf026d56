"""What the commands of the jobs that start a server have in common: a specification in, a record out, and an exit code."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from leverlab.records import Record, read_json, write_json
from leverlab.trial.cell_files import DiskFullError, told_of_full_disk
from leverlab.trial.outcomes import EX_TEMPFAIL, Interrupted, MayPassError
from leverlab.trial.progress import Progress

Specification = TypeVar("Specification", bound=Record)


def command(
    spec: Path,
    output: Path,
    log: Path | None,
    kind: type[Specification],
    run: Callable[[Specification, Progress], BaseModel],
    final: tuple[type[Exception], ...] = (),
) -> int:
    """Write what `run` makes of the specification of `kind` in the file `spec` to `output`; the exit code.

    0: there is a record, of a failure too. 75: it may pass, a full disk among it. 128 + the signal: told to end. 1: the specification
    cannot be read, or one of `final`, errors that trying again will not mend. All of it is told on the terminal; what happens in `run`, a
    full disk excepted, in `log` too.
    """
    try:
        specification = kind.model_validate(read_json(spec))
    except (OSError, ValueError) as error:
        print(f"{spec}: {error}; start Snakemake again, which writes it", file=sys.stderr)
        return 1
    with Progress(log) as progress:
        try:
            with told_of_full_disk(output.parent):
                write_json(output, run(specification, progress))
        except MayPassError as error:
            progress.say(f"this may pass, try again: {error}")
            return EX_TEMPFAIL
        except Interrupted as interrupted:
            return interrupted.exit_status
        except final as error:
            progress.say(str(error))
            return 1
        except DiskFullError as error:
            print(error, file=sys.stderr)
            return EX_TEMPFAIL
    return 0
