"""What is held against an effect, in a few words where another sentence rests on it."""

import re
from pathlib import Path

import leverlab.aggregate.cautions
from leverlab.report import doubts


def test_every_caution_of_an_effect_has_a_few_words() -> None:
    """Changed answers had none, so that a headline praised a server that answered from memory which nobody filled."""
    codes = set(re.findall(r'yield Caution\(\s*"(\w+)"', Path(leverlab.aggregate.cautions.__file__).read_text()))
    assert {"answers_changed", "cards_confounded"} <= codes
    assert codes == set(doubts.IN_SHORT)
