"""``python -m benchmarks.coverage``; apart from :mod:`.run`, whose functions processes import."""

from benchmarks.coverage.run import main

main()
