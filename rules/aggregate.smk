"""Tables of a study, from the cells of its jobs.

Requires: results/servers/{server}/{replicate}/jobs/{job}.json. Makes: results/studies/{study}/*.parquet.
"""


localrules:
    aggregate,
    partial,


rule aggregate:
    """One row a request, a cell, an effect, a treatment's knee: the study as tables."""
    input:
        jobs=lambda wildcards: [record_of(job) for job in MATRIX.jobs_by_study[wildcards.study]],
        study=lambda wildcards: f"config/studies/{CONFIGURATION.full_name(wildcards.study)}.yaml",
        accuracy=lambda wildcards: [accuracy_record_of(job) for job in ACCURACY_BY_STUDY[wildcards.study]],
        levers="config/levers.yaml",
    output:
        requests="results/studies/{study}/requests.parquet",
        cells="results/studies/{study}/cells.parquet",
        effects="results/studies/{study}/effects.parquet",
        saturation="results/studies/{study}/saturation.parquet",
        accuracy="results/studies/{study}/accuracy.parquet",
    log:
        "results/logs/aggregate/{study}.log",
    params:
        settings=SETTINGS,
    shell:
        "python scripts/aggregate.py --study {wildcards.study} --settings {params.settings:q} 2>&1 | tee {log}"


rule partial:
    """The same tables and reports of an unfinished matrix, from what there is; measures nothing."""
    log:
        "results/logs/partial.log",
    params:
        settings=SETTINGS,
        studies=STUDIES,
    shell:
        """
        (
            for study in {params.studies}; do
                python scripts/aggregate.py --study $study --settings {params.settings:q}
                python scripts/report.py --study $study --settings {params.settings:q}
            done
            python scripts/report.py --index
        ) 2>&1 | tee {log}
        """
