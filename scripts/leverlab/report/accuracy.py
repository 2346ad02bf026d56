"""The page's section on accuracy: scores with their errors, changes on the same questions, what they cost, answers side by side."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from leverlab.accuracy.samples import read_answers
from leverlab.report.blocks import legend
from leverlab.report.figures.accuracy import Point, trade
from leverlab.report.figures.axes import Series
from leverlab.report.looks import SERIES_LIMIT
from leverlab.report.phrases import context_phrase
from leverlab.report.side_by_side import side_by_side
from leverlab.report.source import StudyData
from leverlab.report.view import Cell, Column, FigureBlock, Group, Row, Table, status_mark, verdict_mark
from leverlab.units import format_number, format_share

MEANINGLESS: Final = "These weights are random: the answers mean nothing, so the scores say nothing about accuracy, and no verdict is given."
_NOT_ASKED: Final = (
    "Nothing was asked: the models of this study have dummy weights, whose answers mean nothing. `random_weights: true` below "
    "`accuracy` asks them all the same, to see that the pipeline works."
)


@dataclass(frozen=True, slots=True)
class AccuracySection:
    """What the template prints; `remark` is what a reader must know before any number of it; `note` is empty where nothing was asked."""

    remark: str
    note: str
    scores: Table | None
    trade: FigureBlock
    answers: Table | None


def accuracy_section(data: StudyData) -> AccuracySection | None:
    """None where the study asks nothing about accuracy."""
    if data.study.accuracy is None:
        return None
    rows = data.accuracy
    return AccuracySection(
        _NOT_ASKED if not rows else MEANINGLESS if any(row["weights"] == "random" for row in rows) else "",
        _note(data) if rows else "",
        _scores(data) if rows else None,
        _trade(data),
        side_by_side(data, [_entry(data, row) for row in rows if row["leading"] and row["status"] == "measured"]),
    )


def _note(data: StudyData) -> str:
    asked = data.study.accuracy
    assert asked is not None
    questions = f"the first {asked.limit} questions" if asked.limit else "all questions"
    shots = (
        "as many worked examples as the task says" if asked.few_shot is None else f"{asked.few_shot} worked examples"
    )
    local = "from local files" if asked.data else "from the hub"
    return (
        f"Each server was started once more, in a job of its own, and asked {questions} of {asked.task} by lm_eval, greedily, with {shots} "
        f"before each, the same for all; data {local}. No measured cell was running."
    )


def _scores(data: StudyData) -> Table:
    groups = []
    for context in data.contexts:
        own = [row for row in data.accuracy if _context(row) == context]
        if own:
            title = context_phrase(*context) if len(data.contexts) > 1 else ""
            groups.append(Group(tuple(_score_row(data, row) for row in own), title))
    columns = (
        Column("Treatment"),
        Column("Score", "prose"),
        Column("Value ± standard error", "number"),
        Column("Questions", "number"),
        Column("Change from the baseline", "number"),
        Column("Gained, lost", "number"),
        Column("p", "number"),
        Column("Verdict"),
        Column("Same answers", "number"),
    )
    note = (
        "The standard error is lm_eval's, over the questions. The change is question by question, on those that both servers were asked in the same "
        "words, with its 95 % interval (Newcombe 1998, method 10) and the p value of McNemar's exact test (1947) where a mark is right or wrong, of "
        "Student's paired t where it is not; for a verdict, on the task's first score alone, p is corrected for the number of treatments (Holm). Same "
        "answers are equal to the baseline's to the last character."
    )
    return Table("accuracy-scores", "What the answers are worth", columns, tuple(groups), note)


def _score_row(data: StudyData, row: Mapping[str, Any]) -> Row:
    label = data.label(row["treatment"])
    if row["status"] != "measured":
        why = Cell(mark=status_mark(row["status"]), note=row["reason"] or "")
        return Row((Cell(label), Cell(), Cell(), Cell(), Cell(), Cell(), Cell(), why, Cell()))
    changed = row["pairs"] is not None
    return Row(
        (
            Cell(
                label,
                note="" if row["as_asked"] else "ran with other settings than were asked for: compared with nothing",
            ),
            Cell(_score_name(row)),
            Cell(value_text(row)),
            Cell(str(row["questions"])),
            Cell(_difference(row) if changed else "–", note=_interval(row) if changed else ""),
            Cell(f"{row['gained']}, {row['lost']}" if changed else "–"),
            Cell(_p(row["p_value"] if row["adjusted_p"] is None else row["adjusted_p"]) if changed else "–"),
            _verdict_cell(data, row),
            Cell(_same(row)),
        ),
        primary=bool(row["leading"]),
        tone="" if row["as_asked"] else "out",
    )


def _verdict_cell(data: StudyData, row: Mapping[str, Any]) -> Cell:
    if row["verdict"]:
        return Cell(mark=verdict_mark(row["verdict"], data.simulated))
    return Cell("none: random weights" if row["weights"] == "random" and row["pairs"] is not None else "–")


def _score_name(row: Mapping[str, Any]) -> str:
    return row["metric"] if row["filter"] == "none" else f"{row['metric']}, {row['filter']}"


def value_text(row: Mapping[str, Any]) -> str:
    """A score with its standard error: `72.0 % ± 3.2` for a share, plain numbers otherwise."""
    value, error = row["value"], row["standard_error"]
    if not _is_share(row):
        return format_number(value) + (f" ± {format_number(error)}" if error is not None else "")
    return format_share(value, 1) + (f" ± {100 * error:.1f}" if error is not None else "")


def _is_share(row: Mapping[str, Any]) -> bool:
    """Whether the score is a share of questions: what lies in [0, 1] is."""
    return bool(0 <= row["value"] <= 1)


def _points(row: Mapping[str, Any], value: float) -> str:
    return f"{100 * value:+.1f}" if _is_share(row) else f"{value:+.3g}"


def _difference(row: Mapping[str, Any]) -> str:
    return f"{_points(row, row['difference'])}{' points' if _is_share(row) else ''}".replace("-", "−")


def _interval(row: Mapping[str, Any]) -> str:
    if row["difference_low"] is None:
        return ""
    return f"{_points(row, row['difference_low'])} to {_points(row, row['difference_high'])}".replace("-", "−")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _same(row: Mapping[str, Any]) -> str:
    return f"{row['same_answers']} of {row['answers']}" if row["answers"] else "–"


def _context(row: Mapping[str, Any]) -> tuple[str, str, str, int]:
    return (row["engine"], row["model"], row["gpu"], row["gpu_count"])


def _entry(data: StudyData, row: Mapping[str, Any]) -> dict[str, Any]:
    folder = data.layout.accuracy_run(row["server"], row["replicate"], row["run"])
    where = f" ({context_phrase(*_context(row))})" if len(data.contexts) > 1 else ""
    return {
        "label": data.label(row["treatment"]) + where,
        "context": _context(row),
        "baseline": row["treatment"] == next(iter(data.treatments)),
        "answers": read_answers(folder),
        "same": (row["same_prompts"], row["prompts"]),
    }


def _trade(data: StudyData) -> FigureBlock:
    panels: list[Markup] = []
    drawn: dict[str, Series] = {}
    for number, context in enumerate(data.contexts):
        points = _trade_points(data, context)
        if len(points) > 1:
            where = f" ({context_phrase(*context)})" if len(data.contexts) > 1 else ""
            panels += trade(points, f"accuracy-{number}", where)
            drawn |= {point.label: Series(point.label, point.label, point.number) for point in points}
    random = any(row["weights"] == "random" for row in data.accuracy)
    return FigureBlock(
        tuple(panels),
        "what a treatment costs in answers for what it gives in speed and in memory. A hollow mark is dominated: another treatment is at least as "
        "good in accuracy, throughput and memory of the weights, and better in one. Bars are one standard error of the score; throughput is the median "
        "of the replicates at the highest load.",
        (
            f"anything about accuracy. {MEANINGLESS}"
            if random
            else "whether neighbours differ at all: the table's intervals do."
        )
        + " Where the engine does not tell the memory of its weights, that is left out.",
        "There are fewer than two treatments with both a score and a throughput, so there is no trade to draw.",
        legend(list(drawn.values())),
        "panels" if len(panels) > 1 else "single",
    )


def _trade_points(data: StudyData, context: tuple[str, str, str, int]) -> list[Point]:
    """A point a treatment that has a score and a throughput, at most as many as there are looks; the baseline is the first."""
    cells = data.of_context(context)
    order = [str(point) for point in data.study.load.points()]
    cells = cells[cells["load"] == order[-1]]
    found = []
    names = [name for name, treatment in data.treatments.items() if not treatment.copy]
    scores = {row["treatment"]: row for row in data.accuracy if row["leading"] and _context(row) == context}
    for number, name in enumerate(names[:SERIES_LIMIT]):
        own, row = cells[cells["treatment"] == name], scores.get(name)
        throughput = own["throughput"].median() if len(own) else float("nan")
        if row is None or row["value"] is None or not row["as_asked"] or throughput != throughput:
            continue
        weights = own["weights_bytes"].median()
        found.append(
            Point(
                data.label(name),
                number,
                float(row["value"]),
                row["standard_error"],
                float(throughput),
                None if weights != weights else float(weights),
                row["higher_is_better"],
            )
        )
    return found


def lever_sentences(data: StudyData, lever: str) -> Iterator[str]:
    """What each treatment that changes `lever` alone does to accuracy; for all that change it, in a design without such."""
    changing = [
        row for row in data.accuracy if row["leading"] and lever in dict(data.treatments[row["treatment"]].changed)
    ]
    alone = [row for row in changing if len(data.treatments[row["treatment"]].changed) == 1]
    for row in alone or changing:
        yield _sentence(data, row)
    if data.study.accuracy is not None and not data.accuracy:
        yield f"Not answered. {_NOT_ASKED}"


def _sentence(data: StudyData, row: Mapping[str, Any]) -> str:
    what = _told(data, row)
    if row["weights"] == "random":
        return f"Not answered for {what}: the weights are random, so that its score says nothing about accuracy."
    if row["pairs"] is None:
        reason = "ran with other settings than were asked for" if row["as_asked"] is False else row["status"]
        return f"Not answered for {what}: {_unpaired(data, row, reason)}."
    base = _baseline_row(data, row)
    prefix = "Simulated: " if data.simulated else ""
    against = f" against {value_text(base)}" if base else ""
    found = {"improves": "accuracy improves", "worsens": "accuracy worsens"}.get(
        row["verdict"] or "", "no difference was found"
    )
    interval = f", 95 % interval {_interval(row)}" if row["difference_low"] is not None else ""
    return (
        f"{prefix}{what}: {row['task']} ({_score_name(row)}) is {value_text(row)}{against} on the same {row['pairs']} questions, "
        f"{_difference(row)}{interval}; {found} ({row['method']}, p {_p(row['adjusted_p'])}, corrected). "
        f"{row['same_answers']} of {row['answers']} answers are the same to the last character."
    )


def _told(data: StudyData, row: Mapping[str, Any]) -> str:
    where = f" ({context_phrase(*_context(row))})" if len(data.contexts) > 1 else ""
    return data.label(row["treatment"]) + where


def _unpaired(data: StudyData, row: Mapping[str, Any], reason: str) -> str:
    if row["status"] != "measured" or row["as_asked"] is False:
        return f"its server was {reason}" if row["as_asked"] is not False else f"its server {reason}"
    base = _baseline_row(data, row)
    if base is not None and base["server"] == row["server"]:
        return "it is the baseline's own server, which answers the same"
    return "the baseline was not asked, or not with what was asked for"


def _baseline_row(data: StudyData, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    name = next(iter(data.treatments))
    same = (each for each in data.accuracy if each["treatment"] == name and _context(each) == _context(row))
    return next((each for each in same if each["leading"] and each["value"] is not None), None)
