"""The engines' files that a study names, as they were in the version that was measured."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from leverlab.report.source import StudyData
from leverlab.report.view import Link

_REPOSITORIES: Final = {
    "vllm": "https://github.com/vllm-project/vllm",
    "sglang": "https://github.com/sgl-project/sglang",
    "lmcache": "https://github.com/LMCache/LMCache",
    "transformers": "https://github.com/huggingface/transformers",
}

_READ_IN: Final = {"vllm": "v0.26.0", "sglang": "v0.5.17", "lmcache": "v0.5.6", "transformers": "main"}
"""Where the studies' paths were looked up: linked where no cell, or more than one version, tells another."""

_RELEASE: Final = re.compile(r"(?P<release>\d+(\.\d+)+(\.?post\d+)?)(\+.*)?")
"""A version that has a tag in the repository; what stands behind a plus is the build's."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A file to read, and why."""

    link: Link
    why: str


def readings(data: StudyData) -> list[Reading]:
    """The files of the engines that explain what is seen, at their places in the version that the study's cells were measured with."""
    return [
        Reading(
            Link(f"{_REPOSITORIES[source.package]}/blob/{_tag(source.package, data)}/{source.path}", source.path),
            source.why,
        )
        for source in data.study.reads
    ]


def _tag(package: str, data: StudyData) -> str:
    versions = set(_versions(package, data))
    released = _RELEASE.fullmatch(versions.pop()) if len(versions) == 1 else None
    return f"v{released['release']}" if released else _READ_IN[package]


def _versions(package: str, data: StudyData) -> Iterator[str]:
    """The versions of a package with which cells were measured, as their identities have them."""
    measured = data.cells[data.cells["status"] == "measured"]
    for text in measured["specification"].dropna().unique():
        version = json.loads(text).get("server", {}).get("engine", {}).get("versions", {}).get(package)
        if version is not None:
            yield str(version)
