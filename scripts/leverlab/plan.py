"""The matrix before anything runs: what a study asks for, what of it is measured, and what the rest would take."""

import io
import math
import shutil
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from leverlab.accuracy.plan import AccuracyJob, read_run, run_folder, study_jobs
from leverlab.config import Configuration
from leverlab.config.workload import mean_output_tokens, rounds_of
from leverlab.layout import Layout
from leverlab.load_point import LoadPoint
from leverlab.matrix.cells import Phase
from leverlab.matrix.expand import Job, Matrix, StudyMatrix
from leverlab.matrix.jobs import request_count, workload_of
from leverlab.matrix.progress import CellSummary, measured, missing_phases, overheads_s
from leverlab.matrix.twins import Twin, outcome_of, twins_of
from leverlab.units import format_number, format_seconds

_SIGNS: Final = {"measured": "✓", "failed": "✗", "infeasible": "∅", "skipped": "↷", None: "·"}
_STYLES: Final = {"measured": "green", "failed": "bold red", "infeasible": "yellow", "skipped": "dim", None: "dim"}
_LEGEND: Final = "✓ measured   ✗ failed   ∅ infeasible   ↷ skipped   · to be measured   (one sign a replicate)"

_UNKNOWN_SEARCH_S: Final = 600.0
_UNKNOWN_ROUND_S: Final = 5.0
"""What a round of requests takes whose outputs are drawn from ShareGPT's lengths."""
_UNKNOWN_TOKEN_S: Final = 0.01
"""What a token of the output takes: cells of an 8B model on an H100 took from half to five times as long as this says."""
_UNKNOWN_BATCH: Final = 64
"""Requests of a burst that run at a time."""
_PLAIN_WIDTH: Final = 160


@dataclass(frozen=True, slots=True)
class Progress:
    """What was found of every job of a matrix."""

    summaries: Mapping[str, Mapping[str, CellSummary]]
    """Job's hash → phase → summary of its cell."""
    missing: Mapping[str, Sequence[str]]
    """Job's hash → phases still to be measured; jobs that have none are left out."""


@dataclass(slots=True)
class History:
    """How long trials and cells took here so far, in seconds."""

    overheads: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Engine → what its trials took besides their cells: start, warm-up, stop."""
    phases: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """(engine, GPU type, phase) → durations of such cells."""

    def overhead_s(self, engine: str, configuration: Configuration) -> float:
        """What a trial of `engine` usually takes besides its cells; as its entry says of starts where none was recorded."""
        known = self.overheads.get(engine)
        return statistics.median(known) if known else configuration.engines[engine].typical_start

    def phase_s(self, job: Job, phase: Phase) -> float:
        """What such a cell usually takes; from its arrivals, or the length of its outputs, where none was recorded."""
        known = self.phases.get((job.server.engine, job.server.gpu, phase.id))
        if known:
            return statistics.median(known)
        if phase.load.kind == "search":
            return _UNKNOWN_SEARCH_S
        if phase.load.kind == "rate":
            assert phase.load.value is not None
            return request_count(phase) / phase.load.value
        workload = workload_of(phase)
        rounds, pause_s = rounds_of(workload)
        tokens = mean_output_tokens(workload)
        round_s = _UNKNOWN_ROUND_S if tokens is None else tokens * _UNKNOWN_TOKEN_S
        batches = math.ceil(request_count(phase) / rounds / (phase.load.value or _UNKNOWN_BATCH))
        return batches * (rounds * round_s + (rounds - 1) * pause_s)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the jobs that are left would take."""

    jobs: int
    cells: int
    gpu_hours: float
    longest_job_s: float
    one_after_another_s: float
    cost: float | None
    """None where a GPU that is needed has no price."""
    from_history: bool


def progress_of(matrix: Matrix, layout: Layout) -> Progress:
    """Look at the cells of every job of `matrix`."""
    retry_failed = matrix.configuration.settings.retry_failed
    summaries = {job.hash: measured(layout, job) for job in matrix.jobs}
    missing = {job.hash: missing_phases(job, summaries[job.hash], retry_failed) for job in matrix.jobs}
    return Progress(summaries, {key: phases for key, phases in missing.items() if phases})


def history_of(jobs: Iterable[Job], progress: Progress, layout: Layout) -> History:
    """The durations that the matrix' own servers have left behind."""
    history = History()
    for job in jobs:
        for phase, summary in progress.summaries[job.hash].items():
            if summary.status == "measured" and summary.duration_s > 0:
                history.phases[job.server.engine, job.server.gpu, phase].append(summary.duration_s)
        if progress.summaries[job.hash]:
            history.overheads[job.server.engine] += overheads_s(layout, job, progress.summaries[job.hash])
    return history


def estimate(matrix: Matrix, jobs: Sequence[Job], progress: Progress, history: History) -> Estimate:
    """What `jobs` of the matrix would take, of which some may have nothing left to do."""
    configuration = matrix.configuration
    durations, gpu_s, prices = [], 0.0, list[float | None]()
    cells = 0
    for job in jobs:
        left = set(progress.missing.get(job.hash, ()))
        if not left:
            continue
        cells += len(left)
        duration = history.overhead_s(job.server.engine, configuration)
        duration += sum(history.phase_s(job, cell.phase) for cell in job.cells if cell.phase.id in left)
        durations.append(duration)
        gpu = configuration.gpus[job.server.gpu]
        if gpu.device == "cuda":
            gpu_s += duration * job.server.gpu_count
            hours = duration * job.server.gpu_count / 3600
            prices.append(None if gpu.price_per_hour is None else gpu.price_per_hour * hours)
    known = [price for price in prices if price is not None]
    return Estimate(
        jobs=len(durations),
        cells=cells,
        gpu_hours=gpu_s / 3600,
        longest_job_s=max(durations, default=0.0),
        one_after_another_s=sum(durations),
        cost=sum(known) if prices and len(known) == len(prices) else None,
        from_history=bool(history.phases),
    )


def render_plan(matrix: Matrix, layout: Layout) -> str:
    """The plan as text for the terminal: a table a study, then what is left over all of them.

    Coloured and as wide as the terminal where the standard output is one, plain otherwise.
    """
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else _PLAIN_WIDTH
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False)
    progress = progress_of(matrix, layout)
    history = history_of(matrix.jobs, progress, layout)
    for study in matrix.studies:
        _print_study(console, matrix, study, progress, history)
        _print_twins(console, twins_of(study, matrix.configuration), layout)
        _print_asked(console, study_jobs(study, matrix.configuration), layout)
    console.print(_LEGEND, style="dim")
    if len(matrix.studies) > 1:
        total = estimate(matrix, matrix.jobs, progress, history)
        console.print(f"\n[bold]All studies[/bold], what they share counted once: {_sentence(total)}")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _print_study(console: Console, matrix: Matrix, study: StudyMatrix, progress: Progress, history: History) -> None:
    jobs = matrix.jobs_by_study[study.name]
    own = {entry.cell.id for entry in study.cells}
    status = {
        (cell.id, str(job.replicate)): _status(progress, job, cell.phase.id)
        for job in jobs
        for cell in job.cells
        if cell.id in own
    }
    counts = Counter(status.values())
    console.print(f"\n[bold]{study.study.title or study.name}[/bold]  {study.study.question}")
    servers = len({(entry.cell.server.id, entry.treatment.copy) for entry in study.cells})
    total = len(study.cells) * len(study.replicates)
    each, others = divmod(len(study.cells), servers)
    # Not every treatment has every load point.
    asked = f"{servers} servers with {len(study.cells)} cells" if others else f"{servers} servers × {each} load points"
    console.print(
        f"{asked} × {len(study.replicates)} replicates = {total} cells: "
        f"{counts['measured']} measured, {counts['failed']} failed, {counts['infeasible']} infeasible, "
        + (f"{counts['skipped']} skipped, " if counts["skipped"] else "")
        + f"{counts[None]} to be measured"
    )
    console.print(_table(study, status))
    if study.study.load.minimum_duration is not None or study.study.load.requests:
        console.print(_requests(study))
    console.print(_sentence(estimate(matrix, jobs, progress, history)) + "\n")


def _print_twins(console: Console, twins: Sequence[Twin], layout: Layout) -> None:
    if twins:
        outcomes = Counter(outcome_of(twin, layout) for twin in twins)
        told = [f"{count} {outcome}" for outcome, count in outcomes.items() if outcome is not None]
        tools = ", ".join(sorted({twin.tool for twin in twins}))
        console.print(f"{len(twins)} twins under {tools}: {', '.join([*told, f'{outcomes[None]} to be run'])}")
        for twin in twins:
            if outcome_of(twin, layout) is None:
                console.print(f"  {twin.record(Layout())}", style="dim", soft_wrap=True)


def _print_asked(console: Console, jobs: Sequence[AccuracyJob], layout: Layout) -> None:
    if jobs:
        runs = [read_run(run_folder(job, layout)) for job in jobs]
        outcomes = Counter(run.status for run in runs if run is not None)
        told = [f"{count} {status}" for status, count in outcomes.items()]
        asked = f"{len(jobs)} servers are asked {jobs[0].task.id}"
        console.print(f"{asked}: {', '.join([*told, f'{runs.count(None)} to be asked'])}\n")


def _status(progress: Progress, job: Job, phase: str) -> str | None:
    if phase in progress.missing.get(job.hash, ()):
        return None
    return progress.summaries[job.hash][phase].status


def _table(study: StudyMatrix, status: Mapping[tuple[str, str], str | None]) -> Table:
    points = study.study.load.points()
    table = Table(pad_edge=False)
    several = {
        "engine": len(study.study.engines) > 1,
        "model": len(study.study.models) > 1,
        "gpu": len(study.study.gpus) > 1,
    }
    for name in (key for key, wanted in several.items() if wanted):
        table.add_column("GPU" if name == "gpu" else name)
    table.add_column("treatment", overflow="fold")
    for point in points:
        table.add_column(str(point), justify="center")
    table.add_column("server", overflow="fold", style="dim")
    rows: dict[tuple[str, str], tuple[list[str], dict[LoadPoint, Text]]] = {}
    for entry in study.cells:
        server = entry.cell.server
        gpu = server.gpu if server.gpu_count == 1 else f"{server.gpu_count}×{server.gpu}"
        names = {"engine": server.engine, "model": server.model, "gpu": gpu}
        _, signs_at = rows.setdefault(
            (server.id, entry.treatment.name),
            ([*(names[key] for key, wanted in several.items() if wanted), entry.treatment.name], {}),
        )
        signs = Text()
        for replicate in study.replicates:
            found = status[entry.cell.id, str(entry.key(replicate))]
            signs.append(_SIGNS[found], _STYLES[found])
        signs_at[entry.load] = signs
    for (server_id, _), (named, signs_at) in rows.items():
        table.add_row(*named, *(signs_at.get(point, "") for point in points), server_id)
    return table


def _requests(study: StudyMatrix) -> str:
    """How many requests each load point sends, where a rate may need more of them than the others."""
    sent: dict[LoadPoint, set[int]] = defaultdict(set)
    for entry in study.cells:
        sent[entry.load].add(request_count(entry.cell.phase))
    told = (
        f"{' or '.join(map(str, sorted(sent[point])))} at {point}"
        for point in sorted(sent, key=lambda point: point.sort_key)
    )
    return f"Requests a cell: {', '.join(told)}"


def _sentence(left: Estimate) -> str:
    if not left.jobs:
        return "Nothing is left to measure."
    time = (
        f"about {format_seconds(left.one_after_another_s)} one after another, "
        f"{format_seconds(left.longest_job_s)} for the longest"
    )
    gpus = f", {format_number(left.gpu_hours)} GPU-hours" if left.gpu_hours else ""
    unpriced = ", no cost: a `price_per_hour` is missing in config/gpus.yaml" if left.gpu_hours else ""
    cost = f", {format_number(left.cost)} at the prices of config/gpus.yaml" if left.cost is not None else unpriced
    basis = "from what was measured so far" if left.from_history else "a guess: nothing was measured yet"
    return f"To do: {left.jobs} jobs, {left.cells} cells; {time}{gpus}{cost} ({basis})."
