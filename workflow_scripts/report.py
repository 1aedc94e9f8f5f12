"""Write the report: one page with everything that the study found."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake
