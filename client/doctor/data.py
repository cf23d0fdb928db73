"""Is this hospital's data fit for a federation: what was found, what is missing, and does one patient go through.

The findings name files and columns, for the hospital's own screen.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from client.site import HASH_FOLDS, Site
from memamba_core.data.clinical import read_clinical
from memamba_core.data.features import PatchFolder
from memamba_core.data.patch_files import inspect_patch_file
from memamba_core.data.records import Cohort, PatientRecord
from memamba_core.errors import DataError
from memamba_core.privacy.disclosure import may_disclose_outcomes

from .dry_run import measure_dry_run, memory_available
from .finding import Finding, error, ok, warning

__all__ = ["check_data"]

_NAMED = 3
_GB = 1e9


def check_data(site: Site) -> Iterator[Finding]:
    """Look at tables and features that could be read at all.

    Args:
        site: as `open_site` gives it.
    """
    yield from _patients(site)
    yield from _genes(site.cohort)
    sizes = _Sizes.of(site.cohort)
    yield from _slides(site.cohort, sizes)
    yield from _thresholds(site)
    yield from _dry_run(site, sizes)


def _patients(site: Site) -> Iterator[Finding]:
    data, cohort = site.config.data, site.cohort
    total, used, events = len(read_clinical(data.clinical, data.root)), len(cohort.records), cohort.num_events
    months = np.array([r.time_months for r in cohort.records])
    median, longest = np.median(months), months.max()
    yield ok("patients", f"{used}, with {events} events; follow-up {median:.0f} months (median), at most {longest:.0f}")
    if used < total:
        yield warning(
            "patients",
            f"{total - used} of {total} patients are left out: they have neither molecular data nor features",
            "compare the identifiers of the tables, if that is more than you expect",
        )
    if events in (0, used):
        yield error(
            "events",
            f"{'nobody' if not events else 'everybody'} had the event",
            f"check the column {data.clinical.event!r} and data.clinical.event_means={data.clinical.event_means}",
        )
    else:
        yield ok(
            "events",
            f"{events} of {used} patients ({events / used:.0%}) had the event. If that is the number of those who did "
            "not, data.clinical.event_means is the wrong way round",
        )


def _genes(cohort: Cohort) -> Iterator[Finding]:
    if cohort.genes is None:
        yield ok("molecular data", "none, as site.yaml says")
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


@dataclass(frozen=True)
class _Sizes:
    """Rows of each patient's bag, and the files that could not be counted."""

    rows: dict[str, int]
    damaged: tuple[DataError, ...] = ()

    @classmethod
    def of(cls, cohort: Cohort) -> "_Sizes":
        """Reads the shapes of all feature files, not the features."""
        store, rows, damaged = cohort.features, dict[str, int](), list[DataError]()
        for record in filter(cohort.has_slides, cohort.records):
            if isinstance(store, PatchFolder):
                rows[record.case_id] = 0
                for slide in (s for s in record.slides if s in store.files):
                    try:
                        rows[record.case_id] += inspect_patch_file(store.files[slide]).num_patches
                    except DataError as failure:
                        damaged.append(failure)
            elif store is not None:
                bag = store.load(record)
                rows[record.case_id] = 0 if bag is None else len(bag.patches_PF)
        return cls(rows, tuple(damaged))


def _slides(cohort: Cohort, sizes: _Sizes) -> Iterator[Finding]:
    store = cohort.features
    if store is None:
        yield ok("slides", "none, as site.yaml says")
        return
    largest = max(sizes.rows.values())
    yield ok(
        "slides",
        f"{len(sizes.rows)} of {len(cohort.records)} patients; features {store.encoder}, {store.width} wide; bags of "
        f"{np.median(list(sizes.rows.values())):,.0f} patches (median), at most {largest:,d}",
    )
    absent = [slide for r in cohort.records for slide in r.slides if not store.has(_alone(r, slide))]
    named = sum(len(r.slides) for r in cohort.records)
    if absent:
        yield warning(
            "feature files",
            f"{len(absent)} of {named} slides in the table have no features: {', '.join(absent[:_NAMED])}"
            + (", ..." if len(absent) > _NAMED else ""),
            "extract them, or compare their names with the files, if that is more than you expect",
        )
    for failure in sizes.damaged[:_NAMED]:
        yield error("feature files", str(failure), "the site refuses every round until then")
    if len(sizes.damaged) > _NAMED:
        yield error("feature files", f"{len(sizes.damaged) - _NAMED} more files like these", "as above")
    if not absent and not sizes.damaged:
        yield ok("feature files", f"there and readable for all {named} slides" if named else "there and readable")


def _thresholds(site: Site) -> Iterator[Finding]:
    """What the site's own floors will do to it."""
    thresholds, records = site.config.disclosure, site.cohort.records
    folds = sorted({r.fold for r in records if r.fold is not None}) or list(range(HASH_FOLDS))
    everybody = len(site.training_cohort(-1, seed=0).records)
    without = {fold: len(site.training_cohort(fold, seed=0).records) for fold in folds}
    too_few = [fold for fold, count in without.items() if count < thresholds.min_round_patients]
    if site.config.privacy is None and everybody < thresholds.min_round_patients:
        yield error(
            "thresholds",
            f"with {everybody} training patients this site refuses every round: disclosure.min_round_patients is "
            f"{thresholds.min_round_patients}, because weights of so few could be turned back into patients",
            "join with another hospital, or take part with differential privacy (section privacy)",
        )
    elif site.config.privacy is None and too_few:
        kept = "a test fold" if len(too_few) == len(without) else f"test fold {' or '.join(map(str, too_few))}"
        yield warning(
            "thresholds",
            f"{everybody} training patients, enough for a run on all of them, the default. In a run with {kept} there "
            f"are {min(without.values())} or more, the floor is {thresholds.min_round_patients}, and this site refuses",
            "nothing; tell the coordinator, if the run shall keep a fold for testing",
        )
    elif not may_disclose_outcomes(thresholds, len(records), events := site.cohort.num_events):
        yield warning(
            "thresholds",
            f"{len(records)} patients, {events} with and {len(records) - events} without the event; thresholds are "
            f"{thresholds.min_patients}, {thresholds.min_events} and {thresholds.min_events}: this site sends "
            "weights, and zeros for sums",
            "nothing; the federation goes on without this site's sums",
        )
    else:
        yield ok(
            "thresholds",
            f"{everybody} training patients, {min(without.values())} or more if a run keeps a fold for testing; the "
            f"floor is {thresholds.min_round_patients}",
        )


def _dry_run(site: Site, sizes: _Sizes) -> Iterator[Finding]:
    """One patient, from the files to a gradient."""
    records = site.cohort.records
    case_id = max(records, key=lambda r: (site.cohort.has_genes(r), sizes.rows.get(r.case_id, 0))).case_id
    if sizes.rows:
        case_id = max(sizes.rows, key=lambda name: sizes.rows[name])
    try:
        done = measure_dry_run(site, case_id, max(sizes.rows.values(), default=0), sum(sizes.rows.values()))
    except DataError as failure:
        yield error("dry run", str(failure), "the site refuses every round until then")
        return
    what = f"a step of training on one patient{f', {done.rows:,d} patches' if done.rows else ''}"
    yield ok("dry run", f"{what}: {done.seconds:.1f} s on {site.config.device}, {site.config.threads} threads")
    available = memory_available()
    if done.bytes_needed is None or available is None:
        return
    text = f"training needs about {done.bytes_needed / _GB:.1f} GB"
    if done.rows_at_once:
        text += f" ({done.rows_at_once:,d} patches at once)"
    text += f"; {available / _GB:.1f} GB are free"
    if done.bytes_needed > available:
        yield warning("memory", text, "lower limits.max_patches, or give the machine (the container) more memory")
    else:
        yield ok("memory", text)


def _alone(record: PatientRecord, slide: str) -> PatientRecord:
    return replace(record, slides=(slide,))
