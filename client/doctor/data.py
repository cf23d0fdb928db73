"""Checks of a site's data: patients, events, columns, features, blocks, size bands, and a dry run on one patient.

The findings name files and columns, for the site's own screen.
"""

from collections.abc import Iterator

import numpy as np

from client.cohort_status import REFREEZE_COST
from client.declared_bands import compare_bands
from client.site import Site
from memamba_core.config.site_privacy import SitePrivacy
from memamba_core.data.clinical.follow_up import FollowUp
from memamba_core.data.clinical.table import read_clinical
from memamba_core.data.features.survey import survey_features
from memamba_core.data.records import Cohort
from memamba_core.errors import DataError, TamperedLogError

from .dry_run import measure_dry_run, memory_available
from .features import check_features, list_files
from .finding import Finding, error, ok, warning

__all__ = ["check_data"]

_GB = 1e9


def check_data(site: Site) -> Iterator[Finding]:
    """Check the tables and features of a site whose tables could be read.

    Args:
        site: as `open_site` returns it.
    """
    yield from _patients(site)
    yield from _genes(site.cohort)
    for doubt in site.cohort.doubts:
        yield warning(doubt.check, doubt.text + list_files(doubt.files), doubt.remedy)
    survey = survey_features(site.cohort)
    yield from check_features(site.cohort, survey)
    if site.config.privacy is None:
        yield from _blocks(site)
    else:
        yield from _bands(site, site.config.privacy)
    yield from _dry_run(site, survey.rows)


def _patients(site: Site) -> Iterator[Finding]:
    data, cohort = site.config.data, site.cohort
    total, used, events = len(read_clinical(data.clinical, data.root)), len(cohort.records), cohort.num_events
    follow_up = FollowUp(cohort.records, data.clinical)
    years = int(follow_up.months.max() // 12) + 1  # the longest follow-up itself is the value of one patient
    yield ok("patients", f"{used}, with {events} events; {follow_up.describe()}, all under {years} years")
    if used < total:
        yield warning(
            "patients",
            f"{total - used} of {total} patients are excluded: they have neither molecular data nor features",
            "if that is more than you expect, write identifiers alike in all tables and names of files; the doubts "
            "about identifiers and slide names count those that nearly match",
        )
    if events in (0, used):
        yield error(
            "events",
            f"{'no patient' if not events else 'every patient'} had the event",
            f"check the column {data.clinical.event!r} and data.clinical.event_means={data.clinical.event_means}",
        )
    else:
        yield ok(
            "events",
            f"{events} of {used} patients ({events / used:.0%}) had the event. If this number is that of patients "
            "without the event, change data.clinical.event_means",
        )


def _genes(cohort: Cohort) -> Iterator[Finding]:
    if cohort.genes is None:
        yield ok("molecular data", "none, as set in site.yaml")
        return
    having = sum(map(cohort.has_genes, cohort.records))
    columns = cohort.genes.columns
    kinds = ", ".join(
        f"{sum(c.endswith(f'_{kind}') for c in columns)} {kind}"
        for kind in ("rnaseq", "cnv", "mut")
        if any(c.endswith(f"_{kind}") for c in columns)
    )
    absent = float(np.isnan(cohort.genes.values_NC).mean())
    yield ok(
        "molecular data",
        f"{having} of {len(cohort.records)} patients; {len(columns)} columns ({kinds}); {absent:.1%} of cells empty",
    )


def _bands(site: Site, privacy: SitePrivacy) -> Iterator[Finding]:
    """Compare the declared size bands with the patients, who are in no block under differential privacy."""
    yield ok("blocks", "none: under differential privacy every patient trains in every fold, and none is tested")
    try:
        cohort = site.cohort if site.registry is None else site.registry.present(site.cohort)
    except TamperedLogError as failure:
        yield error("bands", str(failure), "restore the state folder from a backup")
        return
    unfit = list(compare_bands(privacy, cohort))
    for sentence in unfit:
        yield warning("bands", sentence, "correct site.yaml; no run is refused for a band that does not fit")
    if not unfit and privacy.bands is not None:
        declared = ", ".join(f"{name} {lower}" for name, lower in privacy.bands.model_dump().items())
        yield ok("bands", f"the declared size bands fit the data: {declared}")


def _blocks(site: Site) -> Iterator[Finding]:
    """Check which blocks of patients a run would use; nothing is drawn or written."""
    if site.registry is None:
        return
    thresholds, records, events = site.config.disclosure, site.cohort.records, site.cohort.num_events
    try:
        status = site.registry.plan(site.cohort)
    except TamperedLogError as failure:
        yield error("blocks", str(failure), "restore the state folder from a backup")
        return
    smallest = site.registry.smallest
    if status.reader_notice:
        yield warning(
            "reader",
            status.reader_notice,
            "see the release notes; if the files are those of the draw, and this release reads them right, draw the "
            f"blocks again with `flower-client cohort refreeze site.yaml --reason TEXT`. {REFREEZE_COST.rstrip('.')}",
        )
    if not status.usable:
        yield error(
            "blocks",
            f"this site refuses every run: {len(records)} patients, {events} with and {len(records) - events} without "
            f"the event; a block needs {smallest.patients} (the larger of disclosure.min_patients="
            f"{thresholds.min_patients} and min_round_patients={thresholds.min_round_patients}, because patients could "
            f"be reconstructed from the weights of fewer), {smallest.events} and {smallest.events}"
            + (f"; {len(status.set_aside)} blocks are set aside" if status.set_aside else ""),
            "see `flower-client cohort show`, join with another site, or take part with differential privacy",
        )
        return
    sizes = sorted(len(block.case_ids) for block in status.usable)
    drawn = "has drawn" if site.registry.read().generation else "will draw in its first run"
    if status.set_aside:
        yield warning(
            "blocks",
            f"{len(status.set_aside)} of {len(status.frozen.blocks)} blocks are set aside, because a patient withdrew, "
            "is missing or has other data",
            "see `flower-client cohort show`",
        )
    elif len(sizes) == 1:
        yield warning(
            "blocks",
            f"this site {drawn} one block of {sizes[0]} patients: it trains in every fold and tests no model",
            f"no action is needed; two blocks need {2 * smallest.patients} patients, {2 * smallest.events} with and as "
            "many without the event",
        )
    else:
        waiting = f"; {len(status.waiting)} newcomers wait for a block of their own" if status.waiting else ""
        yield ok("blocks", f"this site {drawn} {len(sizes)} blocks of {sizes[0]} to {sizes[-1]} patients{waiting}")


def _dry_run(site: Site, rows: dict[str, int]) -> Iterator[Finding]:
    """Train on one patient, from the files to a gradient, and report time and memory."""
    records = site.cohort.records
    case_id = max(records, key=lambda r: (site.cohort.has_genes(r), rows.get(r.case_id, 0))).case_id
    if rows:
        case_id = max(rows, key=lambda name: rows[name])
    try:
        result = measure_dry_run(site, case_id, max(rows.values(), default=0), sum(rows.values()))
    except DataError as failure:
        yield error("dry run", str(failure), "until then the site refuses every round")
        return
    what = f"one training step on one patient{f', {result.rows:,d} patches' if result.rows else ''}"
    yield ok("dry run", f"{what}: {result.seconds:.1f} s on {site.config.device}, {site.config.threads} threads")
    available = memory_available()
    if result.bytes_needed is None or available is None:
        return
    text = f"training needs about {result.bytes_needed / _GB:.1f} GB"
    if result.rows_at_once:
        text += f" ({result.rows_at_once:,d} patches at once)"
    text += f"; {available / _GB:.1f} GB are free"
    if result.bytes_needed > available:
        yield warning("memory", text, "lower limits.max_patches, or give the machine (the container) more memory")
    else:
        yield ok("memory", text)
