"""Public size bands of a site under differential privacy: what leaves in place of every number of patients.

A deployment declares them in `site.yaml`. They are compared with the data on the site's own screen only, and a run is
never refused for a difference: a refusal would depend on the number of patients.
"""

from collections.abc import Iterator
from typing import Any

from memamba_core.config.site import DeclaredBands, SitePrivacy
from memamba_core.config.site_privacy import largest_delta, top_of_band
from memamba_core.data.records import Cohort
from memamba_core.errors import ConfigError
from memamba_core.model import MEMamba
from memamba_core.model.parameter_groups import parameter_group
from memamba_core.wire.protocol import size_band

from .site import Site

__all__ = ["bands_of", "compare_bands", "group_bands"]


def bands_of(site: Site, training: Cohort) -> DeclaredBands:
    """Return the size bands that a site gives: under differential privacy the declared ones, else those of its counts.

    A simulation declares none, so that its bands are always those of its counts.

    Args:
        site: its settings.
        training: its training patients.

    Raises:
        ConfigError: a deployed site demands differential privacy and declares no bands; no `site.yaml` can say so.
    """
    privacy = site.config.privacy
    if privacy is not None and privacy.bands is not None:
        return privacy.bands
    if privacy is not None and site.strict:
        raise ConfigError("privacy.bands is missing; expected the public size bands of this site. Add them")
    counts = dict(_counts(training))
    if site.registry is not None:  # a modality of fewer patients is not used, and "1 to 9" would show the first of them
        counts = {name: count if count >= site.registry.smallest.patients else 0 for name, count in counts.items()}
    counted: dict[str, Any] = {name: size_band(count) for name, count in counts.items()}
    return DeclaredBands.model_construct(**counted)  # without validation: a simulated fold may hold no patient


def group_bands(bands: DeclaredBands, model: MEMamba) -> dict[str, int]:
    """Return the weight of the site for each parameter group of the model, from its bands alone.

    Every group of the model has an entry, also one that no patient of the site trains. An expert counts by the patients
    with its modality, the synergistic expert by the rarer of the two; head and vectors of absent modalities by all.
    """
    weights = {
        "pathology": bands.pathology,
        "genomics": bands.genomics,
        "synergistic": min(bands.pathology, bands.genomics),
    }
    groups = sorted({parameter_group(name) for name in model.state_dict()})
    return {group: int(weights.get(group, bands.patients)) for group in groups}


def compare_bands(privacy: SitePrivacy, cohort: Cohort) -> Iterator[str]:
    """Compare the declared bands with the patients of the site, for its own screen; nothing of it may leave.

    Args:
        privacy: section of `site.yaml`.
        cohort: all patients of the site that may take part in training.

    Yields:
        One sentence per band that does not fit; none if all fit.
    """
    if privacy.bands is None:
        return
    for name, count in _counts(cohort).items():
        declared = getattr(privacy.bands, name)
        if not declared <= count <= top_of_band(declared):
            yield (
                f"privacy.bands.{name} is {declared}, for {declared} to {top_of_band(declared)} patients; the site "
                f"has {count}. If the number is not about to change, declare {size_band(count)}"
            )
    limit = min(largest_delta(privacy.bands.patients), 1 / (10 * max(1, len(cohort.records))))
    if privacy.delta > limit:
        yield f"privacy.delta is {privacy.delta:g}; expected at most {limit:.2g} for {len(cohort.records)} patients"


def _counts(cohort: Cohort) -> dict[str, int]:
    return {
        "patients": len(cohort.records),
        "pathology": sum(map(cohort.has_slides, cohort.records)),
        "genomics": sum(map(cohort.has_genes, cohort.records)),
    }
