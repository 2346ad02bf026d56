"""Samplers: on a running server, on a GPU that is imitated, and where there is nothing to be seen."""

import re
import runpy
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pyarrow as pa
import pynvml
import pytest

from leverlab.engines.prometheus import snapshot
from leverlab.engines.truth import TruthEngine
from leverlab.telemetry import Sampling, difference, gpu
from leverlab.telemetry import sampling as sampling_module
from leverlab.telemetry.gpu import GPU, GpuSampler, throttle_text
from leverlab.telemetry.host import HOST, HostSampler
from leverlab.telemetry.periodic import Periodic
from leverlab.telemetry.server_metrics import SERVER_METRICS, MetricsSampler
from leverlab.telemetry.server_processes import ServerProcesses
from leverlab.topology import start, wait_ready
from tests.unit.repository import SOURCE
from tests.unit.test_topology import launch_in

pytestmark = pytest.mark.serial


@pytest.mark.parametrize("schema", [GPU, HOST, SERVER_METRICS], ids=["gpu", "host", "server_metrics"])
def test_every_column_says_unit_and_definition(schema: pa.Schema) -> None:
    for field in schema:
        assert field.metadata[b"definition"], field.name
        assert b"unit" in field.metadata, field.name


def test_a_running_server_is_sampled_and_its_counters_differ(tmp_path: Path) -> None:
    engine = TruthEngine()
    with start(engine, launch_in(tmp_path, gap=0.001)) as server:
        wait_ready(server, 20)
        with server.client() as client:
            before = snapshot(engine, client)
            begun_ns = time.monotonic_ns()
            with Sampling(server, "cpu", engine_cores=[0], client_cores=[0]) as sampling:
                body = {"model": "truth", "prompt": "one two three", "max_tokens": 5, **engine.request_extras()}
                assert client.post("/v1/completions", json=body).status_code == 200
                time.sleep(0.6)
            delta = difference(before, snapshot(engine, client))
    assert {name: delta[name] for name in ("prompt_tokens", "generation_tokens", "requests_finished", "ttft_s_count")} == {
        "prompt_tokens": 3.0, "generation_tokens": 5.0, "requests_finished": 1.0, "ttft_s_count": 1.0,
    }  # fmt: skip
    assert "running" not in delta
    tables = sampling.tables(begun_ns)
    assert sampling.missing == {"gpu": "the engine computes on the CPU"}
    assert tables.keys() == {"host", "server_metrics"}
    host = tables["host"].to_pydict()
    assert len(host["time_s"]) >= 3
    assert 0 <= host["time_s"][0] < host["time_s"][-1] < 10
    assert host["server_rss_bytes"][0] > 1e6
    assert all(0 <= share <= 1 for share in host["engine_cores_share"] if share is not None)
    assert sampling.costs.keys() == {"host", "server_metrics"}
    cost = sampling.costs["host"]
    assert cost.looks == len(host["time_s"]) and 0 < cost.look_s_p50 <= cost.look_s_max
    metrics = tables["server_metrics"].to_pylist()
    assert [row["value"] for row in metrics if row["name"] == "generation_tokens"][-1] == 5.0


def test_a_counter_that_fell_is_seen_as_negative_and_a_new_one_begins_at_zero() -> None:
    before = {"prompt_tokens": 100.0, "running": 2.0, "preemptions": 1.0}
    assert difference(before, {"prompt_tokens": 7.0, "requests_finished": 3.0, "running": 0.0}) == {
        "preemptions": -1.0,
        "prompt_tokens": -93.0,
        "requests_finished": 3.0,
    }


def test_a_server_that_does_not_answer_leaves_a_gap() -> None:
    def busy(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("busy", request=request)

    client = httpx.Client(base_url="http://s", transport=httpx.MockTransport(busy))
    sampler = MetricsSampler(lambda: snapshot(TruthEngine(), client))
    sampler.look()
    assert (sampler.unanswered, sampler.table(0.0).num_rows) == (1, 0)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Two GPUs; the second counts no energy, and tells no temperature at the moment."""
    state = SimpleNamespace(asked_for_energy=0, processes=[], memory={}, scopes={})

    def energy(handle: int) -> int:
        state.asked_for_energy += 1
        if handle == 1:
            raise pynvml.NVMLError_NotSupported
        return 5_000

    def temperature(handle: int, _: int) -> int:
        if handle == 1:
            raise pynvml.NVMLError_Timeout
        return 40

    def field(handle: int, fields: list[tuple[int, int]]) -> list[SimpleNamespace]:
        """The first GPU counts what it sends, and has no NVLink to receive by."""
        [(number, scope)] = fields
        state.scopes[number] = scope
        known = {pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES: 4096, pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX: 3}
        code = pynvml.NVML_SUCCESS if number in known else pynvml.NVML_ERROR_NOT_SUPPORTED
        value = SimpleNamespace(ullVal=known.get(number))
        return [SimpleNamespace(nvmlReturn=code, valueType=pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, value=value)]

    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": lambda uuid: int(uuid[-1]),
        "nvmlDeviceGetIndex": lambda handle: handle,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetPowerUsage": lambda handle: 123_456,
        "nvmlDeviceGetTotalEnergyConsumption": energy,
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=50, memory=25),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=1 << 30),
        "nvmlDeviceGetClockInfo": lambda handle, kind: 1980 if kind == pynvml.NVML_CLOCK_SM else 2619,
        "nvmlDeviceGetTemperature": temperature,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x24,
        "nvmlDeviceGetTotalEccErrors": lambda handle, kind, counter: (
            7 if kind == pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED else 0
        ),
        "nvmlDeviceGetFieldValues": field,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            SimpleNamespace(pid=pid, usedGpuMemory=state.memory.get(pid)) for pid in state.processes
        ],
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return state


def test_gpus_are_read_in_si_units_and_missing_counters_are_null(nvml: SimpleNamespace) -> None:
    sampler = GpuSampler((), ServerProcesses(list))
    origin = time.monotonic()
    sampler.look()
    sampler.look()
    table = sampler.table(origin)
    assert table.schema.equals(GPU)
    first, second = table.slice(0, 2).to_pylist()
    assert first.pop("time_s") < 1
    assert first == {
        "gpu": 0, "uuid": "GPU-0", "power_w": 123.456, "energy_j": 5.0, "sm_utilisation": 0.5, "memory_used_bytes": 2.0**30,
        "sm_clock_hz": 1.98e9, "memory_clock_hz": 2.619e9, "temperature_c": 40.0, "throttle_reasons": 0x24,
        "throttle_text": "software power cap, software thermal slowdown", "ecc_corrected": 7.0, "ecc_uncorrected": 0.0,
        "foreign_processes": None, "server_memory_bytes": None, "memory_utilisation": 0.25, "pcie_sent_bytes": 4096.0, "pcie_received_bytes": None,
        "nvlink_sent_bytes": 3072.0, "nvlink_received_bytes": None,
    }  # fmt: skip
    assert nvml.scopes[pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX] == 0xFFFFFFFF, "all links together"
    assert (second["energy_j"], second["temperature_c"], second["power_w"]) == (None, None, 123.456)
    assert nvml.asked_for_energy == 3, "a counter that is not supported is asked for once"


def test_processes_of_others_are_counted_where_nvml_tells_ids_of_this_machine(nvml: SimpleNamespace) -> None:
    server = psutil.Process()
    other, nowhere = psutil.pids()[0], 99999998
    cases = (
        ([server.pid], 0.0),
        ([server.pid, other], 1.0),
        ([nowhere], None),
        # The id of a neighbour that is the server's own by coincidence: the rest run nowhere here.
        ([server.pid, nowhere], None),
    )
    for there, foreign in cases:
        nvml.processes = there
        sampler = GpuSampler(["0"], ServerProcesses(lambda: [server]))
        sampler.look()
        assert sampler.table(0.0).column("foreign_processes").to_pylist() == [foreign]


def test_memory_is_told_of_the_servers_own_processes(nvml: SimpleNamespace) -> None:
    server, worker, other = 99999996, 99999997, psutil.pids()[0]
    own = [SimpleNamespace(pid=server), SimpleNamespace(pid=worker)]
    cases = (
        ({server: 3 << 30, worker: 1 << 30, other: 7 << 30}, 4.0 * 2**30),
        # The driver tells of a process and not of its memory: no sum of the others is the server's.
        ({server: 3 << 30, worker: None}, None),
        ({other: 7 << 30}, None),
        # A neighbour's id that is the server's own by coincidence, in a container: the rest run nowhere here.
        ({server: 3 << 30, 99999998: 7 << 30}, None),
        ({}, None),
    )
    for memory, told in cases:
        nvml.processes, nvml.memory = list(memory), memory
        sampler = GpuSampler(["0"], ServerProcesses(lambda: own))
        sampler.look()
        assert sampler.table(0.0).column("server_memory_bytes").to_pylist() == [told]


def test_memory_of_processes_that_nvml_denies_is_null(nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(handle: object) -> list[SimpleNamespace]:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", denied)
    sampler = GpuSampler(["0"], ServerProcesses(lambda: [psutil.Process()]))
    sampler.look()
    (row,) = sampler.table(0.0).to_pylist()
    assert (row["server_memory_bytes"], row["foreign_processes"], row["power_w"]) == (None, None, 123.456)


def test_a_worker_that_was_started_since_the_last_look_is_no_stranger(nvml: SimpleNamespace) -> None:
    server, worker = psutil.Process(), psutil.Process(psutil.pids()[0])
    processes = [server]
    nvml.processes = [server.pid]
    sampler = GpuSampler(["0"], ServerProcesses(lambda: list(processes)))
    sampler.look()
    processes.append(worker)
    nvml.processes = [server.pid, worker.pid]
    sampler.look()
    assert sampler.table(0.0).column("foreign_processes").to_pylist() == [0.0, 0.0]


def test_samplers_look_for_the_servers_processes_once_in_five_seconds(
    nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0, found=0)
    there = [Process(1.0, 7.0, pid=4)]

    def find() -> list[Process]:
        clock.found += 1
        return list(there)

    monkeypatch.setattr("leverlab.telemetry.server_processes.time.monotonic", lambda: clock.now)
    processes = ServerProcesses(find)
    nvml.processes = [4]
    gpus, host = GpuSampler(["0"], processes), HostSampler(processes, [], [])
    for now, found in ((100.0, 1), (104.9, 1), (105.1, 2), (110.0, 2)):
        clock.now = now
        host.look()
        gpus.look()
        assert clock.found == found, now
    there.append(Process(1.0, 7.0, pid=5))
    nvml.processes = [4, 5]
    gpus.look()
    gpus.look()
    host.look()
    assert clock.found == 3, "what is new on the GPU is looked up at once, and once"
    assert [row["foreign_processes"] for row in gpus.table(0.0).to_pylist()] == [0.0] * 6
    assert host.table(0.0).column("server_rss_bytes").to_pylist() == [1.0] * 4 + [2.0], "and is the host's too"


def test_one_thread_at_a_time_looks_for_the_servers_processes() -> None:
    """Of two that ask at the same instant the second takes what the first finds."""
    asked, go_on, finds = threading.Event(), threading.Event(), []

    def find() -> list[Process]:
        finds.append(threading.current_thread().name)
        asked.set()
        assert go_on.wait(20)
        return [Process(1.0, 7.0)]

    processes, got = ServerProcesses(find), []
    threads = [threading.Thread(target=lambda: got.append(processes.known()), name=name) for name in ("gpu", "host")]
    threads[0].start()
    assert asked.wait(20)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert finds == ["gpu"]
    assert len(got) == 2 and got[0] is got[1]


class Process:
    """A process that began at `begun_s` and has used `cpu_s` of CPU time."""

    def __init__(self, begun_s: float, cpu_s: float, pid: int = 1) -> None:
        self.begun_s, self.cpu_s, self.pid = begun_s, cpu_s, pid

    def cpu_times(self) -> SimpleNamespace:
        return SimpleNamespace(user=self.cpu_s, system=0.0)

    def create_time(self) -> float:
        return self.begun_s

    def memory_info(self) -> SimpleNamespace:
        return SimpleNamespace(rss=1)


def test_a_process_that_is_found_late_counts_from_when_sampling_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leverlab.telemetry.server_processes._LOOK_AGAIN_S", -1.0)
    old, late, new = Process(1.0, 100.0), Process(1.0, 50.0), Process(time.time() + 60, 2.0)
    there = [old]
    sampler = HostSampler(ServerProcesses(lambda: list(there)), [], [])
    sampler.look()
    there += [late, new]
    old.cpu_s += 1
    sampler.look()
    late.cpu_s += 3
    there.remove(new)
    sampler.look()
    assert sampler.table(0.0).column("server_cpu_s").to_pylist() == [0.0, 1.0 + 2.0, 1.0 + 2.0 + 3.0]


def test_the_named_gpus_are_sampled(nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.handles(["GPU-1"]) == [1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu.handles(()) == [1]
    assert gpu.visible_gpus() == ["GPU-1"]


def test_without_nvml_the_table_is_missing_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    engine = TruthEngine()
    with start(engine, launch_in(tmp_path)) as server, Sampling(server, "cuda") as sampling:
        pass
    assert "gpu" not in sampling.tables()
    assert "NVML" in sampling.missing["gpu"]


def test_throttle_reasons_in_words() -> None:
    assert throttle_text(0) == ""
    assert throttle_text(0x1 | 0x40) == "idle, hardware thermal slowdown"


@pytest.mark.parametrize(
    ("device", "engine_cores", "kept"), [("cuda", [0, 1], (0, 1)), ("cuda", [0], ()), ("cpu", [0, 1], ())]
)
def test_beside_gpus_looks_keep_to_the_engines_cores_where_it_has_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, engine_cores: list[int], kept: tuple[int, ...]
) -> None:
    made: list[tuple[int, ...]] = []

    def periodic(name: str, period_s: float, look: Callable[[], None], cores: Sequence[int] = ()) -> Periodic:
        made.append(tuple(cores))
        return Periodic(name, period_s, look)

    monkeypatch.setattr(sampling_module, "Periodic", periodic)
    with start(TruthEngine(), launch_in(tmp_path)) as server:
        Sampling(server, device, engine_cores=engine_cores)
    assert made
    assert set(made) == {kept}


def test_the_benchmark_of_looking_tells_what_each_answer_takes(
    nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On two GPUs that are imitated: of the first every answer that it has."""
    benchmark = runpy.run_path(str(SOURCE / "benchmarks" / "gpu_sampling.py"))
    monkeypatch.setattr("sys.argv", ["gpu_sampling.py", "--seconds", "0.3"])
    assert benchmark["main"]() == 0
    said = capsys.readouterr().out
    assert said.startswith("| GPUs | looks |") and "\n| 2 | " in said
    answers = re.findall(r"^\| `(\w+)` \| (\d+ µs)?", said, flags=re.MULTILINE)
    assert {name for name, took in answers if took} >= {"power_w", "energy_j", "foreign_processes", "pcie_sent_bytes"}
    assert ("nvlink_received_bytes", "") in answers, "what it does not count is told as that"


def test_the_benchmark_says_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("sys.argv", ["gpu_sampling.py"])
    assert runpy.run_path(str(SOURCE / "benchmarks" / "gpu_sampling.py"))["main"]() == 1
    assert capsys.readouterr().err.startswith("gpu_sampling: NVML: ")
