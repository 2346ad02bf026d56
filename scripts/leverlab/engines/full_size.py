"""The real flags behind a simulated smoke size: put to the real engines' own parsers, where this machine has them."""

from dataclasses import dataclass

from leverlab.config import Configuration
from leverlab.engines.acceptance import check_engine, environment_record
from leverlab.layout import Layout
from leverlab.matrix.expand import Matrix


@dataclass(frozen=True, slots=True)
class Parsed:
    """What was said to the flags of one engine of a full-size study.

    `through` names the engine whose environment was asked: the engine itself, or another of its kind, of another build or
    version, where this machine lacks its own; None where it has none of the kind, and nothing was parsed.
    """

    engine: str
    through: str | None
    servers: int
    refusals: tuple[str, ...]

    @property
    def refused(self) -> bool:
        """Whether the engine itself refuses a flag. What another version of it refuses is told and stops nothing."""
        return self.through == self.engine and bool(self.refusals)


def parse_full_size(matrix: Matrix, layout: Layout) -> tuple[Parsed, ...]:
    """Put the flags of every server of `matrix` to a parser of its engine's kind, engine by engine.

    Makes no environment. Raises EngineUnreachableError where one that is there does not run.
    """
    servers = list(matrix.servers.values())
    found = []
    for name in dict.fromkeys(server.engine for server in servers):
        through = _environment_here(name, matrix.configuration, layout)
        if through is None:
            found.append(Parsed(name, None, sum(server.engine == name for server in servers), ()))
        else:
            said = check_engine(name, matrix, layout, through)
            found.append(Parsed(name, through, said.servers, tuple(map(str, said.refusals))))
    return tuple(found)


def _environment_here(name: str, configuration: Configuration, layout: Layout) -> str | None:
    """The engine itself, or the first other one of its kind, whose environment is on this machine."""
    kind = configuration.engines[name].kind
    alike = [other for other, engine in configuration.engines.items() if engine.kind == kind and other != name]
    return next((each for each in (name, *alike) if _is_here(each, configuration, layout)), None)


def _is_here(name: str, configuration: Configuration, layout: Layout) -> bool:
    launch = configuration.engines[name].launch
    return launch.kind == "pipeline" or environment_record(name, layout).get("reachable") is True
