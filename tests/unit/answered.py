"""The questions of the study `small`, answered from the cells that a test measured."""

from leverlab.aggregate.tables import write_study
from leverlab.report.questions import Answered, questions
from leverlab.report.source import read_study
from leverlab.report.theory_values import theory_values
from tests.unit.repository import Repository


def answers(repository: Repository) -> list[Answered]:
    """Its tables written and read again, in the order of its questions."""
    write_study(repository.study(), repository.layout)
    data = read_study("small", repository.configuration(), repository.layout)
    return questions(data, theory_values(data))
