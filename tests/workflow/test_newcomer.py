"""docs/adding-a-lever.md, followed literally: a lever that was not there, added in YAML alone, is planned, measured and reported."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import yaml

from tests.workflow.conftest import REPOSITORY, Checkout, clean_environment, copy_repository

PAGE = "docs/adding-a-lever.md"
NAME = "my-lever"


@pytest.fixture(scope="module")
def page() -> str:
    return (REPOSITORY / PAGE).read_text()


@pytest.fixture(scope="module")
def lever(page: str) -> str:
    """The page's entry, as a reader copies it: text, not what a parser made of it."""
    found = re.search(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert found
    return found[1]


def commands(page: str) -> list[str]:
    """The lines of the block under the heading `See that it works`."""
    block = re.search(r"## See that it works\n\n```sh\n(.*?)```", page, flags=re.DOTALL)
    assert block
    return [re.sub(r"\s+#.*", "", line) for line in block[1].splitlines()]


@pytest.fixture(scope="module")
def followed(page: str, lever: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, dict[str, str]]:
    """A copy in which a newcomer did what the page says, and what each command printed."""
    copy = copy_repository(tmp_path_factory.mktemp("newcomer") / "leverlab")
    levers = copy.root / "config" / "levers.yaml"
    assert not set(yaml.safe_load(lever)) & set(yaml.safe_load(levers.read_text())), "it was there before"
    levers.write_text(f"{levers.read_text()}\n{lever}")
    (study,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL) if "question:" in block]
    copy.write_study(NAME, study)
    environment = clean_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    said = {}
    for command in commands(page):
        done = subprocess.run(
            shlex.split(command),
            cwd=copy.root,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said[command] = done.stdout
    return copy, said


def test_the_page_says_to_plan_to_check_and_to_measure(page: str) -> None:
    assert [line for line in commands(page) if " plan " in line and NAME in line]
    assert [line for line in commands(page) if "results/flags/" in line]
    assert f"snakemake --cores all --config study={NAME}" in commands(page)


def test_the_lever_is_planned(followed: tuple[Checkout, dict[str, str]]) -> None:
    (plan,) = [text for command, text in followed[1].items() if " plan " in command]
    assert "chunked_prefill=on" in plan
    assert "To do: 2 jobs, 2 cells" in plan


def test_the_lever_is_measured_on_servers_that_differ_in_it(followed: tuple[Checkout, dict[str, str]]) -> None:
    copy, _ = followed
    cells = pandas.read_parquet(copy.root / f"results/studies/{NAME}/cells.parquet").set_index("lever:chunked_prefill")
    assert list(cells["status"]) == ["measured", "measured"]
    flags = {level: json.loads(cells.loc[level, "specification"])["server"]["flags"] for level in ("on", "off")}
    assert {name for name in flags["on"] if flags["on"][name] != flags["off"].get(name)} == {"gap"}
    assert cells["tpot_s_p50"].notna().all()


def test_the_lever_is_reported_with_its_mechanism_and_what_is_expected(
    followed: tuple[Checkout, dict[str, str]], lever: str
) -> None:
    copy, _ = followed
    report = (copy.root / f"reports/{NAME}.html").read_text()
    (entry,) = yaml.safe_load(lever).values()
    for words in (entry["title"], entry["mechanism"], entry["expectation"]["because"].rstrip(".")):
        assert words in report
    assert "on instead of off" in report
    assert "`chunked_prefill`" in (copy.root / "config" / "README.md").read_text(), "the table of levers"


def test_nothing_but_yaml_was_touched(followed: tuple[Checkout, dict[str, str]]) -> None:
    copy, _ = followed
    for path in [*REPOSITORY.glob("scripts/**/*.py"), REPOSITORY / "Snakefile", *REPOSITORY.glob("rules/*.smk")]:
        assert (copy.root / path.relative_to(REPOSITORY)).read_bytes() == path.read_bytes()
