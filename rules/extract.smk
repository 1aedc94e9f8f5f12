# Representations: one forward pass of the denoiser stores a whole hook set. Each timestep is a
# job of its own, or shares one with others as `jobs: timesteps_per_job` of the study says.


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
        mem_mb=model_memory,
        disk_mb=20000,
        runtime=240,
        batch_size=study.batch_size,
    params:
        spec=lambda wildcards: specs.extract(study, wildcards),
    message:
        "Extract {wildcards.hookset} of {wildcards.model} on {wildcards.dataset} at timestep {wildcards.timestep} (seed {wildcards.seed}, {wildcards.protocol}, shard {wildcards.shard})"
    script:
        "../workflow_scripts/extract.py"


for number, stores in enumerate(TOGETHER):
    files = [paths.REPRESENTATIONS.format(**keys) for keys in stores]
    first = Wildcards(fromdict=stores[0])
    timesteps = ", ".join(str(keys["timestep"]) for keys in stores)

    rule:
        name:
            f"extract_together_{number}"
        input:
            **extract_inputs(first),
        output:
            files,
        log:
            paths.job_file("logs", "extract", files[0], ".log"),
        benchmark:
            paths.job_file("benchmarks", "extract", files[0], ".tsv")
        retries: 1
        conda:
            "../envs/models.yaml"
        threads: 2
        resources:
            **GPU,
            mem_mb=model_memory,
            disk_mb=20000 * len(files),
            runtime=240 * len(files),
            batch_size=study.batch_size,
        params:
            # A function, since Snakemake takes braces in a plain string for wildcards.
            spec=lambda wildcards, first=first: specs.extract(study, first),
        message:
            f"Extract {first.hookset} of {first.model} on {first.dataset} at timesteps {timesteps} (seed {first.seed}, {first.protocol}, shard {first.shard})"
        script:
            "../workflow_scripts/extract.py"

    workflow.ruleorder(f"extract_together_{number}", "extract")
