# Representations: one forward pass of the denoiser stores a whole hook set.


rule extract:
    input:
        unpack(extract_inputs),
    output:
        paths.REPRESENTATIONS,
    log:
        paths.job_file("logs", "extract", paths.REPRESENTATIONS, ".log"),
    benchmark:
        paths.job_file("benchmarks", "extract", paths.REPRESENTATIONS, ".tsv")
    retries: 1
    conda:
        "../envs/models.yaml"
    threads: 2
    resources:
        **GPU,
        mem_mb=8000,
        disk_mb=20000,
        runtime=240,
        batch_size=batch_size,
    params:
        spec=lambda wildcards: specs.extract(study, wildcards),
    message:
        "Extract {wildcards.hookset} of {wildcards.model} on {wildcards.dataset} at timestep {wildcards.timestep} (seed {wildcards.seed}, {wildcards.protocol}, shard {wildcards.shard})"
    script:
        "../workflow_scripts/extract.py"
