"""Configuration, matrix and lookups for the rules that follow; no rules.

Requires: config/*.yaml. Makes: nothing but the job records that can be rebuilt from measured cells.
"""

import functools
import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from leverlab.accuracy.plan import all_jobs as all_accuracy_jobs
from leverlab.accuracy.plan import incomplete_jobs as incomplete_accuracy_jobs
from leverlab.accuracy.plan import jobs_by_study as accuracy_jobs_by_study
from leverlab.accuracy.plan import walltime_s as accuracy_walltime_s
from leverlab.accuracy.plan import write_specifications as write_accuracy_specifications
from leverlab.config import ConfigError, Configuration, load
from leverlab.identity import content_hash
from leverlab.layout import REQUESTS_FILE, TWIN_FILE, Layout
from leverlab.matrix.cells import ReplicateKey
from leverlab.matrix.expand import expand as expand_matrix
from leverlab.matrix.jobs import incomplete_jobs, pattern_of, walltime_s, write_specifications
from leverlab.matrix.servers import model_identity
from leverlab.matrix.twins import (
    all_twins,
    due_twins,
    jobs_before,
    profiler_missing,
    twin_minutes,
    twins_by_study,
    write_twin_specifications,
)
from leverlab.reproduce import recorded_server
from leverlab.scheduler import current_job, wait_for_previous_jobs

# The interpreter that runs Snakemake has leverlab installed, whether or not its environment is activated, and on every
# node that shares this folder. (Snakemake's own prefix is replaced with it: bash must stay strict, for the pipes into logs.)
shell.prefix(f"set -euo pipefail; PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

LAYOUT = Layout(Path())

# A job of a scheduler reads this again on its node, perhaps hours later. What it has to know is in its specification and
# in what it was given: whoever edits config/ while jobs are queued does not disturb them.
IN_JOB = not workflow.is_main_process
GIVEN = current_job() if IN_JOB else None

try:
    CONFIGURATION = Configuration.empty() if IN_JOB else load(Path(), config)
    STUDIES = CONFIGURATION.selected_studies()
    MATRIX = expand_matrix(CONFIGURATION, STUDIES)
    PINNED = MATRIX.nodes
    # A twin, and whoever asks a server for its answers, goes where that server is measured.
    NODES = {(job.server.id, job.replicate): PINNED[job.hash] for job in MATRIX.jobs if job.hash in PINNED}
    TWINS_BY_STUDY = twins_by_study(MATRIX)
    ACCURACY_BY_STUDY = accuracy_jobs_by_study(MATRIX)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

# What scripts need of the command line's settings. Which studies were asked for, and how their jobs are to be run, must not
# decide what is made again.
OF_THE_RUN = ("study", "retry_failed", "profiles", "nsys", "nsys_libraries", "ncu", "lm_eval_python")
SETTINGS = json.dumps({key: value for key, value in config.items() if key not in OF_THE_RUN}, sort_keys=True)
# A plan counts twins.
PLAN_SETTINGS = json.dumps({**json.loads(SETTINGS), "profiles": CONFIGURATION.settings.profiles}, sort_keys=True)

JOBS = {job.hash: job for job in MATRIX.jobs}

# What is measured is no job any more: its record is a plain file that no rule makes, and nothing can trigger it again.
INCOMPLETE = {job.hash for job in incomplete_jobs(MATRIX, LAYOUT)}

# The same of twins.
TWINS = all_twins(TWINS_BY_STUDY)
DUE_TWINS = due_twins(TWINS.values(), LAYOUT, CONFIGURATION.settings.retry_failed)
# The same for what servers are asked besides.
ACCURACY_JOBS = all_accuracy_jobs(ACCURACY_BY_STUDY)
ACCURACY_INCOMPLETE = {
    job.hash
    for job in incomplete_accuracy_jobs(
        ACCURACY_JOBS.values(), LAYOUT, retry_failed=CONFIGURATION.settings.retry_failed
    )
}


wildcard_constraints:
    server=r"[a-z0-9._-]+",
    replicate=r"[rx][0-9]+(c[0-9]+)?",
    job="[0-9a-f]+" if IN_JOB else pattern_of(INCOMPLETE, set(JOBS) - INCOMPLETE),
    phase=r"[a-z0-9._-]+",
    twin="[0-9a-f]+" if IN_JOB else pattern_of(DUE_TWINS, set(TWINS) - DUE_TWINS),
    accuracy_job=("[0-9a-f]+" if IN_JOB else pattern_of(ACCURACY_INCOMPLETE, set(ACCURACY_JOBS) - ACCURACY_INCOMPLETE)),
    engine="|".join(map(re.escape, CONFIGURATION.engines)),
    model="|".join(map(re.escape, CONFIGURATION.models)),
    workload=r"[a-z0-9._-]+",
    study="|".join(map(re.escape, [] if IN_JOB else [*CONFIGURATION.study_names(), *CONFIGURATION.smoke_names()])),
    cell=r"[a-z0-9._-]+",
    number=r"[0-9]+",


def of_job(lookup, inside):
    """An input or a resource of a measuring job; `inside` the job itself."""
    return lambda wildcards: inside if IN_JOB else lookup(JOBS[wildcards.job])


def of_accuracy_job(lookup, inside):
    """An input or a resource of a job of the rule `accuracy`; `inside` the job itself."""
    return lambda wildcards: inside if IN_JOB else lookup(ACCURACY_JOBS[wildcards.accuracy_job])


def of_cell(lookup, inside):
    """An input or a resource of a reproduction, from the recorded cell's server; `inside` the job itself."""
    return lambda wildcards: inside if IN_JOB else lookup(recorded(wildcards.cell))


# A step of a job must ask for what the job was given, no more and no less.
GIVEN_CPUS = (GIVEN and GIVEN.cpus) or 1
GIVEN_GPUS = len(GIVEN.gpus) if GIVEN else 0


def of_twin(lookup, inside):
    """An input or a resource of a twin's job; `inside` the job itself."""
    return lambda wildcards: inside if IN_JOB else lookup(TWINS[wildcards.twin])


def node_of_twin(twin):
    """The node that the study pins a twin's server to; None where it may run anywhere."""
    return NODES.get((twin.cell.server.id, twin.replicate))


def node_of_asked(job):
    """The same of a server that is asked for its answers."""
    return NODES.get((job.server.id, job.replicate))


def twin_records(studies):
    """The records of the twins of `studies`."""
    return [str(twin.record(LAYOUT)) for study in studies for twin in TWINS_BY_STUDY.get(study, ())]


def measured_beside(twin):
    """The records of the jobs that are still to measure the cell of a twin."""
    return [record_of(job) for job in jobs_before(twin, MATRIX.jobs, LAYOUT, CONFIGURATION.settings.retry_failed)]


def settled(files, output):
    """Inputs that do not trigger that `output` is made again once it is there.

    Only then ancient: Snakemake forgets a job that has to run where an ancient input of it is outdated itself.
    """
    return ancient(files) if Path(output).exists() else files


def record_of(job):
    """The record that `measure` makes for a job."""
    return str(LAYOUT.job_record(job.server.id, str(job.replicate), job.hash))


def requests_of(workload, replicate):
    """The file of a drawn workload that every server of a replicate replays, copies of the baseline too."""
    return str(LAYOUT.workload(workload.id, replicate.seed_key) / REQUESTS_FILE)


def accuracy_record_of(job):
    """The record that `accuracy` makes for a job."""
    return str(LAYOUT.accuracy_job(job.server.id, job.hash))


def lm_eval_environment():
    """The marker of lm_eval's environment; none where an interpreter is named that has it."""
    return [] if CONFIGURATION.settings.lm_eval_python else [".envs/lm-eval/ready.json"]


def accuracy_minutes_of(job):
    """The wall time that a job of the rule `accuracy` is given at first."""
    return -(-accuracy_walltime_s(job, CONFIGURATION) // 60)


def minutes_of(job):
    """The wall time that a job is given at first."""
    return -(-walltime_s(job, CONFIGURATION) // 60)


# Replicates that are told apart by their turn; the further ones come last, in any order. The solver that Snakemake asks is no more
# exact than one part in ten thousand.
TURNS = 6

# Before any measuring job: a second replicate must not be measured while another server's first still waits for its environment.
SETTING_UP = 2 ** (TURNS + 4)


def turn_of(wildcards):
    """The priority of a measuring job: the first replicate of every server, then the second.

    A run that is cut short leaves whole replicates, and a drift of the machine is in both sides of each pair. Snakemake starts the jobs
    whose priorities add up to the most, and of equal sums those that use the most cores, so that priorities are whole numbers and grow
    with the GPUs: a server on two goes before one on one beside a later replicate of another.
    """
    turn = 2 ** max(0, TURNS - ReplicateKey.parse(wildcards.replicate).number)
    return turn * of_job(lambda job: max(1, job.server.gpu_count), 1)(wildcards)


def environment_of(engine):
    """The marker of an engine's environment; none for an engine that runs in the pipeline's own."""
    return [] if CONFIGURATION.engines[engine].launch.kind == "pipeline" else [f".envs/{engine}/ready.json"]


def base_of(model):
    """The model that the entry `model` of config/models.yaml adapts; None where it is one itself."""
    return getattr(CONFIGURATION.models[model].source, "base", None)


def model_source(model):
    """The hash of what decides the files of a model; of adapters their base too."""
    of_base = [model_source(base_of(model))] if base_of(model) else []
    identity = model_identity(model, CONFIGURATION.models[model])
    return content_hash([identity, *of_base] if of_base else identity)


def setup_of(server):
    """What must be there before a server can be started: its engine's environment, its model, the models its flags refer to."""
    models = (server.model, *server.other_models)
    return [*environment_of(server.engine), *(f"results/models/{model}/model.json" for model in models)]


def slurm_of(gpu):
    """The Slurm request of a GPU type."""
    return CONFIGURATION.gpus[gpu].slurm


def cores_of(server):
    """All of this machine for an engine that computes on the CPU; the request of the GPU type otherwise."""
    if CONFIGURATION.gpus[server.gpu].device == "cpu" and workflow.resource_settings.cores:
        return workflow.resource_settings.cores
    return slurm_of(server.gpu).cpus * server.gpu_count


def memory_mb(server):
    """Host memory that Slurm is asked for, in MB."""
    return round(slurm_of(server.gpu).memory * max(1, server.gpu_count if gpus_of(server) else 1) / 1e6)


def gpus_of(server):
    """GPUs that Slurm is asked for; none for a server on a CPU."""
    return 0 if CONFIGURATION.gpus[server.gpu].device == "cpu" else server.gpu_count


def placement(gpu_of, node_of=lambda wildcards: None):
    """Partition, account, constraint where config/gpus.yaml names them, and the node where a study pins one.

    Otherwise the profile's defaults stand.
    """
    defaults = getattr(workflow.resource_settings.default_resources, "args", [])
    profile = dict(item.split("=", 1) for item in defaults if "=" in item)

    def asked(key, resource):
        def value(wildcards):
            gpu = gpu_of(wildcards)
            found = (gpu and getattr(slurm_of(gpu), key)) or profile.get(resource, "").strip("\"'")
            node = node_of(wildcards) if key == "extra" else None
            return f"{found} --nodelist={node}".strip() if node else found

        return value

    keys = {"partition": "slurm_partition", "account": "slurm_account", "extra": "slurm_extra"}
    return {
        resource: asked(key, resource)
        for key, resource in keys.items()
        if any(getattr(gpu.slurm, key) for gpu in CONFIGURATION.gpus.values()) or (key == "extra" and PINNED)
    }


@functools.cache
def recorded(cell):
    """The server of a recorded cell: what a reproduction starts again."""
    try:
        return recorded_server(cell, LAYOUT)
    except LookupError as error:
        raise WorkflowError(str(error)) from None


def prepare_jobs():
    """Before the first job of a run: write what each is to measure, and let jobs of an earlier run finish."""
    planned = [job for job in MATRIX.jobs if job.hash in INCOMPLETE]
    due = [TWINS[twin] for twin in sorted(DUE_TWINS)]
    asked = [ACCURACY_JOBS[job] for job in sorted(ACCURACY_INCOMPLETE)]
    elsewhere = {PINNED[job.hash] for job in planned if job.hash in PINNED}
    elsewhere |= {node for node in (*map(node_of_twin, due), *map(node_of_asked, asked)) if node}
    elsewhere -= {socket.gethostname()}
    if workflow.local_exec and elsewhere:
        raise WorkflowError(
            f"a study pins its servers to {', '.join(sorted(elsewhere))} (key `node`), and this machine is {socket.gethostname()}: "
            "run it there, on the cluster with --profile slurm, or take the key out"
        )
    runnable = [twin for twin in due if profiler_missing(twin, CONFIGURATION, workflow.local_exec) is None]
    write_twin_specifications(runnable, CONFIGURATION, LAYOUT, workflow.local_exec)
    write_specifications(planned, CONFIGURATION, LAYOUT)
    write_accuracy_specifications(asked, CONFIGURATION, LAYOUT)
    if not workflow.local_exec:
        targets = {("measure", f"{job.server.id}_{job.replicate}") for job in planned}
        targets |= {("profile", twin.id) for twin in due} | {("accuracy", job.hash) for job in asked}
        wait_for_previous_jobs(targets, LAYOUT)


def twin_setup(twin):
    """What must be there before a twin's server can be started.

    A run that would start a twin without its profiler ends here, before anything is submitted; one that only plans, a dry run,
    or one that makes a page of what there is, does not.
    """
    missing = profiler_missing(twin, CONFIGURATION, workflow.local_exec)
    if missing is not None and not workflow.dryrun:
        raise WorkflowError(missing)
    return setup_of(twin.cell.server)


def ranks_all(study):
    """Whether the study's page ranks the levers of all studies."""
    return not IN_JOB and CONFIGURATION.study(study).ranks is not None


def ranked_tables(study):
    """Effects of the studies of this run that the page of `study` ranks."""
    others = [other for other in STUDIES if other != study] if ranks_all(study) else []
    return [str(LAYOUT.study(other) / "effects.parquet") for other in others]


def ranked_results(study):
    """The same of studies that are not of this run, as far as they have results: path and time of the last change."""
    if not ranks_all(study):
        return []
    of_this_run = {LAYOUT.study(other) for other in STUDIES}
    found = sorted(LAYOUT.results.glob("studies/*/effects.parquet"))
    return changes(path for path in found if path.parent not in of_this_run)


def explaining_tables(study):
    """Tables, and records of twins, of the studies of this run that explain `study`."""
    names = [] if IN_JOB else [name for name in CONFIGURATION.study(study).explained_by if name in STUDIES]
    tables = [
        str(LAYOUT.study(name) / f"{table}.parquet") for name in names for table in ("cells", "effects", "saturation")
    ]
    return [*tables, *twin_records(names)]


def explaining_results(study):
    """Tables of the studies that are not of this run, as far as they have results, and all twins: path and time of the last change."""
    names = [] if IN_JOB else [name for name in CONFIGURATION.study(study).explained_by if name not in STUDIES]
    found = [path for name in names if (path := LAYOUT.study(name) / "cells.parquet").is_file()]
    found += sorted(LAYOUT.results.glob(f"profiles/*/*/*/{TWIN_FILE}")) if found else []
    return changes(found)


def changes(files):
    """Path and time of the last change of each file: what a rule is made again for though it does not wait for it."""
    return [[str(path), path.stat().st_mtime_ns] for path in files]


def full_size_flags_of(study):
    """What was said to the real flags behind a simulated smoke size; nothing for every other study."""
    simulated = CONFIGURATION.is_smoke(study) and CONFIGURATION.simulated(CONFIGURATION.study(study))
    return [str(LAYOUT.full_size_flags(study))] if simulated else []


def full_size_servers(study):
    """The servers of the study behind a smoke size, and which environments are here: what its flags' check depends on."""
    matrix = expand_matrix(CONFIGURATION, [CONFIGURATION.full_name(study)])
    return sorted(matrix.servers) + sorted(map(str, Path(".envs").glob("*/ready.json")))


def report_what_there_is():
    """After a run that failed: tables and reports of what was measured, so that the morning finds them."""
    for study in STUDIES:
        subprocess.run([sys.executable, "scripts/aggregate.py", "--study", study, "--settings", SETTINGS], check=False)
        subprocess.run([sys.executable, "scripts/report.py", "--study", study, "--settings", SETTINGS], check=False)
