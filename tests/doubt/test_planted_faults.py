"""What the truth engine does wrong is marked with its own code, and what it does right is not."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.doubt.matrix import title
from tests.doubt.planted import HARMLESS, NOISE, ORDERED, Fault
from tests.doubt.played import Marks, play

pytestmark = pytest.mark.doubt

AT_A_TIME = 3
"""A trial mostly waits: as many as these hardly disturb one another, and what they disturb is in `NOISE`."""


def by_name(faults: tuple[Fault, ...]) -> dict[str, object]:
    return {"argvalues": faults, "ids": [fault.name for fault in faults]}


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Marks]]:
    """What marked each of the faults that were selected."""
    wanted = {
        fault.name: fault
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        for fault in [item.callspec.params.get("fault")]
        if fault in (*ORDERED, *HARMLESS)
    }
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        running = {name: pool.submit(play, fault, tmp_path_factory.mktemp("fault")) for name, fault in wanted.items()}
        return {name: future.result() for name, future in running.items()}


@pytest.mark.parametrize("fault", **by_name(ORDERED))
def test_a_planted_fault_is_marked_with_its_own_code(
    fault: Fault, played: dict[str, list[Marks]], note: Callable[..., None]
) -> None:
    for cell, found in zip(fault.cells, played[fault.name], strict=True):
        note(title(fault, cell), found)
        assert {code: found.get(code) for code in fault.codes} == {code: cell.marks.get(code) for code in fault.codes}
        foreign = set(found) - fault.codes - NOISE - (fault.also if cell.marks else frozenset())
        assert not foreign, f"{cell.size}: marked for something else as well: {found}"


@pytest.mark.parametrize("fault", **by_name(HARMLESS))
def test_what_is_harmless_is_not_marked(
    fault: Fault, played: dict[str, list[Marks]], note: Callable[..., None]
) -> None:
    (found,) = played[fault.name]
    note(title(fault, fault.cells[0]), found)
    assert set(found) <= NOISE, found
