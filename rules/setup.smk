"""Environments, models, workloads, and the check of every treatment's flags.

Requires: envs/*.txt, config/*.yaml.
Makes: .envs/{engine}/, results/models/{model}/, results/workloads/{workload}/{replicate}/, results/flags/{engine}.json,
results/flags/full-size/{study}.json.
"""


localrules:
    environment,
    model,
    workload,
    flags,
    full_size_flags,


rule environment:
    """An engine's own environment, as config/engines.yaml says: installed from its lock, or found and looked at."""
    input:
        lock=lambda wildcards: getattr(CONFIGURATION.engines[wildcards.engine].launch, "lock", []),
    output:
        ".envs/{engine}/ready.json",
    log:
        "results/logs/environment/{engine}.log",
    priority: SETTING_UP
    params:
        settings=SETTINGS,
    shell:
        "python scripts/prepare_environment.py --engine {wildcards.engine} --settings {params.settings:q} "
        "--output {output} 2>&1 | tee {log}"


rule model:
    """A model's files: made on the spot, fetched once from its hub, or found at its path. LoRA adapters need those of their base."""
    input:
        base=lambda wildcards: settled(
            [f"results/models/{base_of(wildcards.model)}/model.json"] if base_of(wildcards.model) else [],
            f"results/models/{wildcards.model}/model.json",
        ),
    output:
        "results/models/{model}/model.json",
    log:
        "results/logs/model/{model}.log",
    priority: SETTING_UP
    params:
        # Another source is another model, and old files must not serve under its name.
        source=lambda wildcards: model_source(wildcards.model),
        settings=SETTINGS,
    shell:
        "python scripts/prepare_model.py --model {wildcards.model} --settings {params.settings:q} "
        "--output {output} 2>&1 | tee {log}"


rule workload:
    """Prompts, output lengths and unit-rate arrivals, drawn from the replicate's seed."""
    input:
        model=lambda wildcards: settled(
            f"results/models/{MATRIX.workloads[wildcards.workload].model}/model.json",
            f"results/workloads/{wildcards.workload}/{wildcards.replicate}/requests.jsonl",
        ),
    output:
        "results/workloads/{workload}/{replicate}/requests.jsonl",
        "results/workloads/{workload}/{replicate}/card.json",
    log:
        "results/logs/workload/{workload}.{replicate}.log",
    priority: SETTING_UP
    params:
        settings=SETTINGS,
    shell:
        "python scripts/draw_workload.py --workload {wildcards.workload} --replicate {wildcards.replicate} "
        "--settings {params.settings:q} 2>&1 | tee {log}"


rule flags:
    """The flags of every treatment, put to the engine's own argument parser in its own environment."""
    input:
        environment=lambda wildcards: environment_of(wildcards.engine),
    output:
        "results/flags/{engine}.json",
    log:
        "results/logs/flags/{engine}.log",
    priority: SETTING_UP
    params:
        # A new treatment is a new question.
        servers=lambda wildcards: sorted(s.id for s in MATRIX.servers.values() if s.engine == wildcards.engine),
        studies=STUDIES,
        settings=SETTINGS,
    shell:
        "python scripts/check_flags.py --engine {wildcards.engine} --study {params.studies} --settings {params.settings:q} "
        "--output {output} 2>&1 | tee {log}"


rule full_size_flags:
    """The flags behind a simulated smoke size, put to the real engines' own parsers where this machine has them."""
    output:
        "results/flags/full-size/{study}.json",
    log:
        "results/logs/flags/full-size/{study}.log",
    params:
        servers=lambda wildcards: full_size_servers(wildcards.study),
        settings=SETTINGS,
    shell:
        "python scripts/check_full_size_flags.py --study {wildcards.study} --settings {params.settings:q} "
        "--output {output} 2>&1 | tee {log}"
