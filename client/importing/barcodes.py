"""Samples and their patients: TCGA barcodes, sample sheets, and one sample for each patient."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.importing.outcome import Imported
from memamba_core.errors import DataError

__all__ = ["PRIMARY", "Sample", "choose_samples", "parse_sample", "tissue_source_site"]

PRIMARY = ("01", "03", "09")
"""Types of samples that are read by default: primary tumours, of blood and marrow too."""
TYPES = {
    "01": "primary tumour",
    "02": "recurrent tumour",
    "03": "primary tumour of blood",
    "05": "additional primary",
    "06": "metastasis",
    "07": "additional metastasis",
    "09": "primary tumour of marrow",
    "10": "normal blood",
    "11": "normal tissue",
    "12": "normal buccal cells",
    "14": "normal marrow",
    "20": "control",
}
"""Codes of GDC's sample types, and their names here."""
_BARCODE = re.compile(r"(TCGA[-.]([A-Z0-9]{2})[-.][A-Z0-9]{4})(?:[-.](\d{2})(?:[A-Z].*)?)?", re.IGNORECASE)
_WORDS = (
    ("normal|control|germline", "11"),
    ("recur|relapse|progress", "02"),
    ("metast", "06"),
    ("primary|tumou?r", "01"),
)


@dataclass(frozen=True)
class Sample:
    """Sample of a patient.

    Attributes:
        patient: the patient's identifier.
        kind: code in `TYPES`; '' if unknown.
        is_barcode: a TCGA barcode: names of one type sort by vial and portion.
    """

    patient: str
    kind: str
    is_barcode: bool


def parse_sample(name: str) -> Sample:
    """Return patient and type of a barcode (R writes `.` for `-`); other names are those of patients."""
    match = _BARCODE.fullmatch(name.strip())
    if match is None:
        return Sample(name.strip(), "", is_barcode=False)
    return Sample(match[1].replace(".", "-").upper(), match[3] or "", is_barcode=True)


def sample_kind(words: str) -> str:
    """Return the code for the words of a sample sheet (`Primary Tumor`, `Metastasis`); '' for unknown words."""
    return next((code for pattern, code in _WORDS if re.search(pattern, words, re.IGNORECASE)), "")


def tissue_source_site(patient: str) -> str:
    """Return the tissue source site of a TCGA patient, '' for other identifiers."""
    match = _BARCODE.fullmatch(patient)
    return match[2].upper() if match else ""


def choose_samples(
    imported: Imported,
    file: str,
    names: Sequence[str],
    sheet: Mapping[str, Sample] | None,
    sample_types: Sequence[str] | None,
) -> dict[str, int]:
    """Choose one sample for each patient, and say what is left out.

    Args:
        imported: takes the counts, and a question where patients are lost.
        file: name of the file, for messages.
        names: the samples of the file.
        sheet: sample -> patient and type; None for the barcodes alone.
        sample_types: types that are read, the preferred one first; None for `PRIMARY`.

    Returns:
        Patient -> index into `names`, in their order.

    Raises:
        DataError: no sample is left, or a patient has several samples that nothing tells apart.
    """
    kinds = tuple(sample_types or PRIMARY)
    samples = [(sheet or {}).get(name.strip()) or parse_sample(name) for name in names]
    kept = [i for i, sample in enumerate(samples) if not sample.kind or sample.kind in kinds]
    left_out = Counter(sample.kind for sample in samples if sample.kind and sample.kind not in kinds)
    described = ", ".join(f"{count} {TYPES.get(kind, 'of type')} ({kind})" for kind, count in sorted(left_out.items()))
    if not kept:
        raise DataError(
            f"{file}: none of the {len(names)} samples is of the types {', '.join(kinds)}; they are "
            f"{described or 'none'}. Name the types to read: --sample-types 01,06"
        )
    chosen: dict[str, int] = {}
    several: Counter[str] = Counter()
    unclear = 0
    for i in sorted(kept, key=lambda i: (kinds.index(samples[i].kind) if samples[i].kind else len(kinds), names[i])):
        patient = samples[i].patient
        if patient in chosen:
            several[patient] += 1
            same = samples[chosen[patient]].kind == samples[i].kind
            unclear += same and not (samples[i].is_barcode and names[i] != names[chosen[patient]])
        else:
            chosen[patient] = i
    if unclear:
        raise DataError(
            f"{file}: {unclear} samples belong to a patient who has another sample of the same type, and nothing says "
            "which one to read. Keep one column per patient"
        )
    lost = len({sample.patient for sample in samples} - set(chosen))
    imported.found.append(
        f"{file}: {len(names)} samples, one read of each of {len(chosen)} patients"
        + (f"; left out {described}" if described else "")
        + (
            f"; {len(several)} patients have several that could be read: the first by type and name is"
            if several
            else ""
        )
    )
    if lost:
        imported.ask(
            "genomics",
            f"{file} has {lost} patients without a sample of the types {', '.join(kinds)}; they are left out. To "
            "read other types for them, give --sample-types 01,06 (the first one is preferred).",
        )
    return dict(sorted(chosen.items(), key=lambda item: item[1]))
