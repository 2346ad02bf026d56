"""Topologies of several processes: what they declare, how they start, and what they are together."""

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from leverlab.engines.base import Engine
from leverlab.engines.sglang import SglangEngine
from leverlab.engines.truth import TruthEngine
from leverlab.engines.vllm import VllmEngine
from leverlab.topology import RunningServer, ServerEnded, Servers, engine_launches, launches_to_check, start, wait_ready
from leverlab.topology.counters import Counted, combined, over_all
from leverlab.topology.topologies import planned
from tests.unit.proxied import PREFILL_DECODE, launch_of
from tests.unit.test_topology import marked, until

pytestmark = pytest.mark.serial

ENGINE = TruthEngine()


def ask(client: httpx.Client, prompt: str, tokens: int = 3) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"prompt": prompt, "max_tokens": tokens, "ignore_eos": True})
    answer.raise_for_status()
    return dict(answer.json())


def words(number: int, count: int = 64) -> str:
    return " ".join(f"w{number}-{at}" for at in range(count))


def test_servers_of_a_topology_share_gpus_cores_and_no_port(tmp_path: Path) -> None:
    launch = replace(
        launch_of(tmp_path, "prefill-decode", {"connector": "nixl", "decode": {"servers": 3}}),
        cores=list(range(8)),
        gpus=["a", "b", "c", "d"],
    )
    plan = planned(VllmEngine(), replace(launch, identity={**launch.identity, "gpu": {"type": "h100", "count": 4}}))
    assert [[process.name for process in stage] for stage in plan.stages] == [
        ["prefill", "decode-1", "decode-2", "decode-3"],
        ["proxy"],
    ]
    servers = [process.launch for process in plan.stages[0] if process.launch]
    assert [server.gpus for server in servers] == [["a"], ["b"], ["c"], ["d"]]
    assert [server.cores for server in servers] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [server.identity["gpu"]["count"] for server in servers] == [1] * 4
    assert [process.environment.get("CUDA_VISIBLE_DEVICES") for process in plan.processes] == ["a", "b", "c", "d", None]
    side_channels = [process.environment["VLLM_NIXL_SIDE_CHANNEL_PORT"] for process in plan.stages[0]]
    ports = [process.port for process in plan.processes] + [int(port) for port in side_channels]
    assert len(set(ports)) == len(ports) == 9
    assert plan.front.port == launch.port
    assert "--kv-transfer-config" in plan.stages[0][0].command
    assert '{"kv_connector":"NixlConnector","kv_role":"kv_both"}' in plan.stages[0][0].command
    assert launch.api_key not in str(plan)


def test_flags_of_a_role_are_laid_over_the_treatments_and_reach_that_role_alone(tmp_path: Path) -> None:
    settings = {"connector": "example", "prefill": {"flags": {"max-num-seqs": 2}, "environment": {"A": "1"}}}
    launches = engine_launches(VllmEngine(), launch_of(tmp_path, "prefill-decode", settings, max_num_seqs=64))
    assert {name: launch.identity["flags"]["max-num-seqs"] for name, launch in launches.items()} == {
        "prefill": 2,
        "decode": 64,
    }
    assert [launch.identity["environment"] for launch in launches.values()] == [{"A": "1"}, {}]
    folders = {
        launch.identity["flags"]["kv-transfer-config"]["kv_connector_extra_config"]["shared_storage_path"]
        for launch in launches.values()
    }
    assert folders == {str(tmp_path.resolve() / "tier")}


def test_a_server_with_a_tier_of_its_own_has_both_connectors_the_handing_over_first(tmp_path: Path) -> None:
    tier = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
    launches = engine_launches(
        VllmEngine(), launch_of(tmp_path, "prefill-decode", PREFILL_DECODE, **{"kv-transfer-config": tier})
    )
    for launch in launches.values():
        told = launch.identity["flags"]["kv-transfer-config"]
        assert told["kv_connector"] == "MultiConnector" and told["kv_role"] == "kv_both"
        nixl, own = told["kv_connector_extra_config"]["connectors"]
        assert nixl["kv_connector"] == "NixlConnector" and own == tier
        assert launch.identity["environment"]["VLLM_NIXL_SIDE_CHANNEL_PORT"]


def test_servers_that_differ_in_their_place_alone_are_asked_about_once(tmp_path: Path) -> None:
    def asked(engine: Engine, settings: Mapping[str, Any]) -> list[str]:
        launches = launches_to_check(engine, launch_of(tmp_path, "prefill-decode", settings))
        return [launch.folder.name for launch in launches]

    assert asked(VllmEngine(), PREFILL_DECODE) == ["prefill"]
    assert asked(VllmEngine(), {**PREFILL_DECODE, "decode": {"environment": {"A": "1"}}}) == ["prefill", "decode"]
    assert asked(SglangEngine(), PREFILL_DECODE) == ["prefill", "decode"]


def test_sglang_hands_over_through_its_own_router(tmp_path: Path) -> None:
    plan = planned(SglangEngine(), launch_of(tmp_path, "prefill-decode", PREFILL_DECODE))
    prefill, decode, router = (process.command for process in plan.processes)
    assert prefill[prefill.index("--disaggregation-mode") + 1] == "prefill"
    assert decode[decode.index("--disaggregation-mode") + 1] == "decode"
    assert "--disaggregation-bootstrap-port" not in decode
    bootstrap = prefill[prefill.index("--disaggregation-bootstrap-port") + 1]
    at = router.index("--prefill")
    assert router[at : at + 5] == [
        *("--prefill", plan.processes[0].base_url, bootstrap),
        *("--decode", plan.processes[1].base_url),
    ]


def test_a_cache_aware_router_is_sglangs(tmp_path: Path) -> None:
    plan = planned(SglangEngine(), launch_of(tmp_path, "replicas", {"policy": "cache-aware", "router": "sglang"}))
    words = plan.front.command
    assert words[words.index("--policy") + 1] == "cache_aware"
    assert words[words.index("--worker-urls") + 1 :] == [process.base_url for process in plan.stages[0]]


def test_sglangs_router_is_ready_once_it_has_every_server(tmp_path: Path) -> None:
    plan = planned(SglangEngine(), launch_of(tmp_path, "replicas", {"router": "sglang"}))

    def knowing(*healthy: bool) -> httpx.Client:
        workers = [{"url": "http://x", "is_healthy": one} for one in healthy]
        transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"workers": workers}))
        return httpx.Client(base_url="http://router", transport=transport)

    assert [plan.front.ready(knowing(*healthy)) for healthy in ((True,), (True, False), (True, True))] == [
        False,
        False,
        True,
    ]


def test_the_front_starts_once_all_behind_it_are_ready(tmp_path: Path) -> None:
    with start(ENGINE, launch_of(tmp_path, "replicas", startup_s=1.0)) as server:
        assert [part.plan.name for part in server.parts] == ["replica-1", "replica-2"]
        wait_ready(server, 20)
        assert [part.plan.name for part in server.parts] == ["replica-1", "replica-2", "proxy"]
        fronts_first_line = server.log_text().splitlines()[0]
        assert f"listening on 127.0.0.1:{server.plan.front.port}" in fronts_first_line
        with server.client() as client:
            assert client.get("/v1/models").status_code == 200
        report = server.stop()
    assert (report.signal, report.status, report.survivors) == ("SIGINT", 0, [])
    assert marked(server.marker) == []
    assert sorted(path.name for path in tmp_path.glob("*.log")) == ["proxy.log", "replica-1.log", "replica-2.log"]


def test_a_role_that_refuses_ends_the_start_and_is_named(tmp_path: Path) -> None:
    settings = {"connector": "nixl", "decode": {"flags": {"refuse": "no such level"}}}
    with (
        start(ENGINE, launch_of(tmp_path, "prefill-decode", settings)) as server,
        pytest.raises(ServerEnded) as ended,
    ):
        wait_ready(server, 20)
    assert ended.value.reason.code == "configuration_refused"
    assert ended.value.reason.message.startswith("decode: ")
    assert "no such level" in ended.value.reason.message
    assert marked(server.marker) == []


@pytest.mark.parametrize("victim", ["prefill", "decode", "proxy"])
def test_a_process_that_dies_is_told_by_its_name_and_its_own_log(tmp_path: Path, victim: str) -> None:
    with start(ENGINE, launch_of(tmp_path, "prefill-decode", PREFILL_DECODE)) as server:
        wait_ready(server, 20)
        assert server.ended() is None
        [dying] = [part for part in server.parts if part.plan.name == victim]
        assert dying.pid is not None
        os.kill(dying.pid, signal.SIGKILL)
        assert until(lambda: server.poll() is not None)
        ended = server.ended()
    assert ended is not None
    assert (ended.name, ended.status, ended.reason.code) == (victim, -signal.SIGKILL, "server_died")
    assert ended.reason.message.startswith(f"{victim}: ")
    assert marked(server.marker) == []


def ready(server: RunningServer) -> RunningServer:
    wait_ready(server, 20)
    return server


def test_replicas_take_turns_and_their_counters_add_up(tmp_path: Path) -> None:
    with (
        start(ENGINE, launch_of(tmp_path, "replicas")) as server,
        ready(server).client() as client,
        Servers(server) as servers,
    ):
        for number in range(4):
            ask(client, words(number))
        counters = servers.counters()
        assert counters["requests_finished"] == 4
        assert counters["replica-1:requests_finished"] == counters["replica-2:requests_finished"] == 2
        assert counters["prompt_tokens"] == 4 * 64
        assert counters["generation_tokens"] == 12
        assert counters["proxy_requests"] == 4
        ask(client, words(0))
        assert servers.counters()["replica-1:prefix_hit_tokens"] > 0
        assert servers.reset_cache()
        before = servers.counters()["prefix_hit_tokens"]
        for number in (1, 2):
            ask(client, words(number))
        assert servers.counters()["prefix_hit_tokens"] == before


def test_a_cache_counts_as_reset_only_if_every_server_did(tmp_path: Path) -> None:
    settings = {"connector": "nixl", "decode": {"flags": {"refuse-reset": True}}}
    with start(ENGINE, launch_of(tmp_path, "prefill-decode", settings)) as server:
        wait_ready(server, 20)
        with Servers(server) as servers:
            assert not servers.reset_cache()


def test_a_prompt_is_computed_once_handed_over_and_counted_once(tmp_path: Path) -> None:
    launch = launch_of(tmp_path, "prefill-decode", PREFILL_DECODE, kv_transfer_per_token=0.001, kv_bytes_per_token=1000)
    with start(ENGINE, launch) as server, ready(server).client() as client, Servers(server) as servers:
        answer = ask(client, words(0))
        counters = servers.counters()
    assert answer["usage"] == {"prompt_tokens": 64, "completion_tokens": 3, "total_tokens": 67}
    assert "kv_transfer_params" not in answer
    expected = {
        "prompt_tokens": 64,
        "generation_tokens": 3,
        "requests_finished": 1,
        "handed_over_tokens": 63,
        "kv_transfer_bytes_sum": 63_000,
        "kv_transfer_bytes_count": 1,
        "prefill:requests_finished": 1,
        "prefill:generation_tokens": 1,
        "decode:external_hit_tokens": 63,
        "proxy_prefill_s_count": 1,
        "proxy_added_s_count": 1,
    }
    assert {name: counters[name] for name in expected} == expected
    assert counters["kv_transfer_s_sum"] == pytest.approx(0.063)
    assert counters["ttft_s_count"] == 1
    assert counters["ttft_s_sum"] == counters["prefill:ttft_s_sum"] + counters["decode:ttft_s_sum"]


def test_every_server_says_what_it_runs_with(tmp_path: Path) -> None:
    settings = {"connector": "nixl", "decode": {"flags": {"ignore-flag": "max-num-seqs", "max-num-seqs": 7}}}
    with start(ENGINE, launch_of(tmp_path, "prefill-decode", settings, max_num_seqs=5)) as server:
        wait_ready(server, 20)
        with Servers(server) as servers:
            effective = servers.effective_configuration()
            differences = servers.differences(effective)
    assert {name: told["settings"]["max_num_seqs"] for name, told in effective["servers"].items()} == {
        "prefill": 5,
        "decode": 1024,
    }
    assert [(one.key, one.intended, one.effective) for one in differences] == [("decode: max-num-seqs", 7, 1024)]


def test_what_servers_hand_over_in_files_is_emptied_with_the_tiers(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    folder = scratch / "tier"
    (folder / "a prompt").mkdir(parents=True)
    (folder / "a prompt" / "layer").write_text("kv")
    launch = replace(launch_of(tmp_path, "prefill-decode", {"connector": "example"}), scratch=scratch)
    with start(ENGINE, launch) as server:
        wait_ready(server, 20)
        with Servers(server) as servers:
            assert servers.reset_cache(tiers=False)
            assert [entry.name for entry in folder.iterdir()] == ["a prompt"]
            assert servers.reset_cache()
    assert list(folder.iterdir()) == []
    told = engine_launches(VllmEngine(), launch)["decode"].identity["flags"]["kv-transfer-config"]
    assert told["kv_connector_extra_config"] == {"shared_storage_path": str(folder)}


def counted(name: str, answers: bool, **values: float) -> Counted:
    return Counted(name, answers, values)


def test_counters_of_several_servers() -> None:
    values: Mapping[str, float] = combined(
        [
            counted("prefill", False, prompt_tokens=10, queue_time_s_sum=1.0, queue_time_s_count=2, kv_cache_usage=0.7),
            counted("decode", True, prompt_tokens=10, queue_time_s_sum=0.5, queue_time_s_count=2, kv_cache_usage=0.2),
        ]
    )
    assert {name: value for name, value in values.items() if ":" not in name} == {
        "prompt_tokens": 10,
        "queue_time_s_sum": 1.5,
        "queue_time_s_count": 2,
        "kv_cache_usage": 0.7,
    }
    sent = {"kv_transfer_s_sum": 0.5, "kv_transfer_s_count": 2}
    by_the_sender = combined([counted("prefill", False, **sent), counted("decode", True, kv_transfer_s_count=0)])
    assert sent.items() <= by_the_sender.items()
    assert values["prefill:prompt_tokens"] == values["decode:prompt_tokens"] == 10
    assert combined([counted("server", True, prompt_tokens=3)]) == {"prompt_tokens": 3}


def test_prompts_are_looked_up_where_they_are_computed() -> None:
    """A decode server looks each prompt up again: of 100 tokens with 60 hits, both added would tell 30 %."""
    looks = {"prefix_queried_tokens": 100, "prefix_hit_tokens": 60}
    before = counted("prefill", False, **looks, external_queried_tokens=40, external_hit_tokens=30)
    after = counted(
        "decode",
        True,
        prefix_queried_tokens=100,
        prefix_hit_tokens=0,
        external_queried_tokens=100,
        external_hit_tokens=96,
    )
    values = combined([before, after])
    assert {name: value for name, value in values.items() if ":" not in name} == {
        **looks,
        "external_queried_tokens": 40,
        "external_hit_tokens": 30,
        "handed_over_queried_tokens": 100,
        "handed_over_tokens": 96,
    }
    assert over_all(values, "prefix_queried_tokens") == 200, "each server's own cache"
    replicas = combined([counted("replica-1", True, **looks), counted("replica-2", True, **looks)])
    assert replicas["prefix_hit_tokens"] == over_all(replicas, "prefix_hit_tokens") == 120
    assert over_all({"prefix_hit_tokens": 7}, "prefix_hit_tokens") == 7, "of one server alone"


def test_processes_are_kept_apart_from_others_of_this_machine(tmp_path: Path) -> None:
    with start(ENGINE, launch_of(tmp_path, "replicas")) as server:
        wait_ready(server, 20)
        pids = {process.pid for process in server.processes()}
        assert {process.pid for process in marked(server.marker)} == pids
        assert len(pids) == 3
        assert all(psutil.pid_exists(pid) for pid in pids)
