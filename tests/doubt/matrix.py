"""The matrix fault × code: as it is declared (for docs/doubt.md) and as a run of the suite found it.

`python -m tests.doubt.matrix` writes the declared one into docs/doubt.md.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.doubt.planted import ALL, Cell, Fault

PAGE = Path(__file__).resolve().parents[2] / "docs" / "doubt.md"
LETTERS = {"caution": "c", "invalid": "X", "infeasible": "I", "failed": "F", "left": "L"}
_MARKED = re.compile(r"(<!-- generated: doubt -->\n).*?(<!-- end -->)", re.DOTALL)

Row = tuple[str, Mapping[str, str]]
"""What was planted, and code → severity of what marked it."""


def title(fault: Fault, cell: Cell) -> str:
    return f"{fault.name}: {cell.size}" if cell.size else fault.name


def declared() -> list[Row]:
    """The rows as they must be."""
    return [(title(fault, cell), cell.marks) for fault in ALL for cell in fault.cells]


def drawn(rows: Sequence[Row]) -> str:
    """The matrix in characters: a row for each planted cell, a numbered column for each code that marks any."""
    codes = sorted({code for _, marks in rows for code in marks})
    width = max((len(name) for name, _ in rows), default=0)
    heads = [" " * width + "  " + " ".join(f"{at:02d}"[digit] for at in range(1, len(codes) + 1)) for digit in (0, 1)]
    lines = [
        f"{name:<{width}}  {' '.join(LETTERS[marks[code]] if code in marks else '·' for code in codes)}".rstrip()
        for name, marks in rows
    ]
    legend = [f"{at:02d} {code}" for at, code in enumerate(codes, start=1)]
    letters = ", ".join(f"{letter} {severity}" for severity, letter in LETTERS.items())
    return "\n".join([*heads, *lines, "", *legend, "", letters])


def table(wanted: Iterable[Fault]) -> str:
    """The faults in Markdown."""
    lines = ["| fault | planted by | size | marked as | what may follow |", "|---|---|---|---|---|"]
    for fault in wanted:
        for cell in fault.cells:
            marks = ", ".join(f"`{code}` ({severity})" for code, severity in cell.marks.items()) or "nothing"
            follow = ", ".join(f"`{code}`" for code in sorted(fault.also)) if cell.marks else ""
            lines.append(f"| {fault.name} | {fault.how} | {cell.size} | {marks} | {follow} |")
    return "\n".join(lines)


def generated(page: str) -> str:
    """`page` with its marked place filled."""
    made = f"{table(ALL)}\n\n```\n{drawn(declared())}\n```"
    return _MARKED.sub(lambda found: f"{found[1]}{made}\n{found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{PAGE} written", file=sys.stderr)
