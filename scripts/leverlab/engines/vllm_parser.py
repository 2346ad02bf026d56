"""Run in vLLM's own environment, by its own Python: puts flags to vLLM's own argument parser, or to its configuration.

Reads a JSON object from standard input, `{"treatments": [{"flags": {name: words}, "environment": {}}], "model": path}`,
and prints one line, `leverlab:` and a JSON object: `{"version": text, "answers": [null or {code, message}]}`. With a
model it also makes the whole configuration, which may need the device. Imports nothing of leverlab: it is not there.
"""

import contextlib
import difflib
import importlib
import json
import os
import sys
from typing import Any, NoReturn


class Refused(Exception):  # noqa: N818 - not an error of this program
    """The parser's own words for why it does not accept the arguments."""


def main() -> None:
    """Answer for each treatment."""
    question = json.load(sys.stdin)
    # vLLM's own start-up lines and warnings belong to the log, not to the answer.
    with contextlib.redirect_stdout(sys.stderr):
        version = str(importlib.import_module("vllm").__version__)
        parser = serve_parser()
        known = set(importlib.import_module("vllm.envs").environment_variables)
        model = question.get("model")
        answers = [refusal(parser, known, version, treatment, model) for treatment in question["treatments"]]
    print("\nleverlab:" + json.dumps({"version": version, "answers": answers}), flush=True)


def serve_parser() -> Any:  # noqa: ANN401 - vLLM's class
    """The parser of `vllm serve`, made as the command makes it (the same in vLLM 0.26 to 0.33)."""
    make = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser
    subparsers = make(prog="vllm").add_subparsers()
    parser = importlib.import_module("vllm.entrypoints.cli.serve").ServeSubcommand().subparser_init(subparsers)
    # `--max-num-seq` is a mistake, not short for `--max-num-seqs`.
    parser.allow_abbrev = False

    def refuse(message: str) -> NoReturn:
        raise Refused(message)

    parser.error = refuse
    return parser


def refusal(
    parser: Any,  # noqa: ANN401
    known_variables: set[str],
    version: str,
    treatment: dict[str, Any],
    model: str | None,
) -> dict[str, str] | None:
    """None, or the code and a sentence that names the flag."""
    for name in treatment["environment"]:
        if name.startswith("VLLM_") and name not in known_variables:
            return answer("unknown_variable", f"vLLM {version} knows no variable {name}{hint(name, known_variables)}")
    options = {name.replace("_", "-") for name in parser._option_string_actions if name.startswith("--")}
    for name, words in treatment["flags"].items():
        flag = words[0].partition("=")[0]
        if flag.partition(".")[0] not in options:
            if words == [f"--no-{name}"] and f"--{name}" in options:
                return answer(
                    "bad_flag_value", f"--{name} of vLLM {version} cannot be turned off: it is false unless given"
                )
            return answer("unknown_flag", f"vLLM {version} has no flag --{name}{hint(f'--{name}', options)}")
    saved = dict(os.environ)
    os.environ.update(treatment["environment"])
    try:
        words = [word for words in treatment["flags"].values() for word in words]
        arguments = parser.parse_args([*([model] if model else []), *words])
        if model:
            arguments.model = model
            configuration(arguments)
    except (Refused, SystemExit) as error:
        return answer("bad_flag_value", f"vLLM {version}: {error}")
    except Exception as error:
        if not model:
            return answer("bad_flag_value", f"vLLM {version}: {type(error).__name__}: {error}")
        return answer("configuration_refused", f"vLLM {version}: {type(error).__name__}: {error}")
    finally:
        os.environ.clear()
        os.environ.update(saved)
    return None


def configuration(arguments: Any) -> None:  # noqa: ANN401
    """Make the whole configuration as the API server does. Raises whatever vLLM raises where it refuses."""
    engine_arguments = importlib.import_module("vllm").AsyncEngineArgs.from_cli_args(arguments)
    usage = importlib.import_module("vllm.usage.usage_lib").UsageContext.OPENAI_API_SERVER
    engine_arguments.create_engine_config(usage_context=usage)


def answer(code: str, message: str) -> dict[str, str]:
    """An entry of the answers."""
    return {"code": code, "message": message}


def hint(name: str, known: set[str]) -> str:
    """The nearest known name, as the end of a sentence."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


if __name__ == "__main__":
    main()
