"""Puts the flags of every treatment to its engine's own argument parser, before anything is submitted."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from leverlab.config import ConfigError, load
from leverlab.config.base import nearest
from leverlab.engines.acceptance import check_engine
from leverlab.engines.base import EngineUnreachableError
from leverlab.layout import Layout
from leverlab.matrix.expand import expand
from leverlab.records import write_json


def main() -> int:
    """Exit code 1, and a line for each treatment that is refused, naming lever and flag."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: scripts/check_flags.py --engine vllm-cpu --study first-look --output results/flags/vllm-cpu.json",
    )
    parser.add_argument("--engine", required=True, help="an entry of config/engines.yaml")
    parser.add_argument("--study", required=True, nargs="+", help="names of config/studies, or `all`")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the run, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="what the engine said, as JSON")
    arguments = parser.parse_args()
    layout = Layout()
    try:
        names = arguments.study if arguments.study != ["all"] else "all"
        configuration = load(layout.root, {**arguments.settings, "study": names})
        if arguments.engine not in configuration.engines:
            known = nearest(arguments.engine, configuration.engines)
            raise ConfigError(f"config/engines.yaml: there is no {arguments.engine!r}{known}")
        found = check_engine(arguments.engine, expand(configuration, configuration.selected_studies()), layout)
    except (ConfigError, EngineUnreachableError) as error:
        print(error, file=sys.stderr)
        return 1
    for refusal in found.refusals:
        print(refusal, file=sys.stderr)
    if found.refusals:
        print(f"{arguments.engine} refuses {len(found.refusals)} of {found.servers} servers", file=sys.stderr)
        return 1
    write_json(arguments.output, asdict(found))
    if found.reachable:
        print(f"{arguments.engine} accepts the flags of {found.servers} servers ({found.asked} asked now)")
    else:
        print(f"{arguments.engine} cannot be reached from this machine: each job will ask it first")
    return 0


if __name__ == "__main__":
    sys.exit(main())
