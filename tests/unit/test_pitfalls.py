"""The page on known mistakes names checks that exist, and every check that answers a mistake stands on it."""

import re

from leverlab.checks import CHECKS
from leverlab.load.schema import CHUNKS, REQUESTS
from tests.unit.repository import SOURCE

PAGE = (SOURCE / "docs" / "pitfalls.md").read_text(encoding="utf-8")


def test_every_code_on_the_page_is_a_check_or_a_column() -> None:
    known = {check.code for check in CHECKS} | set(REQUESTS.names) | {"chunk_gap_s", "failed"} | set(CHUNKS.names)
    named = set(re.findall(r"`([a-z0-9_]+)`", PAGE))
    assert named <= known, named - known


def test_every_check_stands_on_the_page() -> None:
    a_finding_and_no_mistake = {"few_cache_hits"}
    missing = {check.code for check in CHECKS if f"`{check.code}`" not in PAGE} - a_finding_and_no_mistake
    assert missing == set()
