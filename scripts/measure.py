"""Measure what is missing of one server and replicate: start it, replay each workload, keep each cell, stop it.

Exit codes: 0, each cell has a record (measured, infeasible or failed); 75, something that may pass (try again, finished
cells are kept); 130 and 143, told to end by SIGINT or SIGTERM; 1, an error that trying again will not mend; 2, wrong usage.
"""

import argparse
import sys
from pathlib import Path

from leverlab.records import JobSpecification
from leverlab.trial.cell_files import DamagedCellError
from leverlab.trial.command import command
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
    return command(arguments.spec, arguments.output, arguments.log, JobSpecification, run_job, (DamagedCellError,))


if __name__ == "__main__":
    sys.exit(main())
