"""The doubt suite: what goes wrong in a whole trial is marked with its own code, and what is harmless is not marked.

Each fault is ordered from the truth engine and measured as anything is: server, warm-up, cache, client, checks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from leverlab.checks import read_checks
from leverlab.trial.cell_files import CHECKS_FILE
from tests.integration.trial_job import TrialJob

pytestmark = pytest.mark.doubt

REQUESTS = 120
PHASE = "burst-0000000003"
LOAD = {"kind": "burst", "requests": REQUESTS}


@dataclass(frozen=True)
class Fault:
    """A fault as it is ordered, and the codes by which it must be known."""

    flags: Mapping[str, Any]
    severity: str
    codes: frozenset[str]
    request_timeout_s: float = 20.0
    also: frozenset[str] = field(default_factory=frozenset)
    """Codes that may follow from it: what is wrong in one way is seen in others."""


def fault(
    severity: str, *codes: str, also: tuple[str, ...] = (), request_timeout_s: float = 20.0, **flags: Any
) -> Fault:
    """A fault with `flags`, written with underscores."""
    written = {name.replace("_", "-"): value for name, value in flags.items()}
    return Fault(written, severity, frozenset(codes), request_timeout_s, frozenset(also))


#: One failed request in 120 is below the 1 % that makes a cell invalid; two are above.
ONE, TWO = 61, 60

FAULTS = {
    "a request of 120 refused": fault("caution", "http_errors", http_error_every=ONE),
    "two refused": fault("invalid", "http_errors", http_error_every=TWO),
    "two turned away, HTTP 429": fault("invalid", "requests_rejected", http_error_every=TWO, http_error_status=429),
    "two turned away, HTTP 503": fault("invalid", "requests_rejected", http_error_every=TWO, http_error_status=503),
    "two never answered": fault("invalid", "requests_timed_out", silent_every=TWO, request_timeout_s=3.0),
    "two without tokens": fault("invalid", "no_tokens", no_tokens_every=TWO),
    "two shorter than asked": fault("invalid", "tokens_not_as_asked", short_every=TWO),
    "two that stop by themselves": fault("invalid", "stopped_early", also=("tokens_not_as_asked",), stop_every=TWO),
    "a stream of 120 cut": fault("caution", "streams_cut", cut_every=ONE),
    "two streams cut": fault("invalid", "streams_cut", cut_every=TWO),
    "two malformed": fault("invalid", "malformed_answers", malformed_every=TWO),
    "no usage": fault("caution", "tokens_assumed", usage=False),
    "usage that counts too many": fault(
        "invalid", "chunks_disagree", also=("tokens_not_as_asked", "generated_tokens_disagree"), wrong_usage_by=1
    ),
    "a cache that does not reset": fault("invalid", "cache_state_wrong", refuse_reset=True),
    "a cache that says it did": fault(
        "invalid", "cache_state_wrong", also=("foreign_cache_hits",), keep_cache_on_reset=True
    ),
}

HARMLESS = {
    "nothing": fault("ok"),
    "chunks split inside characters": fault("ok", split_chunks=True),
    "several tokens a chunk": fault("ok", tokens_per_chunk=3),
    "tokens without text": fault("ok", empty_text_every=3),
}

#: What a busy machine may add to any cell; none of them makes it invalid.
NOISE = {"client_error", "send_late", "shared_core", "not_warmed_up", "server_ttft_disagrees"}


def measured(folder: Path, planted: Fault) -> dict[str, str]:
    """Code → severity of the checks that did not pass."""
    job = TrialJob(
        folder,
        flags={"ttft": 0.1, "gap": 0.01, **planted.flags},
        phases={PHASE: LOAD},
        request_timeout_s=planted.request_timeout_s,
    ).prepare()
    code, shown = job.measure()
    assert code == 0, shown
    checks = read_checks(job.cell_folder(PHASE) / CHECKS_FILE).checks
    return {check.code: check.severity for check in checks if check.severity != "ok"}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_marked_with_its_own_code(name: str, tmp_path: Path) -> None:
    planted = FAULTS[name]
    found = measured(tmp_path, planted)
    assert {code: found.get(code) for code in planted.codes} == dict.fromkeys(planted.codes, planted.severity), found
    foreign = set(found) - planted.codes - planted.also - NOISE
    assert not foreign, f"marked for something else as well: {found}"


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_is_not_marked(name: str, tmp_path: Path) -> None:
    found = measured(tmp_path, HARMLESS[name])
    assert "invalid" not in found.values(), found
    assert set(found) <= NOISE, found
