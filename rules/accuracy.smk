"""What a server's answers are worth, beside what they cost: a twin of the measurement, in a job of its own.

Requires: the engine's environment, the model, the flags' check, envs/lm-eval.txt.
Makes: results/accuracy/{server}/jobs/{accuracy_job}.json. The run is kept under results/accuracy/{server}/{replicate}/runs/
when it is done, and is declared nowhere: nothing deletes it.
"""


localrules:
    lm_eval,
    answers,


rule lm_eval:
    """The environment of lm_eval, from its lock."""
    input:
        lock="envs/lm-eval.txt",
    output:
        ".envs/lm-eval/ready.json",
    log:
        "results/logs/environment/lm-eval.log",
    shell:
        "python scripts/prepare_lm_eval.py --output {output} 2>&1 | tee {log}"


rule accuracy:
    """Serve one treatment, and ask it a task's questions and the study's prompts."""
    input:
        # As in measure.smk: what has its run is no job any more.
        setup=of_accuracy_job(lambda job: setup_of(job.server), []),
        flags=of_accuracy_job(lambda job: f"results/flags/{job.server.engine}.json", []),
        lm_eval=of_accuracy_job(lambda job: lm_eval_environment(), []),
    output:
        "results/accuracy/{server}/jobs/{accuracy_job}.json",
    log:
        "results/accuracy/{server}/logs/{accuracy_job}.log",
    threads: of_accuracy_job(lambda job: cores_of(job.server), GIVEN_CPUS)
    resources:
        **placement(of_accuracy_job(lambda job: job.server.gpu, None), of_accuracy_job(node_of_asked, None)),
        runtime=lambda wildcards, attempt: attempt * of_accuracy_job(accuracy_minutes_of, 1)(wildcards),
        mem_mb=of_accuracy_job(lambda job: memory_mb(job.server), 1000),
        gpu=of_accuracy_job(lambda job: gpus_of(job.server), GIVEN_GPUS),
        gpu_model=of_accuracy_job(lambda job: slurm_of(job.server.gpu).gpu_model or "", ""),
    shell:
        # exec: for the reason given in measure.smk.
        "exec python scripts/accuracy.py --spec results/accuracy/{wildcards.server}/jobs/{wildcards.accuracy_job}.spec.json "
        "--output {output} --log {log}"


rule answers:
    """Ask every server of the selected studies what the studies want asked, and measure nothing."""
    input:
        [accuracy_record_of(job) for job in ACCURACY_JOBS.values()],
