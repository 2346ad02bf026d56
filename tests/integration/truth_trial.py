"""What tests of trials on the truth engine share: the phases of their job, and the processes that a trial has."""

import psutil

RATE_PHASE, BURST_PHASE = "rate-0000000001", "burst-0000000002"
SLOW = {"slow-0000000003": {"kind": "rate", "value": 4}}
USER_TOKEN = "hf_QQexampleTokenOfTheUser0123456789"


def children_of(pid: int) -> list[psutil.Process]:
    """The process' children, and theirs."""
    return psutil.Process(pid).children(recursive=True)
