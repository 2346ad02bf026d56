"""Makes a study's tables from the cells that are measured: results/studies/<study>/{requests,cells,effects,saturation,accuracy}.parquet."""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from leverlab.aggregate.tables import write_accuracy, write_study
from leverlab.config import ConfigError, load
from leverlab.layout import Layout
from leverlab.matrix.expand import expand


def main() -> int:
    """Exit code 1, and a message that names file and key, where the configuration is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: scripts/aggregate.py --study first-look")
    parser.add_argument("--study", required=True, help="a name of config/studies")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of config/ and results/")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the run, as JSON")
    arguments = parser.parse_args()
    layout = Layout(arguments.root)
    try:
        configuration = load(layout.root, {**arguments.settings, "study": arguments.study})
        (study,) = expand(configuration, configuration.selected_studies()).studies
    except ConfigError as error:
        print(f"aggregate: {error}", file=sys.stderr)
        return 1
    rows = write_study(study, layout)
    asked = write_accuracy(study, configuration, layout)
    counts = Counter("invalid" if row["checks"] == "invalid" else row["status"] for row in rows)
    print(f"{layout.study(study.name)}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    if asked:
        told = Counter(row["status"] for row in asked if row["leading"])
        print(f"accuracy: {', '.join(f'{count} servers {name}' for name, count in told.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
