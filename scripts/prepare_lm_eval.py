"""Makes the environment of lm_eval from envs/lm-eval.txt, and writes its marker."""

import argparse
import sys
from pathlib import Path

from leverlab.accuracy.plan import LM_EVAL
from leverlab.config import ConfigError
from leverlab.config.engine import LockedEnvironment
from leverlab.environments import EnvironmentUnavailableError, provision
from leverlab.records import write_json


def main() -> int:
    """Exit code 1, and a message that names the remedy, where the environment cannot be had."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: scripts/prepare_lm_eval.py --output .envs/lm-eval/ready.json"
    )
    parser.add_argument("--output", type=Path, required=True, help="the marker: what the environment has installed")
    arguments = parser.parse_args()
    try:
        record = provision(LM_EVAL, LockedEnvironment(lock=f"envs/{LM_EVAL}.txt"))
    except (ConfigError, EnvironmentUnavailableError) as error:
        print(f"{error}\nOr name an interpreter that has lm_eval: --config lm_eval_python=PYTHON", file=sys.stderr)
        return 1
    write_json(arguments.output, record)
    print(f"{LM_EVAL}: Python {record['python']}, {len(record['packages'])} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
