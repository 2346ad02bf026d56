"""Prints the matrix of studies: servers, load points, what is measured, and what the rest would take."""

import argparse
import json
import sys

from leverlab.config import ConfigError, load
from leverlab.layout import Layout
from leverlab.matrix.expand import expand
from leverlab.plan import render_plan


def main() -> int:
    """Exit code 1, and a message that names file and key, where the configuration is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: scripts/plan.py --study first-look")
    parser.add_argument("--study", required=True, nargs="+", help="names of config/studies, or `all`")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the run, as JSON")
    arguments = parser.parse_args()
    layout = Layout()
    try:
        names = arguments.study if arguments.study != ["all"] else "all"
        configuration = load(layout.root, {**arguments.settings, "study": names})
        matrix = expand(configuration, configuration.selected_studies())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(render_plan(matrix, layout), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
