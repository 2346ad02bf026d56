"""Why a server ended, read from its log, whose words each engine tells.

An engine's processes write side by side, and the one that fails first is followed by others that fail because of it. The
first line that says why is therefore the one to find, not the last.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from leverlab.records import Reason


@dataclass(frozen=True, slots=True)
class LogWords:
    """What an engine's log looks like where it tells of an end."""

    name: str
    """The engine's name as a sentence has it."""
    prefix: re.Pattern[str]
    """What its logger puts before a line."""
    ready: Sequence[str]
    """Parts of the lines that say that it serves."""
    consequences: Sequence[str]
    """Parts of exceptions that only follow from another one."""
    out_of_memory: Sequence[str]
    """Parts, in lower case, of its own lines for a configuration that does not fit; those of CUDA, torch and Linux are known."""


_EXCEPTION: Final = re.compile(
    r"^(?P<kind>([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception|Exit|Interrupt)): ?(?P<text>.*)$"
)
_PORT_TAKEN: Final = ("address already in use", "[errno 98]")
_OUT_OF_MEMORY: Final = (
    "outofmemoryerror",
    "cuda out of memory",
    "cuda error: out of memory",
    "not enough memory",
    "cannot allocate memory",
    "can't allocate memory",
    "std::bad_alloc",
    "memoryerror",
)
_USAGE: Final = re.compile(r"\berror: (?P<text>(unrecognized arguments|argument |ambiguous option|the following).*)")
_LINES: Final = 20
_CONFIGURATION_ERRORS: Final = (
    "ValueError",
    "ValidationError",
    "NotImplementedError",
    "AssertionError",
    "TypeError",
    "KeyError",
)


def explain_exit(log: str, words: LogWords) -> Reason:
    """The reason, with at most 20 lines of the log that show it, without the prefixes of the engine's logger."""
    lines = [words.prefix.sub("", line, count=1) for line in log.splitlines()]
    for said, code, sentence in (
        (_PORT_TAKEN, "port_taken", "another process listens on the server's port"),
        ((*_OUT_OF_MEMORY, *words.out_of_memory), "out_of_memory", "the configuration does not fit into memory"),
    ):
        for number, line in enumerate(lines):
            if any(part in line.lower() for part in said):
                return Reason(code=code, message=f"{sentence}: {_shortened(line)}", log=_around(lines, number))
    for number, line in enumerate(lines):
        usage = _USAGE.search(line)
        if usage:
            return Reason(
                code="configuration_refused",
                message=f"{words.name} does not take the flags: {_shortened(usage['text'])}",
                log=_around(lines, number),
            )
    started = any(word in line for line in lines for word in words.ready)
    root = _root_cause(lines, words.consequences)
    if root is None:
        end = [line for line in lines if line.strip()][-_LINES:]
        when = "after it had been ready" if started else "before it was ready"
        return Reason(code="server_died", message=f"the server ended {when} and its log does not say why", log=end)
    kind = lines[root].partition(":")[0].rpartition(".")[2]
    message = _shortened(_message(lines, root))
    if not started and kind in _CONFIGURATION_ERRORS:
        return Reason(
            code="configuration_refused",
            message=f"{words.name} refuses the configuration: {message}",
            log=_around(lines, root),
        )
    return Reason(code="server_died", message=f"the server ended: {message}", log=_around(lines, root))


def _root_cause(lines: Sequence[str], consequences: Sequence[str]) -> int | None:
    """The line of the first exception that is not said to be the consequence of another."""
    causes = [number for number, line in enumerate(lines) if _EXCEPTION.match(line)]
    roots = [number for number in causes if not any(word in lines[number] for word in consequences)]
    return next(iter(roots or causes), None)


def _message(lines: Sequence[str], number: int) -> str:
    """An exception's line, with those that pydantic writes below it: the first names only the number of errors."""
    if "validation error" not in lines[number]:
        return lines[number]
    below = [line.strip() for line in lines[number + 1 : number + 4] if line.strip() and "For further" not in line]
    # What was passed in follows in brackets, cut in the middle, and says nothing.
    return " ".join([lines[number], *below]).partition(" [type=")[0]


def _around(lines: Sequence[str], number: int) -> list[str]:
    """The lines up to the one that says why, and a few after it."""
    return [line for line in lines[max(0, number - _LINES + 5) : number + 5] if line.strip()]


def _shortened(text: str, most: int = 400) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"
