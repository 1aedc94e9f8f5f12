from snakemake.utils import min_version

min_version("9.20")


include: "rules/common.smk"
include: "rules/fetch.smk"
include: "rules/encode.smk"
include: "rules/extract.smk"
include: "rules/evaluate.smk"
include: "rules/figures.smk"
include: "rules/report.smk"
include: "rules/train.smk"


onstart:
    jobs.remember(TOGETHER)
    # With a limit of jobs per second, Snakemake looks for jobs once more a second for every job that
    # has ended, hundreds of times a second in a large study. A single machine needs no such limit.
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None
    failures.retry_only_what_may_end_otherwise(workflow.scheduler)


onsuccess:
    Path(paths.INCOMPLETE).unlink(missing_ok=True)


onerror:
    # After all that Snakemake says, so that the last lines on the terminal are those for the user.
    atexit.register(
        print,
        *failures.sentences(workflow.scheduler.failed),
        sep="\n",
        file=sys.stderr,
        flush=True,
    )
    report_anyway()


rule all:
    default_target: True
    input:
        paths.REPORT,
