"""Draws a workload for one replicate: requests.jsonl and card.json, beside the workload.json that says what to draw."""

import argparse
import json
import sys
from pathlib import Path

from leverlab.config import ConfigError, load
from leverlab.config.base import nearest
from leverlab.layout import CARD_FILE, Layout
from leverlab.matrix.cells import ReplicateKey, workload_seed
from leverlab.models.prepare import model_folder
from leverlab.records import read_json
from leverlab.workloads import draw


def main() -> int:
    """Exit code 1, and a message that names the remedy, where the workload cannot be drawn."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: scripts/draw_workload.py --workload shared-prefix_tiny-llama-0123456789 --replicate r1",
    )
    parser.add_argument("--workload", required=True, help="a workload's id: a folder of results/workloads")
    parser.add_argument("--replicate", required=True, type=ReplicateKey.parse, help="r1, r2, …")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the run, as JSON")
    arguments = parser.parse_args()
    layout = Layout()
    try:
        described = read_json(layout.workload_record(arguments.workload))
        configuration = load(layout.root, {"study": [], **arguments.settings})
        model, sharegpt_path = described["model"], configuration.settings.sharegpt_path
        if model not in configuration.models:
            raise ConfigError(f"config/models.yaml: there is no {model!r}{nearest(model, configuration.models)}")
        folder = layout.workload(arguments.workload, str(arguments.replicate))
        draw(
            described["identity"],
            workload_seed(described["identity"], arguments.replicate),
            model_folder(model, configuration.models[model], layout),
            folder,
            None if sharegpt_path is None else Path(sharegpt_path).expanduser(),
        )
    except FileNotFoundError as error:
        print(f"{error.filename}: not there: it is written when Snakemake starts a run that needs it", file=sys.stderr)
        return 1
    except (ConfigError, ValueError) as error:
        print(f"{arguments.workload}: {error}", file=sys.stderr)
        return 1
    card = read_json(folder / CARD_FILE)
    print(
        f"{card['requests']} requests, {card['prompt_tokens']['total']:,} prompt and "
        f"{card['output_tokens']['total']:,} output tokens, seed {card['seed']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
