"""One cell of the matrix again, alone: does its number hold?

Requires: the cell's record under results/servers/, or a study's cells.parquet.
Makes: results/reproductions/{cell}/{number}/verdict.html.
"""


rule reproduce:
    """A fresh server for one cell, compared with what was recorded of it."""
    input:
        setup=lambda wildcards: settled(
            of_cell(setup_of, [])(wildcards),
            f"results/reproductions/{wildcards.cell}/{wildcards.number}/verdict.html",
        ),
    output:
        "results/reproductions/{cell}/{number}/verdict.html",
    log:
        "results/reproductions/{cell}/{number}/reproduce.log",
    threads: of_cell(cores_of, GIVEN_CPUS)
    resources:
        **placement(of_cell(lambda server: server.gpu, None)),
        runtime=lambda wildcards, attempt: attempt * 60,
        mem_mb=of_cell(memory_mb, 1000),
        gpu=of_cell(gpus_of, GIVEN_GPUS),
        gpu_model=of_cell(lambda server: slurm_of(server.gpu).gpu_model or "", ""),
    params:
        settings=SETTINGS,
    shell:
        # exec: for the reason given in measure.smk.
        "exec python scripts/reproduce.py --cell {wildcards.cell} --number {wildcards.number} "
        "--settings {params.settings:q} --output {output} --log {log}"
