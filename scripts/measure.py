"""Measure what is missing of one server and replicate: start it, replay each workload, keep each cell, stop it.

Exit codes: 0, each cell has a record (measured, infeasible or failed); 75, something that may pass (try again, finished
cells are kept); 130 and 143, told to end by SIGINT or SIGTERM; 1, an error that trying again will not mend; 2, wrong usage.
"""

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from leverlab.records import JobSpecification, read_json, write_json
from leverlab.trial.cell_files import DamagedCellError, DiskFullError, told_of_full_disk
from leverlab.trial.outcomes import EX_TEMPFAIL, Interrupted, MayPassError
from leverlab.trial.progress import Progress
from leverlab.trial.runner import run_job


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: scripts/measure.py --spec results/servers/SERVER/r1/jobs/HASH.spec.json "
        "--output results/servers/SERVER/r1/jobs/HASH.json",
    )
    parser.add_argument("--spec", type=Path, required=True, help="what to measure: jobs/<hash>.spec.json")
    parser.add_argument("--output", type=Path, required=True, help="the job's record: jobs/<hash>.json")
    parser.add_argument("--log", type=Path, help="a file for what is shown on the terminal")
    arguments = parser.parse_args()
    try:
        specification = JobSpecification.model_validate(read_json(arguments.spec))
    except (OSError, ValidationError, ValueError) as error:
        print(f"{arguments.spec}: {error}; start Snakemake again, which writes it", file=sys.stderr)
        return 1
    with Progress(arguments.log) as progress:
        try:
            with told_of_full_disk(arguments.output.parent):
                write_json(arguments.output, run_job(specification, progress))
        except MayPassError as error:
            progress.say(f"this may pass, try again: {error}")
            return EX_TEMPFAIL
        except Interrupted as interrupted:
            return interrupted.exit_status
        except DamagedCellError as error:
            progress.say(str(error))
            return 1
        except DiskFullError as error:
            print(error, file=sys.stderr)
            return EX_TEMPFAIL
    return 0


if __name__ == "__main__":
    sys.exit(main())
