"""What a large matrix costs: expanding it, and Snakemake's dry run of it against that of a bare workflow with as many jobs.

    python benchmarks/matrix_expansion.py                        # 10,000 cells of 1,250 servers and replicates
    python benchmarks/matrix_expansion.py --load-points 1        # 10,000 jobs of one cell each

Wanted: at most twice the bare workflow's time. The best of several runs is taken, in turn, as other work on the machine
only ever adds time.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from leverlab.config import load
from leverlab.layout import Layout
from leverlab.matrix.expand import expand
from leverlab.matrix.jobs import incomplete_jobs

REPOSITORY = Path(__file__).resolve().parents[1]
WANTED_RATIO = 2.0
REPLICATES = 5

STUDY = """\
question: What does a matrix of this size cost before anything runs?
engines: [truth]
models: [tiny-llama]
gpus: [cpu]
workload: {{kind: random, requests: 8, prompt_tokens: 16, output_tokens: 8}}
load: {{rates: [{rates}]}}
levers:
  max_num_seqs: [{levels}]
baseline: {{max_num_seqs: 1}}
replicates: {replicates}
"""

BARE = """\
rule all:
    input: expand("done/{{job}}.json", job=range({jobs}))

rule setup:
    output: "setup.json"
    shell: "touch {{output}}"

rule measure:
    input: "setup.json"
    output: "done/{{job}}.json"
    shell: "touch {{output}}"
"""


def prepared(folder: Path, cells: int, load_points: int) -> Path:
    """A copy of the repository's files with a study `large` of `cells` cells. Raises ValueError where that does not divide."""
    servers, rest = divmod(cells, load_points * REPLICATES)
    if rest:
        raise ValueError(f"{cells} cells are no multiple of {load_points} load points × {REPLICATES} replicates")
    tracked = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(tracked, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in listed:
        if (REPOSITORY / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    study = STUDY.format(
        rates=", ".join(str(1 + number) for number in range(load_points)),
        levels=", ".join(str(1 + number) for number in range(servers)),
        replicates=REPLICATES,
    )
    (folder / "config" / "studies" / "large.yaml").write_text(study, encoding="utf-8")
    return folder


def expansion_s(root: Path) -> tuple[float, float, int]:
    """Seconds to read the configuration and expand it, seconds to look for what is measured, and the number of jobs."""
    start = time.perf_counter()
    configuration = load(root, {"study": "large"})
    matrix = expand(configuration, ["large"])
    jobs = len(matrix.jobs)
    middle = time.perf_counter()
    incomplete_jobs(matrix, Layout(root))
    return middle - start, time.perf_counter() - middle, jobs


def dry_run_s(root: Path, *settings: str) -> tuple[float, int]:
    """Seconds of a dry run, and the number of jobs that it counts."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules", "--cores", "1", *settings]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - start
    total = re.search(r"^total\s+(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE)
    if done.returncode or total is None:
        raise RuntimeError(f"{' '.join(command)} in {root}: {(done.stdout + done.stderr)[-2000:]}")
    return elapsed, int(total[1])


def main() -> int:
    """Print the times; exit code 1 where the ratio is above what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--load-points", type=int, default=8, help="cells of one server and replicate")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = prepared(Path(scratch) / "leverlab", arguments.cells, arguments.load_points)
        expanding, looking, jobs = expansion_s(root)
        print(f"{arguments.cells:,} cells, {jobs:,} measuring jobs", flush=True)
        print(f"expansion {expanding:.2f} s, looking for what is measured {looking:.2f} s", flush=True)
        bare = Path(scratch) / "bare"
        bare.mkdir()
        own: list[float] = []
        compared: list[float] = []
        for _ in range(arguments.runs):
            elapsed, total = dry_run_s(root, "--config", "study=large")
            own.append(elapsed)
            (bare / "Snakefile").write_text(BARE.format(jobs=total - 2), encoding="utf-8")
            elapsed, bare_total = dry_run_s(bare)
            compared.append(elapsed)
            print(
                f"dry run of {total:,} jobs {own[-1]:.1f} s, bare workflow of {bare_total:,} {compared[-1]:.1f} s",
                flush=True,
            )
    ratio = min(own) / min(compared)
    print(
        f"best of {arguments.runs}: {min(own):.1f} s against {min(compared):.1f} s: {ratio:.2f} times (wanted: at most {WANTED_RATIO:g})"
    )
    return 0 if ratio <= WANTED_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
