"""accuracy.parquet: what each server's answers were worth, and against the baseline's on the same questions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from leverlab.accuracy.plan import AccuracyJob, read_run, run_folder, study_jobs, weights_of
from leverlab.accuracy.samples import PromptAnswer, Question, read_answers, read_questions
from leverlab.config import Configuration
from leverlab.layout import Layout
from leverlab.matrix.expand import StudyMatrix
from leverlab.matrix.settings import Place
from leverlab.matrix.treatments import Treatment
from leverlab.records import AccuracyRecord, Score
from leverlab.stats.multiple import holm
from leverlab.stats.same_questions import QuestionChange, accuracy_verdict, question_change


@dataclass(frozen=True)
class Asked:
    """A treatment at a place of the study, and the run of its server; `run` is None where there is none."""

    place: Place
    treatment: Treatment
    job: AccuracyJob
    weights: str
    folder: Path
    run: AccuracyRecord | None

    @property
    def status(self) -> str:
        """measured, failed, infeasible or missing."""
        return self.run.status if self.run else "missing"

    @property
    def sound(self) -> bool:
        """Whether the server ran with what was asked for."""
        return self.run is not None and all(found["expected"] for found in self.run.differences)

    @cached_property
    def questions(self) -> dict[str, Question]:
        """The answers to the task's questions; empty unless measured."""
        return read_questions(self.folder) if self.status == "measured" else {}

    @cached_property
    def answers(self) -> list[PromptAnswer]:
        """The answers to the study's prompts; empty unless measured."""
        return read_answers(self.folder) if self.status == "measured" else []


def asked_servers(matrix: StudyMatrix, configuration: Configuration, layout: Layout) -> list[Asked]:
    """Every treatment at every place of the study that is asked something, in the study's order, the baseline first."""
    jobs = {(job.server.id, job.replicate.copy): job for job in study_jobs(matrix, configuration)}
    found: dict[tuple[Place, str], Asked] = {}
    for entry in matrix.cells:
        job = jobs.get((entry.cell.server.id, entry.treatment.copy))
        key = (entry.place, entry.treatment.name)
        if job is not None and key not in found:
            folder = run_folder(job, layout)
            weights = weights_of(job.server, configuration)
            found[key] = Asked(entry.place, entry.treatment, job, weights, folder, read_run(folder))
    return list(found.values())


def accuracy_rows(matrix: StudyMatrix, configuration: Configuration, layout: Layout) -> list[dict[str, Any]]:
    """The rows of accuracy.parquet: one a treatment, place and score of its task; one without a score where there is none.

    Verdicts are of the task's first score, corrected after Holm over the treatments of the study, and only of answers that
    mean something: none of random weights.
    """
    asked = asked_servers(matrix, configuration, layout)
    baselines = {each.place: each for each in asked if each.treatment.is_baseline}
    rows = [row for each in asked for row in _rows_of(each, baselines.get(each.place))]
    family = [
        row
        for row in rows
        if row["leading"] and row["p_value"] is not None and row["weights"] != "random" and not row["copy"]
    ]
    for row, adjusted in zip(family, holm([row["p_value"] for row in family]), strict=True):
        verdict = accuracy_verdict(row["change"], adjusted, higher_is_better=row["higher_is_better"])
        row |= {"adjusted_p": adjusted, "verdict": verdict}
    return [{key: value for key, value in row.items() if key not in ("change", "copy")} for row in rows]


def _rows_of(asked: Asked, baseline: Asked | None) -> Iterator[dict[str, Any]]:
    job, run = asked.job, asked.run
    common: dict[str, Any] = {
        "engine": asked.place.engine,
        "model": asked.place.model,
        "gpu": asked.place.gpu,
        "gpu_count": asked.place.gpu_count,
        "treatment": asked.treatment.name,
        "server": job.server.id,
        "replicate": str(job.replicate),
        "task": str(job.task.identity["task"]),
        "run": job.task.id,
        "status": asked.status,
        "reason": run.reason.message if run and run.reason else None,
        "weights": asked.weights,
        "as_asked": asked.sound if run else None,
        "copy": asked.treatment.copy,
        **_same_answers(asked, baseline),
    }
    scores: Sequence[Score | None] = (run.scores if run and run.scores else None) or [None]
    for number, score in enumerate(scores):
        yield {**common, "leading": number == 0, **_score(score), **_change(score, asked, baseline)}


def _score(score: Score | None) -> dict[str, Any]:
    if score is None:
        return dict.fromkeys(("metric", "filter", "value", "standard_error", "questions", "higher_is_better"))
    return {
        "metric": score.metric,
        "filter": score.filter,
        "value": score.value,
        "standard_error": score.standard_error,
        "questions": score.questions,
        "higher_is_better": score.higher_is_better,
    }


def _compared(asked: Asked, baseline: Asked) -> bool:
    """Whether the two are different starts, both of what was asked for: a lever may leave the server as it is."""
    measured = asked.status == baseline.status == "measured"
    return measured and asked.job.hash != baseline.job.hash and asked.sound and baseline.sound


def _change(score: Score | None, asked: Asked, baseline: Asked | None) -> dict[str, Any]:
    change: QuestionChange | None = None
    if score is not None and baseline is not None and _compared(asked, baseline):
        key = (score.metric, score.filter)
        shared = [each for each in baseline.questions if each in asked.questions]
        marks = [(baseline.questions[each].marks.get(key), asked.questions[each].marks.get(key)) for each in shared]
        both = [(before, after) for before, after in marks if before is not None and after is not None]
        change = question_change([before for before, _ in both], [after for _, after in both])
    names = ("pairs", "gained", "lost", "difference", "low", "high", "p_value", "method")
    columns = ("pairs", "gained", "lost", "difference", "difference_low", "difference_high", "p_value", "method")
    values = [getattr(change, name) if change else None for name in names]
    return {**dict(zip(columns, values, strict=True)), "change": change, "adjusted_p": None, "verdict": None}


def _same_answers(asked: Asked, baseline: Asked | None) -> dict[str, Any]:
    """How many answers are the baseline's, to the last character: of the task, and of the study's prompts."""
    same: dict[str, Any] = dict.fromkeys(("same_answers", "answers", "same_prompts", "prompts"))
    if baseline is None or not _compared(asked, baseline):
        return same
    shared = [each for each in baseline.questions if each in asked.questions]
    theirs = {each.prompt: each.text for each in baseline.answers}
    own = {each.prompt: each.text for each in asked.answers if each.prompt in theirs}
    return {
        "answers": len(shared),
        "same_answers": sum(baseline.questions[each].answer == asked.questions[each].answer for each in shared),
        "prompts": len(own),
        "same_prompts": sum(theirs[prompt] == text for prompt, text in own.items()),
    }
