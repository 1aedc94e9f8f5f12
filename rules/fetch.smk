# Datasets in their canonical form, and model folders with checksums.


for dataset in study.datasets:

    rule:
        name:
            f"fetch_{dataset}"
        output:
            **dataset_files(dataset),
        log:
            f"results/logs/fetch_dataset/{dataset}.log",
        benchmark:
            f"results/benchmarks/fetch_dataset/{dataset}.tsv"
        conda:
            "../envs/data.yaml"
        threads: 2
        resources:
            mem_mb=study.datasets[dataset].resources["mem_mb"],
            disk_mb=study.datasets[dataset].resources["disk_mb"],
            runtime=study.datasets[dataset].resources["runtime"],
        params:
            spec=lambda wildcards, dataset=dataset: specs.fetch_dataset(study, dataset),
        message:
            f"Bring dataset {dataset} to the canonical form"
        script:
            "../workflow_scripts/fetch_dataset.py"


rule fetch_model:
    output:
        manifest=paths.MANIFEST,
        snapshot=directory(paths.SNAPSHOT),
    log:
        "results/logs/fetch_model/{model}.log",
    benchmark:
        "results/benchmarks/fetch_model/{model}.tsv"
    conda:
        "../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        disk_mb=40000,
        runtime=480,
    params:
        spec=lambda wildcards: specs.fetch_model(study, wildcards.model),
    message:
        "Fetch model {wildcards.model}"
    script:
        "../workflow_scripts/fetch_model.py"
