"""Terms that the site itself declares: names of its columns, its section `data`, its caps. No value of a patient."""

from collections.abc import Collection, Mapping
from typing import Any

from memamba_core.config.site import SiteConfig
from memamba_core.data.records import Cohort

from .terms import digest_of

__all__ = ["caps_of", "count_columns", "digest_of_columns", "digest_of_data"]

_CAPS = {"limits", "disclosure", "privacy"}


def digest_of_data(config: SiteConfig) -> str:
    """Return the digest of what `site.yaml` says of the data; a table may be moved to another root."""
    return digest_of(config.data.model_dump(mode="json", exclude={"root"}))


def caps_of(config: SiteConfig) -> dict[str, Any]:
    """Return the sections of `site.yaml` that limit what a run may do or learn."""
    return config.model_dump(mode="json", include=_CAPS)


def digest_of_columns(cohort: Cohort) -> str:
    """Return the digest of the names that `facts` would send: columns, families and encoder. No value is read."""
    features = cohort.features
    return digest_of(
        {
            "genes": list(cohort.genes.columns) if cohort.genes else None,
            "features": [features.encoder, features.width, list(features.columns), list(features.families)]
            if features
            else None,
        }
    )


def count_columns(cohort: Cohort) -> dict[str, int]:
    """Count the columns of the site by kind: `rnaseq`, `cnv`, `mut` of the molecular table, and `features`."""
    counts: dict[str, int] = {}
    names: Collection[str] = cohort.genes.columns if cohort.genes else ()
    for name in names:
        kind = name.rpartition("_")[2]
        counts[kind] = counts.get(kind, 0) + 1
    if cohort.features is not None:
        counts["features"] = cohort.features.width
    return dict(_known(counts))


def _known(counts: Mapping[str, int]) -> Mapping[str, int]:
    """Put columns of an unknown kind under one name: the number of kinds is bounded."""
    known = {kind: counts[kind] for kind in ("rnaseq", "cnv", "mut", "features") if kind in counts}
    other = sum(counts.values()) - sum(known.values())
    return {**known, "other": other} if other else known
