"""Run in an engine's own environment, by its own Python: puts flags to its own argument parser, or to its configuration.

Reads a JSON object from standard input, `{"engine": "vllm" or "sglang", "treatments": [{"flags": {name: words},
"environment": {}}], "model": path}`, and prints one line, `leverlab:` and a JSON object: `{"version": text, "answers":
[null or {code, message}]}`. With a model it also makes the whole configuration, which may need the device. Imports nothing
of leverlab: it is not there.
"""

import argparse
import contextlib
import difflib
import importlib
import json
import os
import sys
from typing import Any, NoReturn


class Refused(Exception):  # noqa: N818 - not an error of this program
    """The parser's own words for why it does not accept the arguments."""


class Vllm:
    """vLLM 0.26 to 0.33."""

    name = "vLLM"

    def __init__(self) -> None:
        self.version = str(importlib.import_module("vllm").__version__)
        self.known_variables = set(importlib.import_module("vllm.envs").environment_variables)

    def parser(self) -> argparse.ArgumentParser:
        """The parser of `vllm serve`, made as the command makes it."""
        make = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser
        subparsers = make(prog="vllm").add_subparsers()
        parser: argparse.ArgumentParser = (
            importlib.import_module("vllm.entrypoints.cli.serve").ServeSubcommand().subparser_init(subparsers)
        )
        return parser

    def words(self, model: str | None) -> list[str]:
        """What stands before the flags."""
        return [model] if model else []

    def unknown_variable(self, name: str) -> bool:
        """Whether `name` looks like one of its own variables and is none."""
        return name.startswith("VLLM_") and name not in self.known_variables

    def configuration(self, arguments: Any, model: str) -> None:  # noqa: ANN401
        """Make the whole configuration as the API server does. Raises whatever vLLM raises where it refuses."""
        arguments.model = model
        engine_arguments = importlib.import_module("vllm").AsyncEngineArgs.from_cli_args(arguments)
        usage = importlib.import_module("vllm.usage.usage_lib").UsageContext.OPENAI_API_SERVER
        engine_arguments.create_engine_config(usage_context=usage)


class Sglang:
    """SGLang 0.5.17 to 0.5.23."""

    name = "SGLang"
    known_variables: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.version = str(importlib.import_module("sglang.version").__version__)
        self._arguments = importlib.import_module("sglang.srt.server_args").ServerArgs

    def parser(self) -> argparse.ArgumentParser:
        """The parser of `python -m sglang.launch_server`."""
        parser = argparse.ArgumentParser(prog="sglang serve")
        self._arguments.add_cli_args(parser)
        return parser

    def words(self, model: str | None) -> list[str]:
        """What stands before the flags. The parser demands a model, and does not look at it."""
        return ["--model-path", model or "none"]

    def unknown_variable(self, name: str) -> bool:
        """Never: SGLang reads its variables all over its code, and lists only some of them."""
        return False

    def configuration(self, arguments: Any, model: str) -> None:  # noqa: ANN401
        """Make the whole configuration as the server does. Raises whatever SGLang raises where it refuses."""
        self._arguments.from_cli_args(arguments).check_server_args()


ENGINES: dict[str, type[Vllm | Sglang]] = {"vllm": Vllm, "sglang": Sglang}


def main() -> None:
    """Answer for each treatment."""
    question = json.load(sys.stdin)
    # The engine's own start-up lines and warnings belong to the log, not to the answer.
    with contextlib.redirect_stdout(sys.stderr):
        engine = ENGINES[question["engine"]]()
        parser = strict(engine.parser())
        answers = [refusal(engine, parser, treatment, question.get("model")) for treatment in question["treatments"]]
    print("\nleverlab:" + json.dumps({"version": engine.version, "answers": answers}), flush=True)


def strict(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """`parser`, which now raises Refused instead of ending the process, and takes no abbreviation."""
    # `--max-num-seq` is a mistake, not short for `--max-num-seqs`.
    parser.allow_abbrev = False

    def refuse(message: str) -> NoReturn:
        raise Refused(message)

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def refusal(
    engine: Vllm | Sglang, parser: argparse.ArgumentParser, treatment: dict[str, Any], model: str | None
) -> dict[str, str] | None:
    """None, or the code and a sentence that names the flag."""
    its = f"{engine.name} {engine.version}"
    for name in treatment["environment"]:
        if engine.unknown_variable(name):
            return answer("unknown_variable", f"{its} knows no variable {name}{hint(name, engine.known_variables)}")
    options = {name.replace("_", "-") for name in parser._option_string_actions if name.startswith("--")}
    for name, words in treatment["flags"].items():
        # A false flag that is left out has no words.
        flag = words[0].partition("=")[0] if words else f"--{name}"
        if flag.partition(".")[0] not in options:
            if words == [f"--no-{name}"] and f"--{name}" in options:
                return answer("bad_flag_value", f"--{name} of {its} cannot be turned off: it is false unless given")
            return answer("unknown_flag", f"{its} has no flag --{name}{hint(f'--{name}', options)}")
        if not words and f"--no-{name}" in options:
            return answer("bad_flag_value", f"--{name} of {its} is turned off by `no-{name}: true`, not by false")
    saved = dict(os.environ)
    os.environ.update(treatment["environment"])
    try:
        flags = [word for words in treatment["flags"].values() for word in words]
        arguments = parser.parse_args([*engine.words(model), *flags])
        if model:
            engine.configuration(arguments, model)
    except (Refused, SystemExit) as error:
        return answer("bad_flag_value", f"{its}: {error}")
    except Exception as error:
        code = "configuration_refused" if model else "bad_flag_value"
        return answer(code, f"{its}: {type(error).__name__}: {error}")
    finally:
        os.environ.clear()
        os.environ.update(saved)
    return None


def answer(code: str, message: str) -> dict[str, str]:
    """An entry of the answers."""
    return {"code": code, "message": message}


def hint(name: str, known: set[str] | frozenset[str]) -> str:
    """The nearest known name, as the end of a sentence."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


if __name__ == "__main__":
    main()
