"""The TCGA cohorts that benchmarks read, and what is said where their tables are not here."""

import os

__all__ = ["COHORTS", "HISTOLOGY_COHORTS", "tables_are_here"]

COHORTS = ("tcga_blca", "tcga_brca", "tcga_ucec", "tcga_gbmlgg", "tcga_luad")
"""The five of MCAT; values of `data=`."""
HISTOLOGY_COHORTS = ("tcga_luad_hif", "tcga_brca_hif")
"""Two of them with slide-level features."""


def tables_are_here() -> bool:
    """Whether MEMAMBA_DATA names a folder; where it does not, says so."""
    named = bool(os.environ.get("MEMAMBA_DATA"))
    if not named:
        print("skipped: name the folder of the TCGA tables in the environment variable MEMAMBA_DATA")
    return named
