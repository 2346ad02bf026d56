"""The page's section on twins: what a lever changed in the kernels, per load point, with the profiler's own files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from markupsafe import Markup

from leverlab.config.course import ProfileAnswer, Question
from leverlab.records import Reason
from leverlab.report.class_rates import class_rates, rate_table, weights_ratio
from leverlab.report.counters import counter_sentences, counter_table
from leverlab.report.doubts import mark_phrase
from leverlab.report.figures.kernels import class_bars, colour_of, difference_bars, kernel_timeline
from leverlab.report.kernel_words import KERNEL_WORDS
from leverlab.report.layer_parts import layer_table
from leverlab.report.looks import VARIABLES
from leverlab.report.mechanism import anatomy, change_in_short, mechanism
from leverlab.report.peer_copies import peer_sentence, peer_table
from leverlab.report.phrases import context_phrase, load_heading
from leverlab.report.profiled import Profiled, Recorded
from leverlab.report.source import StudyData
from leverlab.report.transfers import transfer_sentence, transfer_table
from leverlab.report.twin_conditions import baseline_of, figure_marks, in_part, parts_mark
from leverlab.report.twin_facts import facts_table
from leverlab.report.view import FigureBlock, LegendEntry, Link, Table

_PROMPTS_SHARE: Final = 0.02
"""Share of the busy time from which steps that compute prompts get a figure."""


@dataclass(frozen=True, slots=True)
class Why:
    """A context and load point: sentences, figures, facts. `mechanisms` is empty where a question has them. `missing` names twins that are not there, and why."""

    title: str
    about: str
    """What the twins are of, where they are another study's; empty for the study's own."""
    page: Link | None
    """The page of that other study."""
    mechanisms: tuple[str, ...]
    anatomies: tuple[str, ...]
    figures: tuple[FigureBlock, ...]
    tables: tuple[Table, ...]
    missing: tuple[str, ...]
    partial: tuple[str, ...] = ()
    """Twins that recorded less than they were to, and why."""


def why(data: StudyData) -> list[Why]:
    """A part for each context and load point at which the study asks for twins; nothing where it asks for none."""
    told = first_profile_question(data) is not None
    return [part_of(data, twins, str(number), told=told) for number, twins in enumerate(places(data))]


def places(data: StudyData) -> list[list[Profiled]]:
    """The twins of each load point and context."""
    return [list(twins) for _, twins in groupby(data.profiles, key=lambda twin: (twin.load, twin.context))]


def mechanisms(data: StudyData) -> Iterator[str]:
    """A sentence for each treatment whose twin, and the baseline's beside it, recorded something."""
    several = _several(data)
    for (load, context), own in groupby(data.profiles, key=lambda twin: (twin.load, twin.context)):
        twins = list(own)
        where = f"{heading(data, load, context)}: " if several else ""
        for sentence in _mechanisms(data, twins):
            yield f"{where}{sentence}"


def changes_in_short(data: StudyData) -> list[str]:
    """A line for each treatment with a twin and the baseline's beside it: what it changes in the length of a step."""
    return [
        f"{heading(data, twin.load, twin.context)}: {told}" if _several(data) else told
        for baseline, twin in _pairs(data, data.profiles)
        if (told := change_in_short(baseline, twin, _short(data, twin)))
    ]


def recorded_sentences(data: StudyData) -> Iterator[str]:
    """What twins say in words: what a treatment changes, how transfers go, how near kernels come to the peaks.

    What a step of each is made of is told here only where nothing says what a treatment changes: the section on twins has it.
    """
    changes = list(mechanisms(data))
    yield from changes
    several = _several(data)
    for twin in data.profiles:
        where = f"{heading(data, twin.load, twin.context)}: " if several else ""
        own = [
            "" if changes else anatomy(twin, _marked(data, twin, twin.partial)),
            transfer_sentence(_marked(data, twin, twin.partial), twin),
            *counter_sentences(_marked(data, twin, twin.counters_partial), twin.counters),
        ]
        yield from (f"{where}{sentence}" for sentence in own if sentence)


def heading(data: StudyData, load: str, context: tuple[str, str, str, int]) -> str:
    """A load point for a title, and the context where the study has several."""
    return load_heading(load) + (f", {context_phrase(*context)}" if len(data.contexts) > 1 else "")


def first_profile_question(data: StudyData) -> Question | None:
    """The question under which stands what twins say; None where the study asks none, and the section on twins has it."""
    asking = (q for q in data.study.questions if any(isinstance(answer, ProfileAnswer) for answer in q.answers))
    return next(asking, None)


def _several(data: StudyData) -> bool:
    """Whether a sentence has to say at which load point and where."""
    return len({(twin.load, twin.context) for twin in data.profiles}) > 1


def _mechanisms(data: StudyData, twins: Sequence[Profiled]) -> tuple[str, ...]:
    said = [mechanism(baseline, twin, _short(data, twin)) for baseline, twin in _pairs(data, twins)]
    return tuple(sentence for sentence in said if sentence)


def _pairs(data: StudyData, twins: Sequence[Profiled]) -> Iterator[tuple[Profiled, Profiled]]:
    """(the baseline's twin, a treatment's) at the same place."""
    for twin in twins:
        baseline = _baseline(data, twins, twin)
        if baseline is not None and baseline is not twin:
            yield baseline, twin


def _baseline(data: StudyData, twins: Sequence[Profiled], beside: Profiled) -> Profiled | None:
    """The baseline's twin that stands beside another: of several engine servers the one of the same name."""
    first, place = next(iter(data.treatments)), (beside.load, beside.context, beside.server)
    return next(
        (twin for twin in twins if twin.treatment == first and (twin.load, twin.context, twin.server) == place), None
    )


def part_of(data: StudyData, twins: Sequence[Profiled], key: str, *, told: bool, timelines: bool = True) -> Why:
    """The part on `twins`, which are of one load point and context; `key` tells its figures and tables from others of the page.

    What the treatments change is left out where it is `told` elsewhere on the page.
    """
    there = [(twin, twin.recorded) for twin in twins if twin.recorded is not None]
    load, context = twins[0].load, twins[0].context
    said = [f"{anatomy(twin, _marked(data, twin, twin.partial))}{peer_sentence(found)}" for twin, found in there]
    return Why(
        title=heading(data, load, context),
        about="",
        page=None,
        mechanisms=() if told else _mechanisms(data, twins),
        anatomies=tuple(sentence for sentence in said if sentence),
        figures=tuple(_figures(data, there, f"w{key}", timelines=timelines)),
        tables=tuple(_tables(data, twins, there, key)),
        missing=tuple(_missing(data, twin) for twin in twins if twin.recorded is None and twin.counters is None),
        partial=tuple(_partial(data, twins)),
    )


def _partial(data: StudyData, twins: Sequence[Profiled]) -> Iterator[str]:
    for twin in twins:
        name, broken_off = _short(data, twin), "it was broken off, and what it had"
        if twin.partial:
            yield f"{name}: {broken_off} recorded by then is told: {twin.partial.message}"
        if twin.counters_partial:
            yield f"{name}, counters: {broken_off} counted by then is told: {twin.counters_partial.message}"


def _tables(
    data: StudyData, twins: Sequence[Profiled], there: Sequence[tuple[Profiled, Recorded]], key: str
) -> Iterator[Table]:
    labelled = [(_short(data, twin), found, weights_ratio(twin, data.configuration)) for twin, found in there]
    found = (
        facts_table(data, [(_short(data, twin), twin, found) for twin, found in there], f"why-{key}")
        if there
        else None,
        layer_table(labelled, f"layers-{key}"),
        rate_table([(_short(data, twin), class_rates(twin, data.configuration)) for twin, _ in there], f"rates-{key}"),
        transfer_table([(_short(data, twin), twin, found) for twin, found in there], f"transfers-{key}"),
        peer_table([(_short(data, twin), found) for twin, found in there], f"peers-{key}"),
        counter_table(
            [(_marked(data, twin, twin.counters_partial), twin.counters) for twin in twins], f"counters-{key}"
        ),
    )
    yield from (table for table in found if table is not None)


def _short(data: StudyData, twin: Profiled) -> str:
    treatment = "Baseline" if twin.treatment == next(iter(data.treatments)) else data.label(twin.treatment)
    return f"{treatment} ({twin.server})" if twin.server else treatment


def _marked(data: StudyData, twin: Profiled, partial: Reason | None) -> str:
    """The same with a mark where that of which something is told is a part."""
    return f"{_short(data, twin)}{mark_phrase(in_part(partial))}"


def _missing(data: StudyData, twin: Profiled) -> str:
    name = _short(data, twin)
    if twin.record is None:
        return f"{name}: its twin has not run, or was killed; the same command runs it."
    if twin.server:
        return f"{name}: recorded nothing: {twin.record.silent.get(twin.server, 'its tables are not on this machine, or cannot be read')}"
    reason = (
        twin.record.reason.message if twin.record.reason else "its tables are not on this machine, or cannot be read"
    )
    return f"{name}: its twin is {twin.record.outcome}: {reason}"


def _figures(
    data: StudyData, there: Sequence[tuple[Profiled, Recorded]], key: str, *, timelines: bool
) -> Iterator[FigureBlock]:
    if not there:
        return
    # A server that only prefills has no decode step: the figure of steps that compute prompts is its own.
    by_step = any(found.step is not None for _, found in there)
    first = baseline_of(data, [twin for twin, _ in there])
    labelled = [(_short(data, twin), twin) for twin, _ in there]
    (elsewhere, some), broken_off = figure_marks(first, labelled), parts_mark(labelled)
    in_short, marked = f"{some}{broken_off}", f"{elsewhere}{broken_off}"
    bars = [(_short(data, twin), found.parts_s()) for twin, found in there if by_step == (found.step is not None)]
    names = {name for _, parts in bars for name, seconds in parts.items() if seconds > 0}
    unit = "time of a decode step" if by_step else "time of the window"
    legend = tuple(LegendEntry(_sample(name), word) for name, word in KERNEL_WORDS.items() if name in names)
    yield FigureBlock(
        (class_bars(bars, f"{key}-bars", unit),),
        f"what the {unit} goes to. Each moment counts once: where kernels overlap it is that of computation, then of communication, then of copies.",
        f"what the same server does without a profiler, which slows the launches most; TPOT beside it in the table tells by how much.{in_short}",
        "", legend, "single bars",
    )  # fmt: skip
    prompts = [(_short(data, twin), parts) for twin, found in there if (parts := found.prompt_step_s())]
    if prompts and max(found.phase_share("prefill", "mixed") for _, found in there) >= _PROMPTS_SHARE:
        yield FigureBlock(
            (class_bars(prompts, f"{key}-prompts", "time of a step that computes prompts"),),
            "what prompts cost, in steps of their own or beside decoding: a stream that decodes waits for the whole of such a step.",
            f"how long the gaps between these steps are; what runs in them is counted.{in_short}",
            "", legend, "single bars",
        )  # fmt: skip
    changes: list[Markup] = []
    for number, (twin, found) in enumerate(there):
        baseline = _baseline(data, [each for each, _ in there], twin)
        if baseline is not None and baseline.recorded is not None and twin is not baseline:
            changes.append(
                difference_bars(
                    baseline.recorded.parts_s(), found.parts_s(), _short(data, twin), f"{key}-change{number}"
                )
            )
    if changes:
        yield FigureBlock(
            tuple(changes), "which part of a step makes up the difference to the baseline's.",
            f"how sure that is: each twin is one run.{marked}", "",
        )  # fmt: skip
    lines = [
        kernel_timeline(found.timeline, _short(data, twin), f"{key}-line{number}")
        for number, (twin, found) in enumerate(there if timelines else ())
    ]
    drawn = tuple(figure for figure in lines if figure is not None)
    if drawn:
        yield FigureBlock(
            drawn, "a step and a half from the middle of the window, kernel by kernel; white between them is time in which nothing runs.",
            "whether the other steps look the same.", "", legend, "single",
        )  # fmt: skip


def _sample(name: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 40 14" aria-hidden="true"><path d="M8 2h24v10h-24z" style="fill: {VARIABLES[colour_of(name)]}"/></svg>'
    )
