# Images to latents by the VAE, prompts to embeddings by the text encoder: once for all models
# that share them.


rule encode_images:
    input:
        images=paths.IMAGES,
        vae=paths.MANIFEST.replace("{model}", "{vae}"),
    output:
        paths.LATENTS,
    log:
        "results/logs/encode_images/{dataset}_{view}_{vae}_{resolution}px_{pixels}_{shard}.log",
    benchmark:
        "results/benchmarks/encode_images/{dataset}_{view}_{vae}_{resolution}px_{pixels}_{shard}.tsv"
    retries: 1
    conda:
        "../envs/models.yaml"
    threads: 2
    resources:
        **GPU,
        mem_mb=model_memory,
        disk_mb=4000,
        runtime=120,
        batch_size=study.batch_size,
    params:
        spec=lambda wildcards: specs.encode_images(study, wildcards),
    message:
        "Encode {wildcards.dataset} ({wildcards.view}, {wildcards.resolution} px, {wildcards.pixels} range, shard {wildcards.shard}) with the VAE of {wildcards.vae}"
    script:
        "../workflow_scripts/encode_images.py"


rule encode_prompts:
    input:
        unpack(prompt_inputs),
    output:
        paths.PROMPTS,
    log:
        "results/logs/encode_prompts/{text_encoder}_{prompt}.log",
    benchmark:
        "results/benchmarks/encode_prompts/{text_encoder}_{prompt}.tsv"
    conda:
        "../envs/models.yaml"
    threads: 1
    resources:
        **GPU,
        mem_mb=8000,
        disk_mb=1000,
        runtime=30,
    params:
        spec=lambda wildcards: specs.encode_prompts(study, wildcards),
    message:
        "Encode prompt {wildcards.prompt} with the text encoder of {wildcards.text_encoder}"
    script:
        "../workflow_scripts/encode_prompts.py"
