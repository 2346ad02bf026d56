"""What is held against an effect, in a few words where another sentence rests on it."""

import re
from pathlib import Path

import pandas as pd

import leverlab.aggregate.cautions
from leverlab.report import doubts
from tests.unit.told_effects import LIMIT, OFF


def test_every_caution_of_an_effect_has_a_few_words() -> None:
    """Changed answers had none, so that a headline praised a server that answered from memory which nobody filled."""
    codes = set(re.findall(r'yield Caution\(\s*"(\w+)"', Path(leverlab.aggregate.cautions.__file__).read_text()))
    assert {"answers_changed", "cards_confounded"} <= codes
    assert codes == set(doubts.IN_SHORT)


def test_a_page_knows_every_mark_from_its_sentence() -> None:
    """However it is written, and wherever it stands."""
    cells = pd.DataFrame(
        {"cell": ["a", "b"], "replicate": ["r1", "r1"], "checks": ["caution", "ok"], "check_codes": ["drift", ""]}
    )
    one = doubts.marks_phrase([OFF, LIMIT], lambda effect: ("its answers changed",) if effect is OFF else ())
    marks = {
        doubts.mark_phrase(
            ["git.commit (r1)", "its replicates disagree"]
        ): "(marked: git.commit (r1); its replicates disagree)",
        doubts.marks_phrase([OFF], lambda _: ("its answers changed",)): "(marked: its answers changed)",
        one: "(1 of 2 comparisons are marked: its answers changed)",
        doubts.marked_cells(cells): "Marked: 1 of its 2 cells carries a caution: drift.",
    }
    for mark, shown in marks.items():
        assert mark == f" {shown}"
        for sentence in (f"A (b) rises{mark}", f"A (b) rises{mark} At 4 (c) it falls."):
            assert doubts.MARK.findall(sentence) == [shown]
    assert doubts.MARK.findall("A cell is marked: see below. Marked cells (marked) stay.") == []
