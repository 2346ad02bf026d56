"""A folder with the repository's configuration and one small study, for tests that change it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leverlab.config import Configuration, load
from leverlab.layout import Layout
from leverlab.matrix.expand import Job, Matrix, StudyMatrix, expand
from leverlab.records import write_json

SOURCE = Path(__file__).resolve().parents[2]

STUDY = """\
question: What do prefix caching and the batch limit do?
engines: [truth]
models: [tiny-llama]
gpus: [cpu]
workload: {kind: shared-prefix, requests: 24, groups: 3, prefix_tokens: 256, suffix_tokens: 16, output_tokens: 16}
load: {rates: [8, inf]}
levers:
  prefix_caching: [on, off]
  max_num_seqs: [64, 4]
baseline: {prefix_caching: on, max_num_seqs: 64}
primary:
  prefix_caching: ttft_s p50 at rate 8
  max_num_seqs: throughput at burst
replicates: 2
"""


@dataclass(frozen=True)
class Repository:
    """A copy of config/ and envs/ with no study but `small`."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> "Repository":
        for folder in ("config", "envs"):
            shutil.copytree(SOURCE / folder, root / folder, ignore=shutil.ignore_patterns("studies"))
        (root / "config" / "studies").mkdir()
        repository = cls(root)
        repository.write("small", STUDY)
        return repository

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def write(self, study: str, text: str) -> None:
        (self.root / "config" / "studies" / f"{study}.yaml").write_text(text)

    def change(self, old: str, new: str, file: str = "config/studies/small.yaml") -> None:
        path = self.root / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} holds {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new))

    def configuration(self, **settings: Any) -> Configuration:
        return load(self.root, {"study": "small", **settings})

    def matrix(self, **settings: Any) -> Matrix:
        configuration = self.configuration(**settings)
        return expand(configuration, configuration.selected_studies())

    def study(self, **settings: Any) -> StudyMatrix:
        return self.matrix(**settings).studies[0]

    def measure(
        self, job: Job, phases: list[str] | None = None, status: str = "measured", duration_s: float = 3.0
    ) -> None:
        """Leave the records that a job would leave for `phases` (all of them), as far as the matrix looks at them."""
        replicate = str(job.replicate)
        for phase in [cell.phase.id for cell in job.cells] if phases is None else phases:
            record = {"status": status, "duration_s": duration_s, "trial": 1, "phase": phase}
            write_json(self.layout.cell(job.server.id, replicate, phase) / "cell.json", record)
