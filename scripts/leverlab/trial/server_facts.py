"""What is measured of a server's start: facts that every cell of the trial keeps, so that they can be compared like metrics."""

from leverlab.metrics import SERVER_FACTS
from leverlab.records import TrialRecord


def server_facts(trial: TrialRecord) -> dict[str, float]:
    """Name of `SERVER_FACTS` → value, for those that are known: from the effective configuration, and the steps of the start."""
    known = {name: trial.effective.get(name) for name in SERVER_FACTS}
    steps_s = [trial.start[step] for step in ("spawn", "healthy") if step in trial.start]
    facts = {name: float(value) for name, value in known.items() if isinstance(value, int | float)}
    return facts | ({"start_s": round(sum(steps_s), 3)} if len(steps_s) == 2 else {})
