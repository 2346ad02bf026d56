"""LoRA adapters: their files, who serves them, which requests ask them, and what is told of these."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import deserialize

from leverlab.aggregate.cell_metrics import MeasuredCell
from leverlab.config import ConfigError
from leverlab.config.model import AdaptersSource
from leverlab.config.model_reference import with_folders
from leverlab.engines import engine_for
from leverlab.engines.base import Launch
from leverlab.engines.sglang import SglangEngine
from leverlab.engines.vllm import VllmEngine
from leverlab.layout import Layout
from leverlab.load.plan import Endpoint, LoadPoint, PlannedRequest, Target, read_requests, request_bytes
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.servers import Server
from leverlab.models.adapters import CONFIGURATION_FILE, WEIGHTS_FILE, adapter_files
from leverlab.models.prepare import model_folder, prepare_adapters, prepare_model
from leverlab.models.synthetic import synthetic_files
from leverlab.theory.configured import server_of
from leverlab.workloads import draw
from leverlab.workloads.card import ideal_hits
from tests.unit.drawn_workloads import SHAPE, drawn, identity_of
from tests.unit.measured_cells import chunks_table, request_row, requests_table, server_delta
from tests.unit.repository import Repository

SOURCE = AdaptersSource(base="tiny", count=2, rank=4)


def configuration(**changes: Any) -> dict[str, Any]:
    return dict(json.loads(synthetic_files({**SHAPE, **changes}, 16384)["config.json"]))


def test_an_adapter_has_two_factors_for_each_projection_of_each_layer() -> None:
    files = adapter_files(SOURCE, "adapter-1", configuration(num_hidden_layers=2))
    told = json.loads(files[CONFIGURATION_FILE])
    assert (told["peft_type"], told["r"], told["base_model_name_or_path"]) == ("LORA", 4, "tiny")
    tensors = dict(deserialize(files[WEIGHTS_FILE]))
    assert len(tensors) == 2 * 4 * 2
    first = "base_model.model.model.layers.0.self_attn"
    # Hidden 64, two heads of 32 and one of keys and values.
    sizes = {"q_proj": (64, 64), "k_proj": (64, 32), "v_proj": (64, 32), "o_proj": (64, 64)}
    for target, (inputs, outputs) in sizes.items():
        assert tensors[f"{first}.{target}.lora_A.weight"]["shape"] == [4, inputs]
        assert tensors[f"{first}.{target}.lora_B.weight"]["shape"] == [outputs, 4]
    for tensor in tensors.values():
        bits = np.frombuffer(tensor["data"], "<u2").astype("<u4") << 16
        values = bits.view("<f4")
        assert tensor["dtype"] == "BF16" and 0 < np.abs(values).max() < 0.02
        assert abs(values.mean()) < 0.005 and len(np.unique(values)) > 50


def test_adapters_are_the_same_bytes_anywhere_and_unlike_each_other() -> None:
    base = configuration()
    assert adapter_files(SOURCE, "adapter-1", base) == adapter_files(SOURCE, "adapter-1", base)
    weights = {name: adapter_files(SOURCE, name, base)[WEIGHTS_FILE] for name in ("adapter-1", "adapter-2")}
    assert weights["adapter-1"] != weights["adapter-2"]


def test_a_mixture_of_experts_is_adapted_in_its_attention_alone() -> None:
    mixture = configuration(
        architectures=["MixtralForCausalLM"], model_type="mixtral", num_local_experts=4, num_experts_per_tok=2
    )
    assert adapter_files(SOURCE, "adapter-1", mixture)[WEIGHTS_FILE]
    with pytest.raises(ValueError, match="have no down_proj, up_proj: take q_proj"):
        adapter_files(SOURCE.model_copy(update={"targets": ["up_proj", "down_proj"]}), "adapter-1", mixture)


def test_adapters_are_made_beside_their_record_for_a_model_that_is_there(tmp_path: Path) -> None:
    models, layout = Repository.at(tmp_path).configuration().models, Layout(tmp_path)
    prepare_model("tiny-llama", models["tiny-llama"], layout)
    record = prepare_adapters("tiny-llama-adapters", models, layout)
    assert json.loads(record.read_text())["source"]["count"] == 8
    folders = [path.parent.name for path in record.parent.glob("*/adapter_model.safetensors")]
    assert sorted(folders) == [f"adapter-{number}" for number in range(1, 9)]
    with pytest.raises(ConfigError, match="LoRA adapters are served with a model: ask for tiny-llama"):
        model_folder("tiny-llama-adapters", models["tiny-llama-adapters"], layout)
    lost = models["tiny-llama-adapters"].source.model_copy(update={"base": "tiny-lama"})
    with pytest.raises(ConfigError, match=r"source.base: there is no model 'tiny-lama'; did you mean 'tiny-llama'"):
        prepare_adapters("x", {**models, "x": models["tiny-llama"].model_copy(update={"source": lost})}, layout)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository.at(tmp_path)
    found.change("engines: [truth]", "engines: [vllm-cpu]")
    found.change("prefix_caching: [on, off]", "adapters: [0, 3]\n  lora_slots: [8, off]")
    found.change("{prefix_caching: on, ", "{adapters: 3, lora_slots: 8, ")
    found.change("  prefix_caching: ttft_s p50 at rate 8\n", "")
    found.change("replicates: 2", "design: {list: [{adapters: 0}, {adapters: 0, lora_slots: off}]}\nreplicates: 2")
    return found


def servers(repository: Repository, **settings: Any) -> dict[str, Server]:
    return {entry.treatment.name: entry.cell.server for entry in repository.study(**settings).cells}


def test_the_server_holds_the_adapters_and_the_workload_says_who_asks_them(repository: Repository) -> None:
    found = servers(repository)
    serving, off = found["baseline"], found["adapters=0, lora_slots=off"]
    assert found["adapters=0"] == serving, "who is asked changes no server"
    assert serving.other_models == ("tiny-llama-adapters",) and off.other_models == ()
    assert serving.identity["models"]["tiny-llama-adapters"] == {
        "name": "tiny-llama-adapters", "kind": "adapters", "base": "tiny-llama", "count": 8, "version": 1,
    }  # fmt: skip
    study = repository.study()
    workloads = {entry.treatment.name: entry.cell.phase.workload for entry in study.cells}
    assert workloads["baseline"].identity["workload"]["adapters"] == 3
    assert "adapters" not in workloads["adapters=0"].identity["workload"]
    key = ReplicateKey(1)
    assert workloads["baseline"].id != workloads["adapters=0"].id
    assert workloads["baseline"].seed(key) == workloads["adapters=0"].seed(key)
    theory = server_of(serving.identity, repository.configuration())
    assert theory.draft is None, "adapters draft nothing"


def test_the_engine_is_given_each_adapter_by_name_and_folder(repository: Repository) -> None:
    serving = with_folders(servers(repository)["baseline"].identity, {"tiny-llama-adapters": "/a"})
    launch = Launch(["python"], Path("m"), serving, "127.0.0.1", 1, "key", [], Path())
    words = VllmEngine().command(launch)
    at = words.index("--lora-modules")
    assert words[at + 1 : at + 9] == [f"adapter-{number}=/a/adapter-{number}" for number in range(1, 9)]
    assert "--enable-lora" in words and words[words.index("--max-loras") + 1] == "8"
    effect = repository.configuration().levers["lora_slots"].effect("8", "sglang")
    assert effect is not None and effect.flags["max-loras-per-batch"] == 8
    assert effect.flags["lora-paths"] == [f"adapter-{number}={{adapters}}/adapter-{number}" for number in range(1, 9)]


@pytest.mark.parametrize(
    ("old", "new", "file", "told"),
    [
        ("  adapters: tiny-llama-adapters\n", "", "config/models.yaml", "asks for its LoRA adapters.*add `adapters:`"),
        (
            "adapters: tiny-llama-adapters",
            "adapters: tiny-mixtral",
            "config/models.yaml",
            "tiny-mixtral is no entry of adapters of tiny-llama: its source must say `kind: adapters, base: tiny-llama`",
        ),
        (
            "base: tiny-llama, count: 8",
            "base: tiny-llama, count: 3",
            "config/models.yaml",
            r"tiny-llama-adapters.source.count: there are 3 adapters, and .* serves adapter-4: make more",
        ),
        (
            "{list: [{adapters: 0}, ",
            "{list: [{lora_slots: off}, ",
            "config/studies/small.yaml",
            r"lora_slots=off: requests name LoRA adapters, and no level has the server load any",
        ),
        (
            "replicates: 2",
            "client: vllm-bench\nreplicates: 2",
            "config/studies/small.yaml",
            "the client 'vllm-bench' names no LoRA adapters, and 3 are asked",
        ),
        (
            "requests: 24, groups: 3",
            "requests: 3, groups: 3",
            "config/studies/small.yaml",
            r"3 adapters and the base model are more than there are requests \(3\)",
        ),
    ],
)
def test_what_cannot_be_served_or_asked_is_told(
    repository: Repository, old: str, new: str, file: str, told: str
) -> None:
    repository.change(old, new, file)
    with pytest.raises(ConfigError, match=told):
        repository.study()


def test_requests_ask_all_equally_often_and_are_else_the_same(model_folder: Path, tmp_path: Path) -> None:
    told = {}
    for adapters in (0, 2):
        draw(identity_of("shared-prefix", adapters=adapters), 5, model_folder, tmp_path / str(adapters), None)
        told[adapters] = drawn(tmp_path / str(adapters))
    plain, asking = (told[adapters][0] for adapters in (0, 2))
    assert [{k: v for k, v in line.items() if k != "adapter"} for line in asking] == plain
    names = [line.get("adapter") for line in asking]
    assert Counter(names) == {None: 4, "adapter-1": 4, "adapter-2": 4}
    assert names != sorted(names, key=str), "in no order"
    assert told[2][1]["adapters"] == {"adapter-1": 4, "adapter-2": 4} and "adapters" not in told[0][1]
    planned = read_requests(tmp_path / "2" / "requests.jsonl")
    assert [request.adapter for request in planned] == names
    # Each pair of a prefix and someone who is asked with it computes the prefix once.
    pairs = len({(line["group"], line.get("adapter")) for line in asking})
    assert pairs > 3
    assert told[2][1]["expected_prefix_hit_ratio"]["16"] == pytest.approx((12 - pairs) * 192 / (12 * 224), abs=1e-6)


def test_blocks_of_one_adapter_are_not_those_of_another() -> None:
    prompts = [[1, 2, 3, 4, 5]] * 4
    assert ideal_hits(prompts, 4) == 12
    assert ideal_hits(prompts, 4, [None, None, None, None]) == 12
    assert ideal_hits(prompts, 4, ["a", None, "a", "b"]) == 4
    assert ideal_hits(prompts, 4, ["a", "b", "c", None]) == 0


@pytest.mark.parametrize(("kind", "field"), [("vllm", "model"), ("sglang", "lora_path")])
def test_a_request_names_its_adapter_as_its_engine_wants_it(kind: str, field: str) -> None:
    target = Target("127.0.0.1", 80, "m", None, Endpoint.COMPLETIONS, {}, engine_for(kind).adapter_field)
    plain = PlannedRequest(0, "r0", "words", 1, 4, 0.0)
    bodies = [
        json.loads(request_bytes(target, one).partition(b"\r\n\r\n")[2])
        for one in (plain, replace(plain, adapter="adapter-2"))
    ]
    assert bodies[0]["model"] == "m" and "lora_path" not in bodies[0]
    assert bodies[1] == {**bodies[0], field: "adapter-2"}


def test_a_switch_that_is_off_is_none_of_sglangs_words(repository: Repository) -> None:
    effect = repository.configuration().levers["lora_slots"].effect("off", "sglang")
    assert effect is not None
    identity = {"flags": dict(effect.flags), "environment": {}, "engine": {"kind": "sglang", "device": "cuda"}}
    words = SglangEngine().command(Launch(["python"], Path("m"), identity, "127.0.0.1", 1, "key", [], Path()))
    assert not [word for word in words if "lora" in word]


def cell_of(rows: list[dict[str, Any]], **dropped: list[str]) -> MeasuredCell:
    table = requests_table(rows).drop_columns(dropped.get("without", []))
    return MeasuredCell(table, chunks_table(rows), LoadPoint("burst"), server_delta(rows), None)


def test_latencies_are_told_of_the_base_model_and_of_adapters() -> None:
    names = [None, "adapter-1", "adapter-2", "adapter-1"]
    rows = [request_row(at, 0.0, 0.1 + 0.1 * at, adapter=name) for at, name in enumerate(names)]
    found = cell_of(rows).metrics({})
    assert found["base_ttft_s", "mean"] == pytest.approx(0.1)
    assert found["adapter_ttft_s", "mean"] == pytest.approx(0.3)
    # adapter-1 takes 0.2 s and 0.4 s, adapter-2 0.3 s.
    assert found["adapter_ttft_spread", None] == pytest.approx(1)
    slower = [*rows[:2], request_row(2, 0.0, 0.6, adapter="adapter-2"), rows[3]]
    assert cell_of(slower).metrics({})["adapter_ttft_spread", None] == pytest.approx(2)


def test_where_no_adapter_is_asked_nothing_is_told_of_any() -> None:
    rows = [request_row(at, 0.0) for at in range(4)]
    for cell in (cell_of(rows), cell_of(rows, without=["adapter"])):
        told = cell.metrics({})
        assert told["ttft_s", "mean"] is not None
        assert told["base_ttft_s", "mean"] is None and told["adapter_ttft_s", "mean"] is None
        assert told["adapter_ttft_spread", None] is None
