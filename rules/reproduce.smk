"""One cell of the matrix again, alone: does its number hold?

Requires: the cell's record under results/servers/, or a study's cells.parquet.
Makes: results/reproductions/{cell}/{number}/verdict.html.
"""


rule reproduce:
    """A fresh server for one cell, compared with what was recorded of it."""
    input:
        setup=lambda wildcards: ancient(setup_of(recorded(wildcards.cell).engine, recorded(wildcards.cell).model)),
    output:
        "results/reproductions/{cell}/{number}/verdict.html",
    log:
        "results/reproductions/{cell}/{number}/reproduce.log",
    threads: lambda wildcards: cores_of(recorded(wildcards.cell))
    resources:
        **placement(lambda wildcards: recorded(wildcards.cell).gpu),
        runtime=lambda wildcards, attempt: attempt * 60,
        mem_mb=lambda wildcards: memory_mb(recorded(wildcards.cell)),
        gpu=lambda wildcards: gpus_of(recorded(wildcards.cell)),
        gpu_model=lambda wildcards: slurm_of(recorded(wildcards.cell).gpu).gpu_model or "",
    params:
        settings=SETTINGS,
    shell:
        # exec: for the reason given in measure.smk.
        "exec python scripts/reproduce.py --cell {wildcards.cell} --number {wildcards.number} "
        "--settings {params.settings:q} --output {output} --log {log}"
