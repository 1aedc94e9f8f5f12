from snakemake.utils import min_version

min_version("9.20")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/fetch.smk"
include: "rules/encode.smk"
include: "rules/extract.smk"
include: "rules/evaluate.smk"
include: "rules/figures.smk"
include: "rules/report.smk"
include: "rules/train.smk"


rule all:
    default_target: True
    input:
        paths.REPORT,
