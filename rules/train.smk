# Training the embedded model from scratch; only on request: `snakemake train_nano`. A run that was
# stopped goes on from the checkpoints in results/train/work.


rule train_nano:
    output:
        directory("results/train/nano-sd"),
    log:
        "results/logs/train_nano.log",
    benchmark:
        "results/benchmarks/train_nano/all.tsv"
    conda:
        "../envs/training.yaml"
    threads: workflow.resource_settings.cores or 2
    resources:
        mem_mb=8000,
        disk_mb=4000,
        runtime=240,
    params:
        work="results/train/work",
    message:
        "Train nano-sd on menagerie"
    script:
        "../workflow_scripts/train_nano.py"
