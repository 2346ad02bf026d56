"""The measurement: one job a server lifetime.

Requires: the engine's environment, the model, the workloads, the flags' check; all ancient, as what was measured does not
change with them.
Makes: results/servers/{server}/{replicate}/jobs/{job}.json. The cells it measures are kept under
results/servers/{server}/{replicate}/cells/ as they are done, and are declared nowhere: nothing deletes them.
"""


rule measure:
    """Serve one treatment and measure what is missing of its cells, one after another."""
    input:
        setup=lambda wildcards: ancient(setup_of(JOBS[wildcards.job].server.engine, JOBS[wildcards.job].server.model)),
        flags=lambda wildcards: ancient(f"results/flags/{JOBS[wildcards.job].server.engine}.json"),
        workloads=lambda wildcards: ancient(
            expand("results/workloads/{workload}/{replicate}/requests.jsonl",
                   workload=[w.id for w in JOBS[wildcards.job].workloads], replicate=wildcards.replicate)
        ),
    output:
        "results/servers/{server}/{replicate}/jobs/{job}.json",
    log:
        "results/servers/{server}/{replicate}/logs/{job}.log",
    threads: lambda wildcards: cores_of(JOBS[wildcards.job].server)
    resources:
        # A job that ran out of time has left its finished cells behind; the next attempt gets more all the same.
        runtime=lambda wildcards, attempt: attempt * -(-walltime_s(JOBS[wildcards.job], CONFIGURATION) // 60),
        mem_mb=lambda wildcards: memory_mb(JOBS[wildcards.job].server),
        gpu=lambda wildcards: gpus_of(JOBS[wildcards.job].server),
        gpu_model=lambda wildcards: slurm_of(JOBS[wildcards.job].server.gpu).gpu_model or "",
        **placement(lambda wildcards: JOBS[wildcards.job].server),
    shell:
        # exec: Slurm's SIGTERM goes to every process of a job, and a shell in between would end at once and take the step,
        # and with it the measurement, along before its server is stopped.
        "exec {PYTHON} scripts/measure.py --spec results/servers/{wildcards.server}/{wildcards.replicate}/jobs/{wildcards.job}.spec.json "
        "--output {output} --log {log}"
