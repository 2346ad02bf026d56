"""Ask one server a task's questions and the study's prompts: start it, run lm_eval against it, keep the run, stop it.

Exit codes: 0, the run has a record (measured, infeasible or failed); 75, something that may pass (try again); 130 and 143,
told to end by SIGINT or SIGTERM; 1, an error that trying again will not mend; 2, wrong usage.
"""

import argparse
import sys
from pathlib import Path

from leverlab.accuracy.harness import CannotAskError
from leverlab.accuracy.job import run_job
from leverlab.records import AccuracySpecification
from leverlab.trial.command import command


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: scripts/accuracy.py --spec results/accuracy/SERVER/jobs/HASH.spec.json "
        "--output results/accuracy/SERVER/jobs/HASH.json",
    )
    parser.add_argument("--spec", type=Path, required=True, help="what to ask: jobs/<hash>.spec.json")
    parser.add_argument("--output", type=Path, required=True, help="the job's record: jobs/<hash>.json")
    parser.add_argument("--log", type=Path, help="a file for what is shown on the terminal")
    arguments = parser.parse_args()
    return command(arguments.spec, arguments.output, arguments.log, AccuracySpecification, run_job, (CannotAskError,))


if __name__ == "__main__":
    sys.exit(main())
