"""Twins: a cell's server and load once more, under a profiler, in a job of its own.

Requires: what `measure` requires, and the measurement that it stands beside: where that cell has a record, no job any more.
Makes: results/profiles/{server}/{phase}/{twin}.json. What the profiler wrote and the tables of it are kept in a folder
beside it, by rename, and are declared nowhere.
"""


rule profile:
    """Serve one treatment under a profiler, and record a window in the middle of its load."""
    input:
        # Where its cell is still to be measured, after that: a twin warms the caches of compiled code. Later starts say how full theirs were.
        measured=of_twin(lambda twin: measured_beside(twin), []),
        setup=of_twin(lambda twin: twin_setup(twin), []),
        flags=of_twin(lambda twin: f"results/flags/{twin.cell.server.engine}.json", []),
        workload=of_twin(lambda twin: requests_of(twin.cell.phase.workload, twin.replicate), []),
    output:
        "results/profiles/{server}/{phase}/{twin}.json",
    log:
        "results/profiles/{server}/{phase}/{twin}.log",
    threads: of_twin(lambda twin: cores_of(twin.cell.server), GIVEN_CPUS)
    resources:
        **placement(of_twin(lambda twin: twin.cell.server.gpu, None), of_twin(node_of_twin, None)),
        runtime=lambda wildcards, attempt: attempt
        * of_twin(lambda twin: twin_minutes(twin, CONFIGURATION), 1)(wildcards),
        mem_mb=of_twin(lambda twin: memory_mb(twin.cell.server), 1000),
        gpu=of_twin(lambda twin: gpus_of(twin.cell.server), GIVEN_GPUS),
        gpu_model=of_twin(lambda twin: slurm_of(twin.cell.server.gpu).gpu_model or "", ""),
    shell:
        # exec: for the reason given in measure.smk.
        "exec python scripts/profile_cell.py --spec results/profiles/{wildcards.server}/{wildcards.phase}/{wildcards.twin}.spec.json "
        "--output {output} --log {log}"
