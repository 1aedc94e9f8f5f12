# Figures: a table in, a Vega-Lite chart out, in four formats.


rule figure:
    input:
        table=paths.TABLE,
    output:
        **{suffix: f"{paths.FIGURE}.{suffix}" for suffix in paths.FIGURE_FORMATS},
    log:
        "results/logs/figure/{experiment}_{figure}.log",
    benchmark:
        "results/benchmarks/figure/{experiment}_{figure}.tsv"
    conda:
        "../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        disk_mb=100,
        runtime=10,
    params:
        spec=lambda wildcards: specs.figure(
            study, wildcards.experiment, wildcards.figure
        ),
    message:
        "Draw figure {wildcards.figure} of {wildcards.experiment}"
    script:
        "../workflow_scripts/figure.py"
