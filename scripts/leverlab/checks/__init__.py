"""Checks: each asks one question of a measured cell and says what it saw, what it expected, and what to do.

`invalid` excludes a cell from every effect and shows it as such; `caution` marks its numbers and lets them stand.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from leverlab.checks.base import CellInputs, Check, Severity
from leverlab.checks.conditions import CONDITION_CHECKS
from leverlab.checks.handover import HANDOVER_CHECKS
from leverlab.checks.hardware import HARDWARE_CHECKS
from leverlab.checks.outcomes import OUTCOME_CHECKS
from leverlab.checks.steadiness import STEADINESS_CHECKS
from leverlab.checks.tiers import TIER_CHECKS
from leverlab.checks.timing import TIMING_CHECKS
from leverlab.checks.tokens import TOKEN_CHECKS
from leverlab.records import CheckResult, Record, read_json, write_json

__all__ = ["CHECKS", "CellInputs", "Check", "ChecksRecord", "check_cell", "read_checks", "worst", "write_checks"]

CHECKS: Final[tuple[Check, ...]] = (
    *OUTCOME_CHECKS,
    *TOKEN_CHECKS,
    *TIMING_CHECKS,
    *CONDITION_CHECKS,
    *STEADINESS_CHECKS,
    *HARDWARE_CHECKS,
    *HANDOVER_CHECKS,
    *TIER_CHECKS,
)

_ORDER: Final[tuple[Severity, ...]] = ("ok", "caution", "invalid")


class ChecksRecord(Record):
    """checks.json: what the checks of one cell found."""

    cell: str
    worst: Severity
    checks: list[CheckResult]


def check_cell(inputs: CellInputs) -> list[CheckResult]:
    """Every check whose question arises in this cell, those that pass too, in the order of `CHECKS`."""
    return [result for check in CHECKS if (result := check.result(inputs)) is not None]


def worst(results: Iterable[CheckResult]) -> Severity:
    """The severest of the results; ok where there are none."""
    return max((result.severity for result in results), key=_ORDER.index, default="ok")


def write_checks(path: Path, cell: str, results: list[CheckResult]) -> None:
    """Write checks.json at `path`."""
    write_json(path, ChecksRecord(cell=cell, worst=worst(results), checks=results))


def read_checks(path: Path) -> ChecksRecord:
    """checks.json at `path`. Raises OSError, or ValueError where it is none."""
    return ChecksRecord.model_validate(read_json(path))
