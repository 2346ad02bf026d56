"""How a trial can end other than well, as exceptions: each is caught in one place, by the loop over the starts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import httpx

from leverlab.records import Reason

EX_TEMPFAIL: Final = 75
"""sysexits.h: a failure that may pass; the caller should try again."""

_OWN_SIGNAL_S: Final = 1.0

_DYING_S: Final = 5.0
"""A process that dies has closed its connections before its end is seen, and an engine's front outlives its core for a while."""
_DYING_PAUSE_S: Final = 0.05


class ServerDiedError(Exception):
    """The server ended by itself while it was needed."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


class InfeasibleError(Exception):
    """The engine refuses this configuration, or the device has no memory for it: a result, not a fault."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


class MayPassError(Exception):
    """What another attempt may not meet: a port that was taken, a node in trouble, a start that took too long."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


class Interrupted(BaseException):
    """A signal asked the process to end. Not an Exception, so that nothing on the way mistakes it for a failure."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    @property
    def exit_status(self) -> int:
        """The status by which shells know it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signal_number


def see_whether_told_to_end() -> None:
    """To be called where a server or a client has ended, before that is called its failure.

    A scheduler that ends a job signals all of its processes at once, and a child may be gone before its parent has heard
    of it. Raises Interrupted, by the handler of the signal, where that is so.
    """
    time.sleep(_OWN_SIGNAL_S)


@contextmanager
def answering(where: str, check_alive: Callable[[], None]) -> Iterator[None]:
    """Turn a question that goes unanswered into ServerDiedError.

    With the reason that `check_alive` raises where the server has ended or is about to, else as `server_unresponsive`.
    """
    try:
        yield
    except httpx.HTTPError as error:
        deadline = time.monotonic() + _DYING_S
        while time.monotonic() < deadline:
            check_alive()
            time.sleep(_DYING_PAUSE_S)
        message = f"The server runs and does not answer at {where}: {type(error).__name__}: {error}"
        raise ServerDiedError(Reason(code="server_unresponsive", message=message)) from error


def ending(error: BaseException) -> tuple[str, Reason]:
    """How trial.json calls the way in which a trial ended."""
    match error:
        case InfeasibleError(reason=reason):
            return "infeasible", reason
        case ServerDiedError(reason=reason):
            return "server_died", reason
        case MayPassError(reason=reason):
            return "failed", reason
        case Interrupted():
            message = f"The job was told to end by signal {error.signal_number}."
            return "interrupted", Reason(code="interrupted", message=message)
        case _:
            return "failed", Reason(code="error", message=f"{type(error).__name__}: {error}")
