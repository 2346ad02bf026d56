"""Trials of which nobody was left to write how they ended: the process was killed or crashed, or its machine went down."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from leverlab.layout import Layout
from leverlab.records import Reason, TrialRecord, read_json, write_json
from leverlab.trial.trial import CLIENT_LOG, EVENTS_FILE, TRIAL_FILE

_OWN_FILES: Final = (TRIAL_FILE, CLIENT_LOG, EVENTS_FILE)
"""What the trial's own process writes: the server may outlive it for a moment, and its log with it."""


_CRASHED: Final = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
"""What Python's faulthandler writes before the stacks."""


def close_abandoned_trials(layout: Layout, server: str, replicate: str) -> list[TrialRecord]:
    """Write into each trial.json that still says `running` that the trial was killed, and of what as far as is known; those records.

    Only for who holds the replicate's lease, before it starts a trial of its own: then no trial of it lives. A record that
    cannot be read is left alone.
    """
    closed = []
    trials = layout.replicate(server, replicate) / "trials"
    for path in sorted(trials.glob(f"*/{TRIAL_FILE}")):
        try:
            record = TrialRecord.model_validate(read_json(path))
        except ValueError:
            continue
        if record.outcome != "running":
            continue
        last = _last_sign_of_life(path.parent)
        update = {"outcome": "killed", "reason": _reason(path.with_name(CLIENT_LOG), last), "ended_at": last}
        closed.append(record.model_copy(update=update))
        write_json(path, closed[-1])
    return closed


def _reason(log: Path, last: str) -> Reason:
    crashed = _CRASHED.findall(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
    if crashed:
        message = f"The trial's process crashed in native code ({crashed[-1]}) at {last}: the stacks of its threads are in {log}."
        return Reason(code="crashed", message=message)
    message = (
        f"The trial's process ended without a word, by a kill, for want of memory or with its machine: its last sign "
        f"of life is of {last}. A crash would have left its stacks in {log}."
    )
    return Reason(code="killed", message=message)


def _last_sign_of_life(folder: Path) -> str:
    written = [(folder / name).stat().st_mtime for name in _OWN_FILES if (folder / name).is_file()]
    return datetime.fromtimestamp(max(written), UTC).isoformat(timespec="milliseconds")
