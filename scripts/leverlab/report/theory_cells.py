"""The measured cells of a study as theory sees them: a server, a load, and what was measured beside each quantity."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow.parquet as pq

from leverlab.aggregate.schema import lever_column, metric_column
from leverlab.config.workload import SharedPrefix
from leverlab.matrix.cells import ReplicateKey
from leverlab.metrics import parse_metric_reference
from leverlab.quantities import DERIVED, Quantity
from leverlab.report.source import StudyData, rows_of
from leverlab.theory.configured import server_of
from leverlab.theory.cost import energy_cost_per_million_tokens, gpu_cost_per_million_tokens
from leverlab.theory.drafting import speculates
from leverlab.theory.expected import step_bytes, step_flop
from leverlab.theory.occasion import Occasion
from leverlab.theory.server import TheoryServer
from leverlab.theory.unknown import DoesNotApplyError, NotKnownError

_TPOT: Final = metric_column("tpot_s", "p50")
_LENGTHS: Final = ["cell", "replicate", "prompt_tokens", "completion_tokens"]

Place = tuple[tuple[str, str, str, int], str, str, tuple[str, ...]]
"""Context, load, replicate and a level for each lever."""


@dataclass(frozen=True, slots=True)
class TheoryCell:
    """A row of cells.parquet, with the server and the load that theory sees in it."""

    row: Mapping[str, Any]
    server: TheoryServer
    occasion: Occasion


@dataclass(frozen=True)
class TheoryCells:
    """The valid cells of a study, copies of the baseline left out, and why theory knows no server for the others."""

    data: StudyData
    cells: Sequence[TheoryCell]
    unknown: Sequence[str]
    by_place: Mapping[Place, TheoryCell]

    def measured(self, quantity: Quantity, cell: TheoryCell) -> float | None:
        """What was measured beside `quantity`; None where nothing is. Raises NotKnownError where it was not measured."""
        if quantity.beside is None:
            return None
        if quantity.beside != DERIVED:
            reference = parse_metric_reference(quantity.beside)
            return _told(cell.row, metric_column(reference.metric, reference.statistic), quantity.beside)
        match quantity.name:
            case "speculative_speedup":
                return self._without_speculation(cell) / _told(cell.row, _TPOT, "tpot_s p50")
            case "gpu_cost_per_million_tokens":
                rate = _told(cell.row, "throughput", "throughput")
                return gpu_cost_per_million_tokens(cell.server.price, cell.server.gpu_count, rate)
            case "energy_cost_per_million_tokens":
                joules = _told(cell.row, "energy_per_token_j", "energy_per_token_j")
                return energy_cost_per_million_tokens(cell.server.energy_price, joules)
        if speculates(cell.server):
            raise DoesNotApplyError("with speculation a step gives several tokens")
        per_step = step_flop if quantity.unit == "FLOP/s" else step_bytes
        return per_step(cell.server, cell.occasion) / _told(cell.row, _TPOT, "tpot_s p50")

    def _without_speculation(self, cell: TheoryCell) -> float:
        """TPOT of the cell that differs in one lever alone, and does not speculate."""
        levers = self.data.study.levers
        context, load, replicate, levels = _place(self.data, cell.row)
        for number, lever in enumerate(levers):
            for level in levers[lever]:
                others = (*levels[:number], level, *levels[number + 1 :])
                other = self.by_place.get((context, load, replicate, others))
                if other is not None and not speculates(other.server):
                    return _told(other.row, _TPOT, "tpot_s p50")
        raise NotKnownError("no treatment differs in speculation alone")


def theory_cells(data: StudyData) -> TheoryCells:
    """The cells of `data` with what the configuration, the workloads' cards and the requests tell of them."""
    order = [name for name, treatment in data.treatments.items() if not treatment.copy]
    lengths, hits = _lengths(data), _ideal_hits(data)
    servers: dict[str, TheoryServer | str] = {}
    cells: list[TheoryCell] = []
    for row in rows_of(data.valid):
        if row["treatment"] not in order:
            continue
        name = str(row["server"])
        if name not in servers:
            servers[name] = _server(row, data)
        server = servers[name]
        if isinstance(server, TheoryServer):
            seed = ReplicateKey.parse(str(row["replicate"])).seed_key
            prompts, outputs = lengths.get((str(row["cell"]), str(row["replicate"])), ((), ()))
            occasion = Occasion(
                prompts=prompts,
                outputs=outputs,
                running=_running(row, server),
                ideal_hits=hits.get((str(row["workload"]), seed), {}),
                shared=_shared(row),
                cold=row["cache"] != "warm",
                hit_ratio=_found(row),
                kv_tokens=_number(row, "kv_cache_tokens"),
                accepted_share=_number(row, "acceptance_ratio"),
                tokens_per_draft=_number(row, "tokens_per_draft"),
            )
            cells.append(TheoryCell(row, server, occasion))
    unknown = [server for server in servers.values() if isinstance(server, str)]
    return TheoryCells(data, cells, list(dict.fromkeys(unknown)), {_place(data, cell.row): cell for cell in cells})


def _place(data: StudyData, row: Mapping[str, Any]) -> Place:
    context = (str(row["engine"]), str(row["model"]), str(row["gpu"]), int(row["gpu_count"]))
    levels = tuple(str(row[lever_column(lever)]) for lever in data.study.levers)
    return context, str(row["load"]), str(row["replicate"]), levels


def _server(row: Mapping[str, Any], data: StudyData) -> TheoryServer | str:
    """The row's server, or why theory does not know it."""
    identity = json.loads(row["specification"]).get("server")
    if identity is None:
        return "a cell does not tell what its server was"
    try:
        return server_of(identity, data.configuration)
    except NotKnownError as error:
        return str(error)


def _running(row: Mapping[str, Any], server: TheoryServer) -> float | None:
    """Requests that run at once: as measured, of a closed loop at most its streams, and these where nothing was measured.

    Where prefill servers hand over, the gauge counts those who wait there for their first token too, and no step of a decode
    server has them. Those who decode are answers/s × the time from the first token to the last of each (Little's law).
    """
    streams = float(row["load_value"]) if row["load_kind"] == "concurrency" else None
    rate, whole_s, first_s = (_number(row, name) for name in ("achieved_rate", "e2e_s_mean", "ttft_s_mean"))
    decoding = None
    if server.hands_over and rate is not None and whole_s is not None and first_s is not None:
        decoding = rate * (whole_s - first_s)
    known = [running for running in (_number(row, "mean_running"), streams, decoding) if running is not None]
    return min(known, default=None)


def _shared(row: Mapping[str, Any]) -> SharedPrefix | None:
    """The cell's workload where it is one of shared prefixes and of no adapters, as its record identifies it."""
    drawn = json.loads(row["specification"]).get("phase", {}).get("workload", {}).get("workload", {})
    known = drawn.get("kind") == "shared-prefix" and not drawn.get("adapters")
    return SharedPrefix.model_validate(drawn) if known else None


def _found(row: Mapping[str, Any]) -> float | None:
    """Share of the prompts' tokens that the server's own cache or a tier below it had."""
    own, below = _number(row, "cache_hit_ratio"), _number(row, "external_hit_ratio")
    if own is None or below is None:
        return own if below is None else below
    return own + (1 - own) * below


def _number(row: Mapping[str, Any], column: str) -> float | None:
    value = row.get(column)
    return None if value is None or value != value else float(value)


def _told(row: Mapping[str, Any], column: str, name: str) -> float:
    value = _number(row, column)
    if value is None:
        raise NotKnownError(f"{name} was not measured")
    return value


def _lengths(data: StudyData) -> dict[tuple[str, str], tuple[list[int], list[int]]]:
    """(Cell, replicate) → tokens of the prompts and of the outputs of its requests."""
    path = data.requests
    if path is None:
        return {}
    table = pq.read_table(path, columns=_LENGTHS).to_pandas().dropna()
    return {
        (str(cell), str(replicate)): (
            own["prompt_tokens"].astype(int).tolist(),
            own["completion_tokens"].astype(int).tolist(),
        )
        for (cell, replicate), own in table.groupby(["cell", "replicate"])
    }


def _ideal_hits(data: StudyData) -> dict[tuple[str, str], dict[int, float]]:
    """(Workload, replicate) → hit ratio of an ideal prefix cache by block size."""
    return {
        (workload, replicate): {int(size): float(ratio) for size, ratio in card["expected_prefix_hit_ratio"].items()}
        for workload, replicate, card in data.workload_cards()
    }
