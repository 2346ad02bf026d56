"""The roofline figure of a study: a panel for each engine, model and GPU whose rates are stated."""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from leverlab.report.blocks import Part, legend
from leverlab.report.class_rates import ClassRate, class_rates
from leverlab.report.counters import counted_rates
from leverlab.report.figures.axes import Series
from leverlab.report.figures.roofline import KernelPoint, RooflinePoint, roofline
from leverlab.report.kernel_words import KERNEL_WORDS
from leverlab.report.phrases import context_phrase
from leverlab.report.source import StudyData
from leverlab.report.theory_values import Context, TheoryValues
from leverlab.report.view import FigureBlock

_ELSEWHERE: Final = (
    " Hollow: matrix products and attention of decode steps of the same model and GPU in another study's twins, its baseline at the loads named; "
    "no twin of this study tells its own."
)


def roofline_parts(data: StudyData, values: TheoryValues) -> list[Part]:
    """A figure for each context and set of treatments that is drawn together; none where no decode step's place is known."""
    parts = []
    for place, context in enumerate(data.contexts):
        points, kernels, counted = _points(values, context), _kernels(data, context), _counted(data, context)
        elsewhere = _elsewhere(data, context)
        gpu = data.configuration.gpus.get(context[2])
        if gpu is None or gpu.bandwidth is None:
            continue
        where = f": {context_phrase(*context)}" if len(data.contexts) > 1 else ""
        for number, (about, names) in enumerate(data.series_sets({point.treatment for point in points})):
            series = [Series(name, data.label(name), position) for position, name in enumerate(names)]
            own = [point for point in points if point.treatment in names]
            hollow = [point for point in kernels if point.treatment in names]
            counts = [point for point in counted if point.treatment in names]
            others = [] if hollow or counts else elsewhere
            drawn = roofline(
                gpu.bandwidth, gpu.peak, own, [*hollow, *counts, *others], series, f"roofline{place}-{number}"
            )
            if drawn is None:
                continue
            block = FigureBlock(
                (drawn,),
                "how far decoding is from what the GPU allows, and which limit it would reach first: left of the ridge it waits for memory, and a larger batch "
                "moves it to the right almost for nothing. The line is the roof; a point is a treatment at a load point, c16 being 16 concurrent streams."
                + (
                    " Hollow: its matrix products and its attention, by the time that they have in the twin's decode step."
                    if hollow
                    else ""
                )
                + (
                    " Hollow: kernels, by the time, the operations and the bytes that Nsight Compute counted."
                    if counts
                    else ""
                )
                + (_ELSEWHERE if others else ""),
                "what a single kernel does: intensity and operations are those of a whole step by theory, at the batch and context that were measured; only the "
                "time is measured, and with prefills in between it holds theirs too.",
                "",
                legend(series),
                "single",
            )
            parts.append(Part(f"Roofline{where}{about}", block))
    return parts


def _points(values: TheoryValues, context: Context) -> list[RooflinePoint]:
    """The decode steps of every treatment and load point of `context`, of one GPU of those that share the model."""
    intensities = {
        (value.treatment, value.load): value.expected
        for value in values.values
        if value.context == context and value.quantity.name == "decode_intensity_flop_per_byte"
    }
    shares = {str(cell.row["treatment"]): cell.server.tensor_parallel for cell in values.cells.cells}
    return [
        RooflinePoint(value.treatment, value.load, intensities[place], value.measured / shares[value.treatment])
        for value in values.values
        if value.context == context and value.quantity.name == "decode_roof_flop_per_s" and value.measured is not None
        if (place := (value.treatment, value.load)) in intensities
    ]


def _kernels(data: StudyData, context: Context, treatments: Collection[str] | None = None) -> list[KernelPoint]:
    """The classes of kernels of the twins' decode steps in `context`, of one GPU; of all treatments or of `treatments`."""
    return [
        KernelPoint(twin.treatment, twin.load, KERNEL_WORDS[rate.name], rate.work.intensity, rate.flop_per_s)
        for twin in data.profiles
        if twin.context == context and (treatments is None or twin.treatment in treatments)
        for rate in class_rates(twin, data.configuration)
        if isinstance(rate, ClassRate)
    ]


def _elsewhere(data: StudyData, context: Context) -> list[KernelPoint]:
    """The same of the baselines of the studies that explain this one."""
    return [
        replace(point, elsewhere=True)
        for other in data.explaining
        for point in _kernels(other, context, {next(iter(other.treatments))})
    ]


def _counted(data: StudyData, context: Context) -> list[KernelPoint]:
    """The kernels that Nsight Compute looked at in `context`, where it counted their operations and bytes."""
    return [
        KernelPoint(twin.treatment, twin.load, KERNEL_WORDS[name], intensity, flop_per_s)
        for twin in data.profiles
        if twin.context == context
        for name, intensity, flop_per_s in counted_rates(twin.counters)
    ]
