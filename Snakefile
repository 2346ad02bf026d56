"""leverlab: what does each serving lever do to an LLM engine, and how sure is that?

    snakemake -c1 plan --config study=NAME               the matrix, what is done, what it would cost
    snakemake --cores all --config study=NAME            on this machine
    snakemake --profile slurm --config study=NAME        on a cluster
    snakemake -c1 partial --config study=NAME            the report of what there is so far
    snakemake -c1 results/reproductions/CELL/1/verdict.html   one cell again: does its number hold?

A study of config/studies/ expands to servers (engine x model x GPU x treatment). One job measures all that is missing of
one server and replicate; tables and reports are made from the cells it leaves behind.
"""


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/setup.smk"
include: "rules/measure.smk"
include: "rules/profile.smk"
include: "rules/accuracy.smk"
include: "rules/aggregate.smk"
include: "rules/report.smk"
include: "rules/reproduce.smk"


rule all:
    """The reports of the selected studies, and the index of all reports."""
    default_target: True
    input:
        expand("reports/{study}.html", study=STUDIES),
        "reports/index.html",
        # Asked for by name, because a report may be there already: after a run that failed, after `partial`, or after a
        # cell was deleted. Snakemake would not miss what lies behind it.
        [record_of(JOBS[job]) for job in sorted(INCOMPLETE)],
        [str(TWINS[twin].record(LAYOUT)) for twin in sorted(DUE_TWINS)],
        [accuracy_record_of(ACCURACY_JOBS[job]) for job in sorted(ACCURACY_INCOMPLETE)],


localrules:
    plan,


rule plan:
    """Print the matrix, what of it is measured, and what the rest would take."""
    log:
        "results/logs/plan.log",
    params:
        settings=PLAN_SETTINGS,
        studies=STUDIES,
    shell:
        "python scripts/plan.py --settings {params.settings:q} --study {params.studies} | tee {log}"


onstart:
    prepare_jobs()


onerror:
    report_what_there_is()
