"""Modules import only downwards, in the order in which docs/architecture.md lists them, and stay small."""

import ast
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = REPOSITORY / "scripts" / "leverlab"
MOST_LINES = 400


def documented_order() -> list[str]:
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    table = text[text.index("| module | what it knows |") : text.index("## Identity")]
    return [
        name for row in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    ]


def imported(file: Path) -> set[str]:
    """The modules of the library that `file` imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("leverlab."):
            found.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("leverlab.")}
    return found


def test_every_module_has_its_place() -> None:
    there = {path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(documented_order()) == there - {"__init__"}


def test_imports_go_downwards() -> None:
    place = {name: number for number, name in enumerate(documented_order())}
    upwards = [
        f"{file.relative_to(LIBRARY)} imports {other}"
        for file in LIBRARY.rglob("*.py")
        for own in [file.relative_to(LIBRARY).parts[0].removesuffix(".py")]
        if own != "__init__"
        for other in imported(file) - {own}
        if place[other] > place[own]
    ]
    assert upwards == []


def test_no_module_is_long() -> None:
    lengths = {str(file.relative_to(LIBRARY)): len(file.read_text().splitlines()) for file in LIBRARY.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_no_script_has_the_name_of_a_standard_module() -> None:
    """Python looks beside a script first: `profile.py` there breaks the first library that uses cProfile."""
    names = {path.stem for path in (REPOSITORY / "scripts").glob("*.py")}
    assert names & sys.stdlib_module_names == set()
