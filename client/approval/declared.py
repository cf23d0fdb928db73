"""Terms that the site itself declares: names of its columns, its section `data`, its blocks, its caps."""

from contextlib import suppress
from typing import Any

from client.cohort_registry import CohortRegistry
from client.cohort_status import FrozenCohort
from client.site import Site
from memamba_core.config.site import SiteConfig
from memamba_core.errors import TamperedLogError

from .terms import digest_of

__all__ = ["BlocksDigest", "caps_of", "count_columns", "digest_of_columns", "digest_of_data"]

_CAPS = {"limits", "disclosure", "privacy"}


class BlocksDigest:
    """Digest of the blocks that the next run of a site uses, computed again only after the registry has changed.

    The first digest is computed here, when the client starts, and not when a coordinator asks. It is "" while the
    blocks are not drawn, at a permissive site, and under differential privacy, where a run uses no blocks.

    Args:
        site: its registry and its patients.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._known: tuple[FrozenCohort, str] | None = None
        with suppress(TamperedLogError):  # raised at a request as well, and then answered
            self()

    def __call__(self) -> str:
        """Return the digest now.

        Raises:
            TamperedLogError: the registry was edited or removed.
        """
        registry = self._site.registry
        if registry is None or self._site.config.privacy is not None:
            return ""
        frozen = registry.read()
        if self._known is None or self._known[0] != frozen:
            self._known = (frozen, self._compute(registry, frozen))
        return self._known[1]

    def _compute(self, registry: CohortRegistry, frozen: FrozenCohort) -> str:
        return registry.digest(self._site.cohort) if frozen.generation else ""


def digest_of_data(config: SiteConfig) -> str:
    """Return the digest of what `site.yaml` says of the data; a table may be moved to another root."""
    return digest_of(config.data.model_dump(mode="json", exclude={"root"}))


def caps_of(config: SiteConfig) -> dict[str, Any]:
    """Return the sections of `site.yaml` that limit what a run may do or learn."""
    return config.model_dump(mode="json", include=_CAPS)


def digest_of_columns(site: Site) -> str:
    """Return the digest of the names that `facts` sends: columns, families and encoder. No value is read."""
    features = site.cohort.features
    declared = [features.encoder, features.width, *map(list, (features.columns, features.families))] if features else []
    return digest_of({"genes": list(site.gene_columns), "features": declared})


def count_columns(site: Site) -> dict[str, int]:
    """Count the declared columns by kind: `rnaseq`, `cnv`, `mut`, `other`, and `features` of slides."""
    counts: dict[str, int] = {}
    for name in site.gene_columns:
        kind = name.rpartition("_")[2]
        kind = kind if kind in ("rnaseq", "cnv", "mut") else "other"
        counts[kind] = counts.get(kind, 0) + 1
    if site.cohort.features is not None:
        counts["features"] = site.cohort.features.width
    return counts
