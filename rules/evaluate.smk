# Tasks on representations, and one tidy table per experiment.


rule measure_offsets:
    input:
        unpack(offsets_inputs),
    output:
        paths.OFFSETS,
    log:
        "results/logs/measure_offsets/{model}.log",
    benchmark:
        "results/benchmarks/measure_offsets/{model}.tsv"
    conda:
        "../envs/models.yaml"
    threads: 2
    resources:
        **GPU,
        mem_mb=16000,
        disk_mb=10,
        runtime=120,
    params:
        spec=lambda wildcards: specs.offsets(study, wildcards.model),
    message:
        "Measure where the tokens of {wildcards.model} lie"
    script:
        "../workflow_scripts/measure_offsets.py"


rule evaluate:
    input:
        unpack(evaluate_inputs),
    output:
        paths.MEASUREMENT,
    log:
        paths.job_file("logs", "evaluate", paths.MEASUREMENT, ".log"),
    benchmark:
        paths.job_file("benchmarks", "evaluate", paths.MEASUREMENT, ".tsv")
    retries: 1
    conda:
        "../envs/tasks.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
        disk_mb=1000,
        runtime=evaluate_minutes,
    params:
        spec=lambda wildcards: specs.evaluate(study, wildcards),
    message:
        "Measure {wildcards.task} on {wildcards.hookset} of {wildcards.model}, {wildcards.dataset}, timestep {wildcards.timestep}"
    script:
        "../workflow_scripts/evaluate.py"


# Tasks on the denoiser's input, which the VAE makes visible.
rule decode_noise:
    input:
        unpack(decode_inputs),
    output:
        paths.DECODED,
    log:
        paths.job_file("logs", "decode_noise", paths.DECODED, ".log"),
    benchmark:
        paths.job_file("benchmarks", "decode_noise", paths.DECODED, ".tsv")
    conda:
        "../envs/models.yaml"
    threads: 1
    resources:
        **GPU,
        mem_mb=8000,
        disk_mb=100,
        runtime=30,
    params:
        spec=lambda wildcards: specs.decode_noise(study, wildcards),
    message:
        "Decode the noised latents of {wildcards.model}, {wildcards.dataset}, timestep {wildcards.timestep}"
    script:
        "../workflow_scripts/decode_noise.py"


rule tabulate:
    input:
        tabulate_inputs,
    output:
        paths.TABLE,
    log:
        "results/logs/tabulate/{experiment}.log",
    benchmark:
        "results/benchmarks/tabulate/{experiment}.tsv"
    conda:
        "../envs/tasks.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        disk_mb=500,
        runtime=30,
    params:
        spec=lambda wildcards: specs.tabulate(study, wildcards.experiment),
    message:
        "Tabulate {wildcards.experiment}"
    script:
        "../workflow_scripts/summarise.py"
