"""The truth engine's module, on the truth engine."""

from pathlib import Path

import pytest

from leverlab.engines.base import Settings
from leverlab.engines.truth import TruthEngine
from leverlab.topology import start, wait_ready
from tests.unit.test_topology import KEY, launch_in

pytestmark = pytest.mark.serial

ENGINE = TruthEngine()


def test_it_takes_what_its_identity_asks_and_says_so(tmp_path: Path) -> None:
    launch = launch_in(tmp_path, **{"max-num-seqs": 4, "enable-prefix-caching": False, "gap": 0.001})
    assert KEY not in " ".join(ENGINE.command(launch))
    with start(ENGINE, launch) as server:
        wait_ready(server, 20)
        with server.client() as client:
            effective = ENGINE.effective_configuration(client, server.log_text())
            assert effective["cache"]["enable_prefix_caching"] == "False"
            assert ENGINE.differences(launch.identity, effective) == []
            other = {"flags": {"max-num-seqs": 5, "gap": 0.001}}
            found = [(item.key, item.effective, item.expected) for item in ENGINE.differences(other, effective)]
            assert found == [("max-num-seqs", 4, False)]
            assert ENGINE.reset_cache(client)


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ({"max-num-seq": 4}, "unknown_flag", "did you mean 'max-num-seqs'"),
        ({"max-num-seqs": 0}, "bad_flag_value", "must be at least 1"),
        ({"gap": "fast"}, "bad_flag_value", "neither a number of seconds nor"),
        ({"port": 1}, "reserved_flag", "--port"),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_starts(flags: dict[str, object], code: str, said: str) -> None:
    good, bad = ENGINE.check_flags(
        [], [Settings({"gap": 0.1, "enable-prefix-caching": False}, {}), Settings(flags, {})]
    )
    assert good is None
    assert bad is not None
    assert (bad.code, said in bad.message) == (code, True), bad.message


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("truth engine: {}\nValueError: no such level\n", "configuration_refused"),
        ("usage: python -m leverlab.truth\npython -m leverlab.truth: error: argument --gap: invalid\n", "configuration_refused"),
        ("cannot listen on 127.0.0.1:1: [Errno 98] Address already in use; choose a free --port\n", "port_taken"),
        ("listening on 127.0.0.1:1\n", "server_died"),
        ("", "server_died"),
    ],
)  # fmt: skip
def test_why_it_ended(log: str, code: str) -> None:
    assert ENGINE.explain_exit(log).code == code
