"""What the commands that make something of one entry of the configuration have in common."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from leverlab.config import ConfigError, Configuration, load
from leverlab.config.base import nearest


def entry_command(
    about: str | None,
    kind: Literal["engine", "model"],
    example: str,
    output: str,
    make: Callable[[Configuration, str, Path], str],
) -> int:
    """Ask the command line for an entry of config/<kind>s.yaml, call `make(configuration, name, output)` and print what it says.

    `about` and `example` are for `--help`, `output` says what is written. Exit code 1, and a message that names the remedy, where the
    entry is not there or `make` raises ConfigError.
    """
    parser = argparse.ArgumentParser(description=about, epilog=f"example: {example}")
    parser.add_argument(f"--{kind}", required=True, dest="name", help=f"an entry of config/{kind}s.yaml")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the run, as JSON")
    parser.add_argument("--output", type=Path, required=True, help=output)
    arguments = parser.parse_args()
    try:
        configuration = load(Path(), {"study": [], **arguments.settings})
        entries = configuration.engines if kind == "engine" else configuration.models
        if arguments.name not in entries:
            raise ConfigError(f"config/{kind}s.yaml: there is no {arguments.name!r}{nearest(arguments.name, entries)}")
        print(make(configuration, arguments.name, arguments.output))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
