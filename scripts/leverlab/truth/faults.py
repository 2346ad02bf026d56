"""Faults to order: what the truth engine does wrong when it is told to, so that the checks can be seen to notice.

Faults of single requests strike every n-th. Requests whose id begins with `warmup-` (leverlab's own, in no workload) are
spared and not counted: what is planted lies in what is measured.
"""

from dataclasses import dataclass
from typing import Final, Literal

from leverlab.truth.settings import Settings

SPARED: Final = "warmup-"

Breakage = Literal["", "cut", "malformed"]
GARBAGE: Final = b"{this is no JSON"
_STRING: Final = b'":"'
"""Between a key and the string that it has."""


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """How one request is answered: `tokens` of output, 0 for an answer that ends without any.

    `broken` says what happens once `broken_at` tokens have gone out: the connection is closed, or an event that is none is sent.
    """

    tokens: int
    finish_reason: str
    broken: Breakage = ""
    broken_at: int = 0


class Faults:
    """Decides, request by request, what goes wrong."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._count = 0

    def count(self, request_id: str) -> int:
        """The number of a request among those that faults may strike, from 1; 0 for one that is spared."""
        if request_id.startswith(SPARED):
            return 0
        self._count += 1
        return self._count

    def http_error(self, number: int) -> int | None:
        """The HTTP status with which request `number` is refused; None where it is served."""
        return self._settings.http_error_status if _strikes(self._settings.http_error_every, number) else None

    def silent(self, number: int) -> bool:
        """Whether request `number` is taken in and never answered."""
        return _strikes(self._settings.silent_every, number)

    def pause_ns(self, number: int) -> int:
        """For how long the engine makes no progress from request `number` on."""
        told = self._settings
        return round(told.pause_s * 1e9) if number and number == told.pause_at_request else 0

    def pause_line(self) -> str | None:
        """What is logged of that pause, in vLLM's words; None where it is to be silent."""
        told = self._settings
        return (
            f"Compiling a graph for compile range (1, 2048) takes {told.pause_s:.2f} s"
            if told.pause_is_logged
            else None
        )

    def resets_counters(self, number: int) -> bool:
        """Whether the counters of /metrics begin again with request `number`."""
        return bool(number) and number == self._settings.reset_counters_at_request

    def plan(self, number: int, tokens: int, finish_reason: str) -> AnswerPlan:
        """The answer to request `number`, of which `tokens` tokens would be right."""
        told = self._settings
        half = max(tokens // 2, 1)
        if _strikes(told.no_tokens_every, number):
            return AnswerPlan(0, finish_reason)
        if _strikes(told.stop_every, number):
            return AnswerPlan(half, "stop")
        if _strikes(told.short_every, number):
            return AnswerPlan(half, "length")
        if _strikes(told.cut_every, number):
            return AnswerPlan(tokens, finish_reason, "cut", half)
        if _strikes(told.malformed_every, number):
            return AnswerPlan(tokens, finish_reason, "malformed", half)
        return AnswerPlan(tokens, finish_reason)

    def pieces(self, data: bytes) -> tuple[bytes, bytes] | None:
        """`data` in two pieces, to be sent one after the other; None where it goes out whole."""
        told = self._settings
        if told.split_chunks:
            at = next((at for at, byte in enumerate(data) if byte >= 0xC0), len(data) // 2) + 1
        elif told.split_json and (found := data.rfind(_STRING)) >= 0:
            at = found + len(_STRING)
        else:
            return None
        return data[:at], data[at:]


def _strikes(every: int, number: int) -> bool:
    return bool(every) and number > 0 and number % every == 0
