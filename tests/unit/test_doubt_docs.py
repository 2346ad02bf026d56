"""docs/doubt.md shows the faults as the doubt suite declares them, and these name codes that exist."""

from leverlab.checks import CHECKS
from leverlab.truth.settings import Settings
from tests.doubt.matrix import PAGE, declared, drawn, generated
from tests.doubt.planted import ALL, NOISE


def test_the_page_shows_the_matrix_as_declared() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "<!-- generated: doubt -->" in page
    assert generated(page) == page, "has drifted: run `python -m tests.doubt.matrix`"


def test_a_changed_page_would_be_found() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert generated(page.replace("| `http_errors` (caution) |", "| nothing |")) == page


def test_what_is_declared_names_checks_and_flags_that_exist() -> None:
    reasons = {"configuration_refused", "server_died", "start_timeout"}
    known = {check.code for check in CHECKS} | reasons
    assert {code for fault in ALL for code in fault.codes | fault.also} <= known
    flags = {flag for fault in ALL for cell in fault.cells for flag in (*fault.flags, *cell.flags)}
    assert flags <= {name.replace("_", "-") for name in Settings.__slots__}
    assert not NOISE & {code for fault in ALL for code in fault.also}


def test_the_matrix_has_a_row_for_each_cell_and_a_column_for_each_code() -> None:
    text = drawn([("a", {"x": "invalid"}), ("bc", {}), ("d", {"x": "caution", "w": "invalid"})])
    assert text.splitlines()[:7] == ["    0 0", "    1 2", "a   · X", "bc  · ·", "d   X c", "", "01 w"]
    assert len({name for name, _ in declared()}) == len(declared()), "every row has a name of its own"
