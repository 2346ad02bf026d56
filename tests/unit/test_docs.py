"""The documents name what exists: links, files, studies, targets and options of every command they show."""

import re
import shlex
from pathlib import Path

import pytest

from tests.unit.repository import SOURCE as REPOSITORY

DOCUMENTS = sorted(
    [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *(REPOSITORY / name / "README.md" for name in ("config", "results", "reports"))]
)  # fmt: skip
OWN_STUDIES = re.compile(r"[A-Z]+|my-[a-z]+|all")
"""Placeholders, studies that a document has its reader write, and the word for all studies."""
OWN_CONFIGURATION = {"cluster.yaml"}
FOLDERS = "scripts|rules|config|docs|envs|profiles|tests|benchmarks"
TARGETS = [
    re.compile(r"\.envs/[\w.-]+/ready\.json"),
    re.compile(r"reports/[\w.-]+\.html"),
    re.compile(r"results/flags/[\w.-]+\.json"),
    re.compile(r"results/reproductions/(?:CELL|<cell>)/(?:[12]|<n>)/verdict\.html"),
]
KEYS = {"study", "retry_failed", "profiles", "nsys", "nsys_libraries", "ncu"}


def code_lines(text: str) -> list[str]:
    """The lines of code blocks and the pieces of code in the text, outside comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [re.sub(r"\s#.*$", "", line).strip() for line in [*lines, *re.findall(r"`([^`\n]+)`", rest)]]


def test_percent_is_written_as_on_the_pages() -> None:
    for path in [*DOCUMENTS, *REPOSITORY.glob("config/**/*.yaml")]:
        text = re.sub(r"^```.*?^```|`[^`\n]+`|https?:\S+", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        assert not re.findall(r".{0,30}\d%(?!\w).{0,10}", text), path.name


def commands(program: str) -> list[tuple[str, str]]:
    """(document, command) of every line of code that starts with `program`."""
    return [
        (path.relative_to(REPOSITORY).as_posix(), line)
        for path in DOCUMENTS
        for line in code_lines(path.read_text())
        if line == program or line.startswith(f"{program} ")
    ]


def rules() -> set[str]:
    text = "\n".join(path.read_text() for path in [REPOSITORY / "Snakefile", *REPOSITORY.glob("rules/*.smk")])
    return set(re.findall(r"^rule (\w+):", text, flags=re.MULTILINE))


def problems_of(command: str) -> list[str]:
    """What a `snakemake` command names that does not exist."""
    found, setting, words = [], False, iter(shlex.split(command.replace("<cell>", "CELL").replace("<n>", "1"))[1:])
    for word in words:
        if word.startswith("-"):
            setting = word == "--config"
            if word not in OPTIONS:
                found.append(f"option {word}")
            for _ in range(OPTIONS.get(word, 0)):
                value = next(words, "")
                if word == "--profile" and not (REPOSITORY / value / "config.yaml").is_file():
                    found.append(f"profile {value}")
                if word == "--configfile" and value not in OWN_CONFIGURATION:
                    found.append(f"file {value}")
        elif setting or re.fullmatch(r"\w+=\S*", word):
            key, _, value = word.partition("=")
            if key not in KEYS:
                found.append(f"setting {key}")
            if key == "study":
                found += [f"study {name}" for name in value.split(",") if not is_study(name)]
        elif word not in rules() and not any(target.fullmatch(word) for target in TARGETS):
            found.append(f"target {word}")
    return found


OPTIONS = {
    "-c1": 0, "-n": 0, "--dry-run": 0, "--cores": 1, "--profile": 1, "--config": 0, "--configfile": 1, "--report": 1, "--unlock": 0, "--lint": 0,
}  # fmt: skip
"""Options that documents use, and how many values follow each."""


def is_study(name: str) -> bool:
    file = f"{name.removesuffix('-smoke')}.yaml"
    return bool(OWN_STUDIES.fullmatch(name)) or (REPOSITORY / "config" / "studies" / file).is_file()


def test_the_readme_names_each_study_once_in_its_tables() -> None:
    """Whoever looks for a study looks there; two were added and stood nowhere in it."""
    rows = re.findall(r"^\| (`[^|]+) \|", (REPOSITORY / "README.md").read_text(), flags=re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert sorted(named) == sorted(path.stem for path in (REPOSITORY / "config" / "studies").glob("*.yaml"))


def test_there_are_documents_with_commands() -> None:
    assert len(DOCUMENTS) > 12
    assert len(commands("snakemake")) > 20
    assert any(document == "docs/tutorial.md" for document, _ in commands("snakemake"))


@pytest.mark.parametrize(("document", "command"), commands("snakemake"))
def test_snakemake_commands_name_what_exists(document: str, command: str) -> None:
    assert not problems_of(command), document


@pytest.mark.parametrize(
    "command",
    [
        "snakemake --cores all --config study=truth-tuor",
        "snakemake -c1 pln",
        "snakemake --profile slurmm",
        "snakemake --jobz 4",
        "snakemake -c1 --config retry=true",
    ],
)
def test_a_wrong_command_would_be_found(command: str) -> None:
    assert problems_of(command)


@pytest.mark.parametrize(("document", "command"), commands("make"))
def test_make_commands_name_targets(document: str, command: str) -> None:
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    named = [word for word in shlex.split(command)[1:] if "=" not in word]
    assert set(named) <= set(targets), document


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name) if name else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_files_in_the_text_exist(path: Path) -> None:
    """Names with a capital word, a wildcard or <…> are placeholders; `my-…` and vllm-0.26 are what a reader makes."""
    for code in code_lines(path.read_text()):
        for name in re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[\w./<>*-]*[\w>*]", code):
            if re.search(r"[<>*]|[A-Z]{3,}(?!\w*\.md)|my-|vllm-0\.26|profiles/default|config/studies/week", name):
                continue
            assert (REPOSITORY / name).exists(), name
