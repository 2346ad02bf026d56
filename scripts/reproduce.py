"""Measure one recorded cell again, alone, and say whether its number holds.

Exit codes: 0, there is a verdict (whatever it is); 75, something that may pass; 130 and 143, told to end; 1, the cell is not
recorded, or cannot be started here.
"""

import argparse
import json
import sys
from pathlib import Path

from leverlab.aggregate.measured import stored_cell
from leverlab.config import ConfigError, load
from leverlab.layout import Layout
from leverlab.records import write_bytes, write_json
from leverlab.reproduce.again import prepare
from leverlab.reproduce.comparison import compare
from leverlab.reproduce.evidence import gather, replicate_of
from leverlab.reproduce.page import as_mapping, headline, render
from leverlab.trial.cell_files import DiskFullError
from leverlab.trial.outcomes import EX_TEMPFAIL, Interrupted, MayPassError
from leverlab.trial.progress import Progress
from leverlab.trial.runner import run_job


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: scripts/reproduce.py --cell CELL --number 1 --output results/reproductions/CELL/1/verdict.html",
    )
    parser.add_argument("--cell", required=True, help="the cell's id, from a report's cell table")
    parser.add_argument(
        "--number", type=int, required=True, help="which reproduction of the cell: each has its own draw"
    )
    parser.add_argument("--output", type=Path, required=True, help="results/reproductions/<cell>/<number>/verdict.html")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the run, as JSON")
    parser.add_argument("--log", type=Path, help="a file for what is shown on the terminal")
    arguments = parser.parse_args()
    with Progress(arguments.log) as progress:
        try:
            return _reproduce(arguments.cell, arguments.number, arguments.output, arguments.settings, progress)
        except (LookupError, ConfigError, ValueError) as error:
            progress.say(str(error.args[0] if error.args else error))
            return 1
        except MayPassError as error:
            progress.say(f"this may pass, try again: {error}")
            return EX_TEMPFAIL
        except DiskFullError as error:
            progress.say(str(error))
            return EX_TEMPFAIL
        except Interrupted as interrupted:
            return interrupted.exit_status


def _reproduce(cell: str, number: int, output: Path, settings: dict[str, object], progress: Progress) -> int:
    layout = Layout()
    configuration = load(layout.root, {"study": [], **settings})
    evidence = gather(cell, layout)
    progress.say(f"{len(evidence.valid)} valid replicates of {cell} are recorded in {evidence.source}")
    specification = prepare(evidence, number, configuration, layout)
    run_job(specification, progress)
    own = Layout(Path(specification.results))
    stored = stored_cell(own.cell(specification.server, specification.replicate, evidence.phase))
    new = replicate_of(specification.replicate, stored)
    if new is None:
        progress.say(
            f"the cell could not be measured here: {stored.reason.message if stored.reason else stored.status}"
        )
        return 1
    outcome = compare(evidence, new)
    write_json(output.with_suffix(".json"), as_mapping(evidence, number, new, outcome))
    write_bytes(output, render(evidence, number, new, outcome).encode())
    progress.say(headline(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
