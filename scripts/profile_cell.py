"""Run one twin: a cell's server and load again under a profiler, and keep what it shows.

Exit codes: 0, there is a record (of a twin that failed, too); 75, something that may pass; 130 and 143, told to end by
SIGINT or SIGTERM; 1, an error that trying again will not mend; 2, wrong usage.

With --again nothing is run: the tables of a twin are made anew from what its profiler left, or, where that is elsewhere, its
kernels are classed anew by config/kernel_classes.yaml.
"""

import argparse
import sys
from pathlib import Path

from leverlab.config import ConfigError
from leverlab.profile.again import again
from leverlab.profile.recorders import NothingRecordedError
from leverlab.profile.twin import run_twin
from leverlab.records import TwinSpecification
from leverlab.trial.command import command


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: scripts/profile_cell.py --again results/profiles/SERVER/PHASE/nsys",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--spec", type=Path, help="what to run: <twin>.spec.json")
    what.add_argument("--again", type=Path, nargs="+", help="folders of twins whose tables to make anew")
    parser.add_argument("--output", type=Path, help="with --spec: the twin's record, <twin>.json")
    parser.add_argument("--log", type=Path, help="a file for what is shown on the terminal")
    arguments = parser.parse_args()
    if arguments.again:
        return _again(arguments.again)
    if arguments.output is None:
        parser.error("--spec needs --output")
    return command(arguments.spec, arguments.output, arguments.log, TwinSpecification, run_twin)


def _again(folders: list[Path]) -> int:
    for folder in folders:
        try:
            print(f"{folder}: {again(folder)}")
        except (NothingRecordedError, ConfigError, FileNotFoundError) as error:
            print(f"{folder}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
