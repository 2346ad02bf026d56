"""Reports.

Requires: results/studies/{study}/*.parquet. Makes: reports/{study}.html, reports/index.html.
"""

REPORT_SOURCES = sorted(
    str(path)
    for folder in ("report", "theory")
    for path in Path("scripts/leverlab", folder).rglob("*")
    if path.suffix in (".py", ".j2", ".css")
)


localrules:
    report,
    index,


rule report:
    """A study's page: one file, readable without a network and without JavaScript."""
    input:
        "results/studies/{study}/requests.parquet",
        "results/studies/{study}/cells.parquet",
        "results/studies/{study}/effects.parquet",
        "results/studies/{study}/saturation.parquet",
        lambda wildcards: twin_records([wildcards.study]),
        "results/studies/{study}/accuracy.parquet",
        lambda wildcards: ranked_tables(wildcards.study),
        lambda wildcards: explaining_tables(wildcards.study),
        REPORT_SOURCES,
        flags=lambda wildcards: full_size_flags_of(wildcards.study),
    output:
        report(
            "reports/{study}.html",
            caption="../scripts/leverlab/report/captions/study.rst",
            category="Studies",
            labels={"study": "{study}"},
        ),
    log:
        "results/logs/report/{study}.log",
    params:
        settings=SETTINGS,
        # A page that ranks the levers of all studies is made again when another study has new results.
        ranked=lambda wildcards: ranked_results(wildcards.study),
        # So is one that another study's twins explain.
        explaining=lambda wildcards: explaining_results(wildcards.study),
    shell:
        "python scripts/report.py --study {wildcards.study} --settings {params.settings:q} 2>&1 | tee {log}"


rule index:
    """All reports, with what each found in a line."""
    input:
        expand("reports/{study}.html", study=STUDIES),
    output:
        "reports/index.html",
    log:
        "results/logs/report/index.log",
    shell:
        "python scripts/report.py --index 2>&1 | tee {log}"
