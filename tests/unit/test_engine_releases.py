"""Two releases of one engine: what is compared is the release."""

from leverlab.config import load
from tests.unit.repository import SOURCE


def test_two_releases_of_vllm_are_started_alike() -> None:
    engines = load(SOURCE, {"study": "first-look"}).engines
    old, new = (engines[name].model_dump(exclude={"launch"}) for name in ("vllm", "vllm-0.33"))
    assert old == new
