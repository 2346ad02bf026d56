"""What tests of the matrix ask of a repository: its servers and its phases."""

from tests.unit.repository import Repository


def servers(repository: Repository, **settings: object) -> dict[str, str]:
    """Treatment → server id."""
    return {entry.treatment.name: entry.cell.server.id for entry in repository.study(**settings).cells}


def phases(repository: Repository) -> dict[str, str]:
    """Load point → phase id."""
    return {str(entry.load): entry.cell.phase.id for entry in repository.study().cells}
