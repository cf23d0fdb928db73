"""`flower-client cohort`: show the blocks of this site's patients, record a withdrawal, draw the blocks again."""

from collections.abc import Sequence

from memamba_core.config.site import SiteConfig
from memamba_core.data.clinical.table import read_clinical
from memamba_core.data.identifiers.canonical import canonical
from memamba_core.data.records import Cohort
from memamba_core.errors import ConfigError

from .cohort_registry import CohortRegistry
from .cohort_status import REFREEZE_COST, CohortStatus
from .site import Site, open_site

__all__ = ["refreeze_cohort", "show_cohort", "withdraw_patients"]


def show_cohort(config: SiteConfig) -> list[str]:
    """Describe the blocks as the next run will find them.

    Raises:
        DataError: the tables do not match `site.yaml`.
        TamperedLogError: the registry was edited or removed.
    """
    site, registry = _open(config)
    if config.privacy is not None:
        withdrawn = len(registry.read().withdrawn)
        return [
            f"{len(site.cohort.records)} patients in the tables; {withdrawn} withdrew.",
            "Under differential privacy every patient who did not withdraw trains in every fold: there are no blocks.",
        ]
    status = registry.plan(site.cohort)
    lines = list(_describe(status, site.cohort))
    if not registry.read().generation:
        lines.insert(0, "Nothing is drawn yet. The first approved run will draw blocks of these sizes:")
    for entry in status.frozen.history if registry.read().generation else ():
        reason = f" ({entry['reason']})" if entry["reason"] else ""
        counts = _patients(entry["patients"]) + (f" in {entry['blocks']} blocks" if entry["blocks"] else "")
        lines.append(f"  {entry['time']}  {entry['action']}: {counts}{reason}")
    return lines


def withdraw_patients(config: SiteConfig, case_ids: Sequence[str], *, confirmed: bool) -> list[str]:
    """Record that patients withdrew.

    Args:
        config: of the site.
        case_ids: identifiers as in the clinical table.
        confirmed: False only states the cost.

    Raises:
        ConfigError: an identifier is not in the clinical table and never was in a block.
        DataError: the tables do not match `site.yaml`.
    """
    _, registry = _open(config)
    case_ids = tuple(dict.fromkeys(map(canonical, case_ids)))
    known = {record.case_id for record in read_clinical(config.data.clinical, config.data.root)}
    if unknown := [case_id for case_id in case_ids if case_id not in known and not registry.knows(case_id)]:
        raise ConfigError(
            f"{len(unknown)} of {len(case_ids)} identifiers are neither in the clinical table nor in a block, the "
            f"first is {unknown[0]!r}; write them as the column of case ids has them"
        )
    retired = registry.blocks_of(case_ids)
    lines = [f"{_patients(len(case_ids))}: no run uses the data from now on."]
    if retired:
        sizes, others = [str(size) for size, _ in retired], sum(size - held for size, held in retired)
        where = " in runs without differential privacy" if config.privacy is not None else ""
        lines.append(
            f"{len(retired)} block{'s' * (len(retired) > 1)} of {' and '.join(sizes)} patients "
            f"{'are' if len(retired) > 1 else 'is'} retired with them, for good: {others} more patients train no "
            f"more{where}, because an answer over a block less one patient would disclose this patient."
        )
    lines.append(
        "Answers that left before stay with the coordinator: a model that was trained on a patient is not trained "
        "again without the patient. Ask the coordinator to delete it where that is required."
    )
    if not confirmed:
        return [*lines, "Nothing was recorded. Repeat the command with --yes to record the withdrawal."]
    registry.withdraw(case_ids)
    return [*lines, "Recorded. A client that is running follows with its next answer."]


def refreeze_cohort(config: SiteConfig, reason: str, *, confirmed: bool) -> list[str]:
    """Draw all blocks again from the patients in the tables who did not withdraw.

    Args:
        config: of the site.
        reason: for the history, and for the next approval.
        confirmed: False only states the cost.

    Raises:
        ConfigError: no reason is given.
        DataError: the tables do not match `site.yaml`.
    """
    if not reason.strip() or len(reason) > 200 or not reason.isprintable():
        raise ConfigError("--reason must be one line of 1 to 200 characters; it stands in the history of the cohort")
    site, registry = _open(config)
    if not confirmed:
        return [REFREEZE_COST, "Nothing was drawn. Repeat the command with --yes to draw the blocks again."]
    registry.refreeze(site.cohort, reason)
    return [*_describe(registry.status(site.cohort), site.cohort), "Every run asks for a new approval."]


def _open(config: SiteConfig) -> tuple[Site, CohortRegistry]:
    site = open_site(config)
    if site.registry is None:
        raise ConfigError("site.yaml names no state folder, the one writable folder; add `state: state`")
    return site, site.registry


def _describe(status: CohortStatus, cohort: Cohort) -> list[str]:
    events = {record.case_id for record in cohort.records if record.event}
    lines = [f"{'block':>7}  {'test fold':>9}  {'patients':>8}  {'events':>6}"]
    for number, block in enumerate(status.usable, 1):
        fold = "none" if block.fold is None else str(block.fold)
        lines.append(f"{number:>7}  {fold:>9}  {len(block.case_ids):>8}  {len(block.case_ids & events):>6}")
    for aside in status.set_aside:
        reasons = [
            text
            for count, text in (
                (aside.withdrawn, f"{aside.withdrawn} withdrew"),
                (aside.missing, f"{aside.missing} not in the tables"),
                (aside.changed, f"{aside.changed} with other data than at the draw"),
                (aside.below, "below the thresholds of today"),
            )
            if count
        ]
        lines.append(f"  set aside: a block of {aside.patients} patients ({', '.join(reasons)})")
    if status.reader_notice:
        lines.append(
            f"  {_capitalised(status.reader_notice)}. If the files are those of the draw, and this release reads them "
            "right, draw the blocks again with `flower-client cohort refreeze site.yaml --reason TEXT`."
        )
        lines.append(f"  {REFREEZE_COST}")
    if any(aside.missing or aside.changed for aside in status.set_aside):
        lines.append(
            "  A block is used again when the tables hold its patients as they were. If a patient withdrew, record it "
            "with `cohort withdraw`; newcomers wait until then."
        )
    if status.waiting:
        verb = "waits until newcomers" if len(status.waiting) == 1 else "wait until they"
        lines.append(f"  {_patients(len(status.waiting))} {verb} fill a block of their own.")
    return lines


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _patients(count: int) -> str:
    return f"{count} patient{'s' * (count != 1)}"
