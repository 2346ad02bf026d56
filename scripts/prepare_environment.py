"""Makes an engine's environment, or looks at the one that config/engines.yaml names, and writes its marker."""

import argparse
import json
import sys
from pathlib import Path

from leverlab.config import ConfigError, load
from leverlab.config.base import nearest
from leverlab.environments import EnvironmentUnavailableError, prepare
from leverlab.records import write_json


def main() -> int:
    """Exit code 1, and a message that names the remedy, where the environment cannot be had."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: scripts/prepare_environment.py --engine vllm-cpu --output .envs/vllm-cpu/ready.json",
    )
    parser.add_argument("--engine", required=True, help="an entry of config/engines.yaml")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the run, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="the marker: what the environment has installed")
    arguments = parser.parse_args()
    try:
        configuration = load(Path(), {"study": [], **arguments.settings})
        if arguments.engine not in configuration.engines:
            raise ConfigError(
                f"config/engines.yaml: there is no {arguments.engine!r}{nearest(arguments.engine, configuration.engines)}"
            )
        record = prepare(arguments.engine, configuration.engines[arguments.engine])
    except (ConfigError, EnvironmentUnavailableError) as error:
        print(error, file=sys.stderr)
        return 1
    write_json(arguments.output, record)
    if record["reachable"]:
        print(f"{arguments.engine}: Python {record['python']}, {len(record['packages'])} packages")
    else:
        print(f"{arguments.engine}: cannot be reached from this machine, the job will look: {record['reason']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
