"""The measurement: one job a server lifetime.

Requires: the engine's environment, the model, the workloads, the flags' check.
Makes: results/servers/{server}/{replicate}/jobs/{job}.json. The cells it measures are kept under
results/servers/{server}/{replicate}/cells/ as they are done, and are declared nowhere: nothing deletes them.
"""


rule measure:
    """Serve one treatment and measure what is missing of its cells, one after another."""
    input:
        # Not ancient(): what is measured is no job any more (see INCOMPLETE), and a job that lies behind an outdated ancient
        # input is one that Snakemake forgets.
        setup=of_job(lambda job: setup_of(job.server), []),
        flags=of_job(lambda job: f"results/flags/{job.server.engine}.json", []),
        workloads=of_job(lambda job: [requests_of(workload, job.replicate) for workload in job.workloads], []),
    output:
        "results/servers/{server}/{replicate}/jobs/{job}.json",
    log:
        "results/servers/{server}/{replicate}/logs/{job}.log",
    priority: turn_of
    threads: of_job(lambda job: cores_of(job.server), GIVEN_CPUS)
    resources:
        **placement(of_job(lambda job: job.server.gpu, None), of_job(lambda job: PINNED.get(job.hash), None)),
        # A job that ran out of time has left its finished cells behind; the next attempt gets more all the same.
        runtime=lambda wildcards, attempt: attempt * of_job(minutes_of, 1)(wildcards),
        mem_mb=of_job(lambda job: memory_mb(job.server), 1000),
        gpu=of_job(lambda job: gpus_of(job.server), GIVEN_GPUS),
        gpu_model=of_job(lambda job: slurm_of(job.server.gpu).gpu_model or "", ""),
    shell:
        # exec: Slurm's SIGTERM goes to every process of a job, and a shell in between would end at once and take the step,
        # and with it the measurement, along before its server is stopped.
        "exec python scripts/measure.py --spec results/servers/{wildcards.server}/{wildcards.replicate}/jobs/{wildcards.job}.spec.json "
        "--output {output} --log {log}"
