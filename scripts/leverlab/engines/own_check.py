"""Asks an engine, in its own environment, whether it accepts flags or a whole configuration."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leverlab.engines.base import EngineUnreachableError, Launch, Settings
from leverlab.engines.flags import flag_and_value
from leverlab.engines.inherited import inherited_environment
from leverlab.records import Reason

_PROGRAM: Final = Path(__file__).with_name("own_parser.py")
_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class OwnParser:
    """How one kind of engine is asked."""

    kind: str
    """Its entry in `ENGINES` of own_parser.py."""
    name: str
    """The engine's name as a sentence has it."""
    reserved: frozenset[str]
    """Flags that leverlab sets itself, or that would take settings from where no identity can see them."""
    own_variables: Sequence[str]
    """See `leverlab.engines.base.Engine.own_variables`."""
    offline: Mapping[str, str]
    """Variables that keep it from the network while it is asked about flags."""
    negations: bool = True
    """See `leverlab.engines.flags.flag_words`."""

    def check_flags(self, command_prefix: Sequence[str], treatments: Sequence[Settings]) -> list[Reason | None]:
        """See `leverlab.engines.base.Engine.check_flags`. The engine is asked even where all are refused here already."""
        questions = [self._question(treatment) for treatment in treatments]
        asked = self._ask(command_prefix, {"treatments": questions}, self.offline)
        return [self._reserved(treatment) or answer for treatment, answer in zip(treatments, asked, strict=True)]

    def check_configuration(self, launch: Launch, environment: Mapping[str, str]) -> Reason | None:
        """Whether the engine's own configuration accepts the launch on this machine's device, or why not."""
        settings = Settings(launch.identity["flags"], launch.identity["environment"])
        question = {"treatments": [self._question(settings)], "model": str(launch.model_folder)}
        return self._reserved(settings) or self._ask(launch.command_prefix, question, environment)[0]

    def _question(self, settings: Settings) -> dict[str, Any]:
        flags = {
            name: flag_and_value(name, value, negations=self.negations)
            for name, value in settings.flags.items()
            if name not in self.reserved
        }
        return {"flags": flags, "environment": dict(settings.environment)}

    def _reserved(self, settings: Settings) -> Reason | None:
        for name in settings.flags:
            if name in self.reserved:
                message = f"--{name} is set by leverlab itself: take it out of the flags"
                return Reason(code="reserved_flag", message=message)
        return None

    def _ask(
        self, prefix: Sequence[str], question: Mapping[str, Any], environment: Mapping[str, str]
    ) -> list[Reason | None]:
        # The program goes by its text and the question by standard input: neither needs a path that a container can see.
        command = [*prefix, "-c", _PROGRAM.read_text(encoding="utf-8")]
        shown = " ".join(prefix)
        try:
            done = subprocess.run(
                command,
                input=json.dumps({"engine": self.kind, **question}),
                env={**inherited_environment(self.own_variables), **environment},
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineUnreachableError(f"`{shown}` does not run: {type(error).__name__}") from error
        # A login shell or a container may print lines of its own.
        answers = [line for line in done.stdout.splitlines() if line.startswith("leverlab:")]
        if done.returncode or not answers:
            tail = "\n".join(done.stderr.strip().splitlines()[-12:])
            raise EngineUnreachableError(
                f"{self.name} could not be asked through `{shown}`: exit code {done.returncode}: {tail}"
            )
        answered = json.loads(answers[-1].removeprefix("leverlab:"))["answers"]
        return [None if answer is None else Reason(**answer) for answer in answered]
