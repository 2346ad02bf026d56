"""How late the server itself was: begin of each send - the instant that it was due."""

from typing import Any, Final

_NS: Final = 1e9
_CLASSES: Final = 64


class Lateness:
    """Counts sends by the power of two of their lateness in ns: exact enough to judge by, and next to nothing a send."""

    __slots__ = ("_counts", "_latest_ns", "_total_ns")

    def __init__(self) -> None:
        self._counts = [0] * _CLASSES
        self._total_ns = 0
        self._latest_ns = 0

    def add(self, late_ns: int) -> None:
        """Note one send."""
        self._counts[late_ns.bit_length()] += 1
        self._total_ns += late_ns
        if late_ns > self._latest_ns:
            self._latest_ns = late_ns

    def report(self) -> dict[str, Any]:
        """Chunks sent since the start, and their lateness in seconds; null before the first.

        `late_p50_s` and `late_p99_s` are upper bounds, less than twice the true quantiles.
        """
        chunks = sum(self._counts)
        if not chunks:
            return dict.fromkeys(("late_mean_s", "late_p50_s", "late_p99_s", "late_max_s")) | {"chunks": 0}
        return {
            "chunks": chunks,
            "late_mean_s": self._total_ns / chunks / _NS,
            "late_p50_s": self._at_most(0.5 * chunks),
            "late_p99_s": self._at_most(0.99 * chunks),
            "late_max_s": self._latest_ns / _NS,
        }

    def sentence(self) -> str:
        """The report for a log."""
        report = self.report()
        if not report["chunks"]:
            return "no chunk sent"
        mean_us, most_us = report["late_mean_s"] * 1e6, report["late_max_s"] * 1e6
        return f"{report['chunks']} chunks sent; late by {mean_us:.0f} µs on average, {most_us:.0f} µs at most"

    def _at_most(self, chunks: float) -> float:
        """The end of the class in which the `chunks`-th promptest send lies."""
        seen = 0
        for bits, count in enumerate(self._counts):
            seen += count
            if seen >= chunks:
                return min((1 << bits) - 1, self._latest_ns) / _NS
        return self._latest_ns / _NS
