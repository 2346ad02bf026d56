"""What a run left of each question and prompt, read for comparisons between two servers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leverlab.accuracy.harness import SAMPLES_FILE

ANSWERS_FILE: Final = "answers.json"
"""The answers to the study's own prompts."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question's answer. `marks` maps (metric, filter) to what it was worth."""

    answer: str
    marks: Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """The answer to a prompt at temperature 0."""

    prompt: str
    text: str
    finish_reason: str | None


def read_questions(folder: Path) -> dict[str, Question]:
    """The questions of a run by what identifies them: the document, the whole prompt (examples included) and the target.

    Two servers are compared on questions that are the same in all three.
    """
    answers: dict[str, str] = {}
    marks: dict[str, dict[tuple[str, str], float]] = {}
    with (folder / SAMPLES_FILE).open(encoding="utf-8") as file:
        for line in file:
            sample: dict[str, Any] = json.loads(line)
            key = ":".join(str(sample[part]) for part in ("doc_id", "doc_hash", "prompt_hash", "target_hash"))
            answers[key] = _text(sample["resps"])
            own = marks.setdefault(key, {})
            for metric in sample["metrics"]:
                if isinstance(sample.get(metric), int | float):
                    own[metric, sample["filter"]] = float(sample[metric])
    return {key: Question(text, marks[key]) for key, text in answers.items()}


def _text(value: Any) -> str:  # noqa: ANN401 - lists of lists of one text
    while isinstance(value, list):
        value = value[0] if value else ""
    return str(value)


def read_answers(folder: Path) -> list[PromptAnswer]:
    """The answers to the study's own prompts, in its order; empty where none were asked."""
    path = folder / ANSWERS_FILE
    if not path.is_file():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))["answers"]
    return [PromptAnswer(each["prompt"], each["text"], each["finish_reason"]) for each in found]
