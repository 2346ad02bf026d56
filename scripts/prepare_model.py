"""Fetches, checks or makes a model's files and writes its model.json."""

import argparse
import json
import sys
from pathlib import Path

from leverlab.config import ConfigError, load
from leverlab.config.base import nearest
from leverlab.layout import Layout
from leverlab.models.prepare import prepare_model
from leverlab.records import read_json


def main() -> int:
    """Exit code 1, and a message that names the remedy, where the files cannot be had."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: scripts/prepare_model.py --model tiny-llama --output results/models/tiny-llama/model.json",
    )
    parser.add_argument("--model", required=True, help="an entry of config/models.yaml")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the run, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="results/models/<model>/model.json")
    arguments = parser.parse_args()
    try:
        configuration = load(Path(), {"study": [], **arguments.settings})
        if arguments.model not in configuration.models:
            raise ConfigError(
                f"config/models.yaml: there is no {arguments.model!r}{nearest(arguments.model, configuration.models)}"
            )
        layout = Layout(arguments.output.parents[3])
        record = prepare_model(arguments.model, configuration.models[arguments.model], layout)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    size = read_json(record)["dimensions"]
    count = f"{size['parameters'] / 1e6:,.1f} million parameters" if size["parameters"] else "parameters not counted"
    print(f"{arguments.model}: {size['layers']} layers, hidden {size['hidden']}, {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
