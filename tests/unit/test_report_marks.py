"""Each mark of the overview leads to the finding of its own cell and replicate, wherever that was kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from leverlab.checks import write_checks
from leverlab.records import CheckResult
from leverlab.report.ledger import check_tables, troubles
from leverlab.report.marked import FINDINGS_LIMIT, findings
from leverlab.report.overview import glance
from leverlab.report.source import StudyData
from leverlab.report.view import Glance, Table
from tests.unit.report_studies import CROSSED, SIMULATED, TROUBLED
from tests.unit.report_study import ReportStudy, make_study

Row = dict[str, Any]


def remade(study: ReportStudy, change: Callable[[Row], Row]) -> StudyData:
    """The study with each row of cells.parquet changed."""
    path = study.layout.study(study.name) / "cells.parquet"
    table = pq.read_table(path)
    pq.write_table(table.from_pylist([change(row) for row in table.to_pylist()], table.schema), path)
    return study.read()


def found_in(study: ReportStudy, row: Row, checks: list[tuple[str, str, str]]) -> Row:
    """`row` with the checks (code, severity, what was seen) kept for its cell."""
    results = [
        CheckResult(code=code, severity=severity, saw=saw, expected="not", remedy="") for code, severity, saw in checks
    ]
    write_checks(study.layout.cell(row["server"], row["replicate"], row["phase"]) / "checks.json", row["cell"], results)
    worst = max((severity for _, severity, _ in checks), key=["ok", "caution", "invalid"].index)
    return row | {"checks": worst, "check_codes": ",".join(code for code, severity, _ in checks if severity != "ok")}


def drawn(data: StudyData) -> tuple[Glance, Table | None]:
    found = findings(data)
    return glance(data, found, troubles(data)), check_tables(data, found)[2]


def marks(shown: Glance) -> dict[tuple[str, str, str], Any]:
    """Treatment, load and replicate → mark."""
    return {
        (row.treatment, row.load, replicate): mark
        for _, rows in shown.groups
        for row in rows
        for replicate, mark in zip(shown.replicates, row.marks, strict=True)
        if mark
    }


def told(ledger: Table | None) -> dict[str, str]:
    """Link → the text of the row of the ledger that it leads to."""
    assert ledger is not None
    return {f"#{row.id}": " | ".join(cell.text for cell in row.cells) for group in ledger.groups for row in group.rows}


def test_a_mark_leads_to_what_was_seen_in_its_own_replicate(tmp_path: Path) -> None:
    study = make_study(tmp_path, SIMULATED)

    def change(row: Row) -> Row:
        return found_in(study, row, [("send_late", "caution", f"seen in {row['treatment']} {row['replicate']}")])

    shown, ledger = drawn(remade(study, change))
    rows = told(ledger)
    assert len(rows) == 9
    for (treatment, _, replicate), mark in marks(shown).items():
        assert rows[mark.href].split(" | ")[2].endswith(replicate)
        assert ("baseline" in rows[mark.href].split(" | ")[2]) == (treatment == "Baseline")


def test_a_mark_leads_to_its_severest_finding(tmp_path: Path) -> None:
    study = make_study(tmp_path, SIMULATED)

    def change(row: Row) -> Row:
        changed = found_in(study, row, [("send_late", "caution", "late"), ("clock_jumped", "invalid", "a jump")])
        return changed | {"check_codes": "clock_jumped,send_late"}

    shown, ledger = drawn(remade(study, change))
    assert {told(ledger)[mark.href].split(" | ")[2] for mark in marks(shown).values()} == {"a jump"}


def test_of_very_many_findings_every_mark_still_leads_to_its_own_kind(tmp_path: Path) -> None:
    study = make_study(tmp_path, CROSSED)
    codes = ("gpu_throttled", "drift", "stalled", "shared_core")

    def change(row: Row) -> Row:
        number = f"{row['treatment']} {row['load']} {row['model']} {row['replicate']}"
        checks = [(code, "caution", f"{code} in {number}") for code in codes]
        return found_in(
            study, row, [*checks, ("requests_missing", "invalid", "one")] if row["replicate"] == "r2" else checks
        )

    data = remade(study, change)
    shown, ledger = drawn(data)
    rows = told(ledger)
    assert len(codes) * len(data.cells) > FINDINGS_LIMIT >= len(rows)
    assert any("findings more like it" in text for text in rows.values())
    for (_, _, replicate), mark in marks(shown).items():
        assert rows[mark.href].startswith("requests missing" if replicate == "r2" else "gpu throttled"), mark


@pytest.mark.parametrize("code", ["checks_missing", "files_changed"])
def test_how_a_cell_was_kept_is_told_as_well(tmp_path: Path, code: str) -> None:
    study = make_study(tmp_path, SIMULATED)

    def change(row: Row) -> Row:
        if (row["treatment"], row["replicate"]) != ("baseline", "r2"):
            return row
        folder = study.layout.cell(row["server"], row["replicate"], row["phase"])
        if code == "checks_missing":
            (folder / "checks.json").unlink()
        else:
            record = json.loads((folder / "cell.json").read_text())
            (folder / "cell.json").write_text(json.dumps(record | {"files": {"chunks.parquet": "0" * 64}}))
        return row | {"checks": "invalid", "check_codes": code}

    data = remade(study, change)
    shown, ledger = drawn(data)
    (row,) = [told(ledger)[mark.href] for mark in marks(shown).values() if mark.why != "sound"]
    assert {"checks_missing": "the cell was never checked", "files_changed": "chunks.parquet are not what"}[code] in row
    (summary,) = [
        row for group in check_tables(data, findings(data))[1].groups for row in group.rows if row.cells[0].note == code
    ]
    assert summary.cells[2].text == "8 of 9"


def test_checks_that_cannot_be_read_do_not_stop_the_page(tmp_path: Path) -> None:
    study = make_study(tmp_path, SIMULATED)

    def change(row: Row) -> Row:
        if (row["treatment"], row["replicate"]) != ("baseline", "r1"):
            return row
        (study.layout.cell(row["server"], row["replicate"], row["phase"]) / "checks.json").write_text("{")
        return row | {"checks": "invalid", "check_codes": "checks_missing"}

    shown, ledger = drawn(remade(study, change))
    (row,) = [told(ledger)[mark.href] for mark in marks(shown).values() if mark.why != "sound"]
    assert "checks.json cannot be read" in row


def test_without_records_the_codes_are_told(tmp_path: Path) -> None:
    shown, ledger = drawn(make_study(tmp_path, TROUBLED, records=False).read())
    rows = told(ledger)
    seen = {mark.why: rows[mark.href] for mark in marks(shown).values() if mark.why.startswith(("invalid", "with"))}
    assert seen.keys() == {"invalid: cache state", "with a caution: send lag"}
    assert all(text.startswith(why.partition(": ")[2]) for why, text in seen.items())
    assert all("not on this machine" in text for text in seen.values())


def test_a_cell_without_numbers_leads_to_its_own_reason(tmp_path: Path) -> None:
    data = make_study(tmp_path, TROUBLED).read()
    reasons = {f"#{trouble.id}": trouble.reason for trouble in troubles(data)}
    assert len(reasons) == 3
    leads = {mark.why: reasons[mark.href] for mark in marks(drawn(data)[0]).values() if mark.href in reasons}
    assert leads == {
        "The server died.": "The server died.",
        "Out of memory.": "Out of memory.",
        "missing": "no trial has reached it yet",
    }


@pytest.mark.parametrize(("replicates", "said"), [(("r1", "r2"), True), (("r1",), False)])
def test_what_marks_most_cells_is_said_once(tmp_path: Path, replicates: tuple[str, ...], said: bool) -> None:
    study = make_study(tmp_path, SIMULATED)

    def change(row: Row) -> Row:
        return (
            found_in(study, row, [("gpu_throttled", "caution", "power cap")]) if row["replicate"] in replicates else row
        )

    shown, ledger = drawn(remade(study, change))
    if not said:
        assert shown.common == ()
        return
    (one,) = shown.common
    assert one.text == (
        "6 of 9 measured cells are marked “gpu throttled” (Did the GPU keep its clocks?). Seen in one of them: power cap."
    )
    assert told(ledger)[one.href].startswith("gpu throttled")
