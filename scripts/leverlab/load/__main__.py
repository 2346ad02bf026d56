"""The replay process: `python -m leverlab.load JOB` runs the job in that file (see leverlab.load.replay)."""

import os
import sys
from dataclasses import replace as with_changes
from pathlib import Path

import msgspec

from leverlab.load.log import write_log
from leverlab.load.plan import KEY_VARIABLE
from leverlab.load.replay import ReplayJob, replay


def main(arguments: list[str]) -> None:
    """Run the job; print `done all` lines as it goes; write its raw log to where the job says."""
    job = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=ReplayJob)
    output = sys.stdout.fileno()

    def progress(done: int, of: int) -> None:
        os.write(output, b"%d %d\n" % (done, of))

    log = replay(
        with_changes(job.target, api_key=os.environ.get(KEY_VARIABLE)),
        job.requests,
        job.load,
        timeout_s=job.timeout_s,
        cores=job.cores,
        progress=progress,
    )
    write_log(log, Path(job.log))


if __name__ == "__main__":
    main(sys.argv[1:])
