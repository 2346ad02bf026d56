"""What a server that is asked and does not answer is called: dead, with its own reason, or unresponsive."""

from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from leverlab.engines.prometheus import snapshot
from leverlab.engines.truth import TruthEngine
from leverlab.load.plan import Endpoint
from leverlab.records import Reason
from leverlab.topology import Servers
from leverlab.trial import outcomes
from leverlab.trial.outcomes import ServerDiedError
from leverlab.trial.served import Served


def silent_at(path: str, check_alive: Callable[[], None]) -> Served:
    """A server that answers everywhere but at `path`, where the connection is refused."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == path:
            raise httpx.ConnectError("Connection refused")
        return httpx.Response(200, text="")

    client = httpx.Client(base_url="http://127.0.0.1:1", transport=httpx.MockTransport(answer))

    class Silent(Servers):
        def __init__(self) -> None:
            """One truth engine that was never started."""

        def reset_cache(self, *, tiers: bool = True) -> bool:
            return TruthEngine().reset_cache(client, tiers=tiers)

        def counters(self) -> dict[str, float]:
            return snapshot(TruthEngine(), client)

    return Served(TruthEngine(), Silent(), "127.0.0.1", 1, "key", Endpoint.COMPLETIONS, 1.0, check_alive)


@pytest.mark.parametrize(
    ("path", "said"), [("/metrics", "/metrics"), ("/reset_prefix_cache", "the reset of its prefix cache")]
)
def test_one_that_lives_is_unresponsive(path: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_DYING_S", 0.2)
    with pytest.raises(ServerDiedError) as told:
        silent_at(path, lambda: None).reset_cache()
    assert told.value.reason.code == "server_unresponsive"
    assert f"does not answer at {said}: ConnectError" in told.value.reason.message


@pytest.mark.parametrize("path", ["/metrics", "/reset_prefix_cache"])
def test_one_that_ended_has_its_own_reason(path: str) -> None:
    def ended() -> None:
        raise ServerDiedError(Reason(code="out_of_memory", message="no memory"))

    with pytest.raises(ServerDiedError) as told:
        silent_at(path, ended).reset_cache()
    assert told.value.reason.code == "out_of_memory"


def test_one_that_closed_its_connections_is_given_the_time_to_end() -> None:
    """A dying process has lost its sockets before those who wait for it see its end."""
    looked = iter(range(100))

    def ending() -> None:
        if next(looked) == 3:
            raise ServerDiedError(Reason(code="server_died", message="killed"))

    with pytest.raises(ServerDiedError) as told:
        silent_at("/metrics", ending).reset_cache()
    assert told.value.reason.code == "server_died"


def test_what_a_phase_adds_to_a_request_stands_beside_what_the_engine_needs() -> None:
    plain = silent_at("/none", lambda: None)
    added = replace(plain, request={"priority": 3}).target.extra_body
    assert added == {**plain.target.extra_body, "priority": 3}
    assert "priority" not in plain.target.extra_body
