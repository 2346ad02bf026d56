"""When each request is due: by its arrival, when a stream came free, or some time after the end of the one that it waits for."""

import heapq
from collections.abc import Sequence

from leverlab.load.plan import LoadPoint, PlannedRequest


class Schedule:
    """The requests that are due, soonest first, as (instant on CLOCK_MONOTONIC in ns, position in `requests`).

    At a rate and in a burst the first requests of all conversations are scheduled from the start; a request that stands alone is a
    conversation of one. In a closed loop a stream goes through a whole conversation, pauses included, and then takes the next one.
    However a request ends, those that wait for it become due, and one that joins several with the end of the last of them. Of a program
    that forks, all branches are under way at once, in a stream too. Raises ValueError where one waits for what is not there.
    """

    def __init__(self, requests: Sequence[PlannedRequest], load: LoadPoint) -> None:
        positions = {request.index: position for position, request in enumerate(requests)}
        self.due: list[tuple[int, int]] = []
        self._load = load
        self._first: list[tuple[int, float]] = []
        self._waiting: dict[int, list[tuple[int, int]]] = {}
        self._open = [len(request.joins) or 1 for request in requests]
        for position, request in enumerate(requests):
            if request.after is None:
                self._first.append((position, request.arrival_unit_s))
                continue
            for waited in request.joins or (request.after,):
                if waited not in positions:
                    raise ValueError(
                        f"request {request.index} waits for request {waited}, which is not among those to replay"
                    )
                after = (round(request.pause_s * 1e9), position)
                self._waiting.setdefault(positions[waited], []).append(after)
        self._next = len(self._first)
        self._width = max(map(len, self._waiting.values()), default=1)

    @property
    def at_once(self) -> int:
        """Connections that the schedule can need: one a stream, or one a conversation; of programs one for each of their branches."""
        return self._streams * self._width

    @property
    def _streams(self) -> int:
        if self._load.kind == "concurrency" and self._load.value is not None:
            return min(int(self._load.value), len(self._first))
        return len(self._first)

    def begin(self, origin_ns: int) -> None:
        """Schedule what is due without anything having ended; `origin_ns` is the phase's t = 0."""
        if self._load.kind == "concurrency":
            self._next = self._streams
            self.due += [(origin_ns, position) for position, _ in self._first[: self._next]]
            return
        pace = 0.0 if self._load.value is None else 1e9 / self._load.value
        self.due += [(origin_ns + round(arrival * pace), position) for position, arrival in self._first]
        heapq.heapify(self.due)

    def pop(self) -> tuple[int, int]:
        """Take the soonest."""
        return heapq.heappop(self.due)

    def ended(self, position: int, ended_ns: int) -> None:
        """Schedule what waited for this request alone, or for it last; at the end of its conversation, the stream's next one."""
        waiting = self._waiting.get(position)
        if waiting is not None:
            for pause_ns, follower in waiting:
                self._open[follower] -= 1
                if not self._open[follower]:
                    heapq.heappush(self.due, (ended_ns + pause_ns, follower))
        elif self._next < len(self._first):
            heapq.heappush(self.due, (ended_ns, self._first[self._next][0]))
            self._next += 1
