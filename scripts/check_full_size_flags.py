"""Puts the flags of the study behind a simulated smoke size to the real engines' own parsers, where they are installed here."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from leverlab.config import ConfigError, load
from leverlab.engines.base import EngineUnreachableError
from leverlab.engines.full_size import parse_full_size
from leverlab.layout import Layout
from leverlab.matrix.expand import expand
from leverlab.records import write_json


def main() -> int:
    """Exit code 1, and a line for each treatment that its own engine refuses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True, help="the smoke size, `NAME-smoke`")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of the run, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="what the engines said, as JSON")
    arguments = parser.parse_args()
    layout = Layout()
    try:
        configuration = load(layout.root, {**arguments.settings, "study": arguments.study})
        full = configuration.full_name(arguments.study)
        found = parse_full_size(expand(configuration, [full]), layout)
    except (ConfigError, EngineUnreachableError) as error:
        print(error, file=sys.stderr)
        return 1
    for parsed in found:
        for refusal in parsed.refusals:
            print(f"{parsed.through}: {refusal}", file=sys.stderr)
    if any(parsed.refused for parsed in found):
        return 1
    write_json(arguments.output, {"study": full, "engines": [asdict(parsed) for parsed in found]})
    for parsed in found:
        said = f"parsed by {parsed.through}, {len(parsed.refusals)} refused" if parsed.through else "not parsed"
        print(f"{full}: {parsed.servers} servers of {parsed.engine}: {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
