# One page that opens from disk without a network.


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
        spec=lambda wildcards: specs.report(study),
    message:
        "Write the report"
    script:
        "../workflow_scripts/report.py"
