"""Names of the TCGA cohorts that benchmarks read, and the check for their tables."""

import os

__all__ = ["COHORTS", "HISTOLOGY_COHORTS", "tables_are_here"]

COHORTS = ("tcga_blca", "tcga_brca", "tcga_ucec", "tcga_gbmlgg", "tcga_luad")
"""The five cohorts of MCAT; values of `data=`."""
HISTOLOGY_COHORTS = ("tcga_luad_hif", "tcga_brca_hif")
"""Two of these cohorts with slide-level features."""


def tables_are_here() -> bool:
    """Return True if MEMAMBA_DATA is set; otherwise print that the benchmark is skipped."""
    named = bool(os.environ.get("MEMAMBA_DATA"))
    if not named:
        print("skipped: set the environment variable MEMAMBA_DATA to the folder of the TCGA tables")
    return named
