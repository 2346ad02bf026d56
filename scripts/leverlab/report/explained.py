"""What another study's twins say of this one's levers: for a page whose own twins have not run, or that asks for none."""

from collections.abc import Iterator
from dataclasses import replace

from leverlab.report.phrases import context_phrase, joined, load_phrase
from leverlab.report.source import StudyData
from leverlab.report.view import Link
from leverlab.report.why import Why, first_profile_question, heading, part_of, places, recorded_sentences


def explained(data: StudyData) -> list[Why]:
    """A part for each study that explains `data`, and each load point and context of its twins: without timelines, which its own page
    has, and without the twins that are missing; and one for each study of which a table cannot be read, which says so."""
    told = first_profile_question(data) is not None and not any(True for _ in recorded_sentences(data))
    unreadable = [
        Why(f"From the study “{name}”", f"Nothing: {error}.", None, (), (), (), (), ())
        for name, error in data.unreadable.items()
    ]
    return unreadable + [
        replace(
            part_of(other, twins, f"{other.name}-{number}", told=told, timelines=False),
            title=f"From the study “{other.title}”: {heading(other, twins[0].load, twins[0].context)}",
            about=_about(other),
            page=Link(f"{page}#why", other.title) if (page := data.page_of(other)) else None,
            missing=(),
        )
        for other in data.explaining
        for number, twins in enumerate(places(other))
    ]


def explained_sentences(data: StudyData) -> Iterator[str]:
    """What the twins of the studies that explain `data` say in words, each study's load behind its own."""
    for other in data.explaining:
        yield from (f"From the profiles of “{other.title}”: {sentence}" for sentence in recorded_sentences(other))
        yield _about(other)


def _about(other: StudyData) -> str:
    """What twins of another study are of."""
    asked = other.configuration.workload(other.study).model_dump(exclude_unset=True)
    kind = asked.pop("kind")
    told = ", ".join(f"{name} {value}" for name, value in asked.items())
    loads = joined(list(dict.fromkeys(load_phrase(twin.load) for twin in other.profiles)))
    return (
        f"These twins are another study's, of {joined([context_phrase(*context) for context in other.contexts])}, with a load of its own: "
        f"{kind} prompts ({told}) {loads}. They tell which kernels a lever changes; their times are that load's."
    )
