# What the report needs beside the experiments, and the report: one page that opens from disk without a network.


rule shapes:
    output:
        paths.SHAPES,
    log:
        "results/logs/shapes/all.log",
    benchmark:
        "results/benchmarks/shapes/all.tsv"
    conda:
        "../envs/models.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        disk_mb=100,
        runtime=10,
    params:
        spec=lambda wildcards: specs.shapes(study),
    message:
        "Tabulate the sizes of all positions"
    script:
        "../workflow_scripts/shapes.py"


ruleorder: scorecard > tabulate


rule scorecard:
    input:
        **scorecard_inputs(),
    output:
        paths.SCORECARD,
    log:
        "results/logs/scorecard/all.log",
    benchmark:
        "results/benchmarks/scorecard/all.tsv"
    conda:
        "../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        disk_mb=100,
        runtime=10,
    params:
        spec=lambda wildcards: specs.scorecard(study),
    message:
        "Compare with the published values"
    script:
        "../workflow_scripts/scorecard.py"


rule report:
    input:
        **report_inputs(),
    output:
        paths.REPORT,
    log:
        "results/logs/report/all.log",
    benchmark:
        "results/benchmarks/report/all.tsv"
    conda:
        "../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        disk_mb=100,
        runtime=10,
    params:
        spec=lambda wildcards: specs.report(study, workflow.configfiles),
    message:
        "Write the report"
    script:
        "../workflow_scripts/report.py"
