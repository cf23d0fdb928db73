"""Find feature files that contradict each other: other patch sizes, an interrupted extraction, copies, zeros."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from memamba_core.data.doubt import Doubt
from memamba_core.data.features.folder_names import list_unfinished
from memamba_core.data.features.layouts import TRIDENT_FOLDER
from memamba_core.data.features.patch_files import PatchFileSample

__all__ = [
    "find_coordinate_doubts",
    "find_folder_doubts",
    "find_listing_doubts",
    "find_sample_doubts",
    "find_second_file_doubts",
]

REPEATED_SHARE = 0.05
"""Share of patches at the place of another patch from which a file raises a doubt. Centroids of nuclei repeat by chance
(1 of 667 in a real file); a file that was written twice has a share of a half."""
FEWEST_ROWS = 4
"""Fewest rows of a file whose rows are compared with each other."""
_CHECK = "feature files"
_MOST_VALUES = 4


def find_listing_doubts(
    files: Mapping[str, Path], second: Mapping[str, Path], folders: Iterable[Path]
) -> Iterator[Doubt]:
    """Yield what the names of the files show; no file is opened.

    Args:
        files: name of a slide -> the file that is read.
        second: name of a slide -> its other file (`.pt` where there is an `.h5`).
        folders: folders that hold the files.
    """
    hdf5 = {name for name, path in files.items() if path.suffix.lower() in (".h5", ".hdf5")}
    alone, others = hdf5 - second.keys(), files.keys() - hdf5
    if alone and second:
        yield Doubt(
            _CHECK,
            f"{len(alone)} of {len(files)} slides have an .h5 file without a .pt file, while {len(second)} have both; "
            "CLAM writes the .pt last, so the extraction of these slides was probably broken off",
            "compare their numbers of patches with those of the coordinates, and extract these slides again",
            tuple(files[name].name for name in sorted(alone)),
        )
    if others and hdf5:
        kinds = ", ".join(sorted({files[name].suffix.lower() for name in others}))
        yield Doubt(
            _CHECK,
            f"{len(others)} of {len(files)} slides have no .h5 file, only {kinds}, while {len(hdf5)} slides have one; "
            "the two kinds may come from different extractions or encoders",
            "extract these slides again, or point data.features.path to one of the two folders",
            tuple(files[name].name for name in sorted(others)),
        )
    unfinished = [name for folder in folders for name in list_unfinished(folder)]
    if unfinished:
        suffixes = Counter(Path(name).suffix.lower() for name in unfinished)
        listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))
        yield Doubt(
            _CHECK,
            f"the folder holds files that are not complete ({listed}); their slides may lack features",
            "wait until the copy or the extraction has finished, or start it again",
            tuple(unfinished),
        )


def find_sample_doubts(samples: Mapping[Path, PatchFileSample]) -> Iterator[Doubt]:
    """Yield what headers, sampled rows and coordinates of the files show.

    Args:
        samples: file of a slide -> its sample.
    """
    yield from _contradictions(samples)
    total = len(samples)
    zeros = _names(samples, lambda sample: bool(sample.num_zero))
    if zeros:
        yield Doubt(
            _CHECK,
            f"{len(zeros)} of {total} files hold rows of zeros, among the few rows that were looked at",
            "remove padding, or extract these slides again: the encoder failed on these patches",
            zeros,
        )
    constant = _names(samples, lambda sample: sample.constant and sample.facts.num_patches >= FEWEST_ROWS)
    if constant:
        yield Doubt(
            _CHECK,
            f"{len(constant)} of {total} files hold the same features in every row that was looked at",
            "check how the patches of these slides were read, and extract the slides again",
            constant,
        )
    copies = Counter(s.digest for s in samples.values() if s.digest and not (s.constant or s.num_zero))
    twice = {digest for digest, count in copies.items() if count > 1}
    copied = _names(samples, lambda sample: sample.digest in twice)
    if copied:
        yield Doubt(
            _CHECK,
            f"{len(copied)} of {total} files hold the same features as the file of another slide",
            "check whether a file was copied under a second name, and extract the right slide",
            copied,
        )
    repeated = {p: s for p, s in samples.items() if s.num_repeated > REPEATED_SHARE * s.facts.num_patches}
    if repeated:
        rows = sum(s.num_repeated for s in repeated.values())
        yield Doubt(
            _CHECK,
            f"coordinates repeat within {len(repeated)} of {total} files: {rows:,} patches lie where another patch "
            "lies, as if the patches were written twice",
            "remove these files and extract the slides again; a program that appends writes old and new patches",
            tuple(path.name for path in repeated),
        )


def find_second_file_doubts(pairs: Mapping[Path, tuple[PatchFileSample, PatchFileSample]]) -> Iterator[Doubt]:
    """Yield whether the two files of the same slides differ.

    Args:
        pairs: the file that is read -> its sample, and that of the other file of the same slide.
    """
    rows = [p.name for p, (a, b) in pairs.items() if a.facts.num_patches != b.facts.num_patches]
    width = [p.name for p, (a, b) in pairs.items() if a.facts.width != b.facts.width]
    values = [
        p.name
        for p, (a, b) in pairs.items()
        if a.digest != b.digest
        and (a.facts.num_patches, a.facts.width) == (b.facts.num_patches, b.facts.width)
        and "bfloat16" not in (a.facts.dtype, b.facts.dtype)
    ]
    files = tuple(dict.fromkeys([*rows, *width, *values]))
    if files:
        counts = ((rows, "in the number of patches"), (width, "in the width"), (values, "in the values"))
        differ = ", ".join(f"{len(names)} {what}" for names, what in counts if names)
        yield Doubt(
            _CHECK,
            f"the .h5 and the .pt files of {len(files)} of {len(pairs)} slides differ ({differ}); "
            "the .h5 files are read",
            "find out which of the two is right; CLAM skips slides that have a .pt file, even of another encoder",
            files,
        )


def find_coordinate_doubts(pairs: Mapping[Path, tuple[int, int]]) -> Iterator[Doubt]:
    """Yield whether files hold fewer patches than were cut from their slides.

    Args:
        pairs: file of a slide that has coordinates -> the number of patches with features, and of coordinates.
    """
    short = tuple(path.name for path, (features, coordinates) in pairs.items() if features < coordinates)
    if short:
        yield Doubt(
            _CHECK,
            f"{len(short)} of {len(pairs)} files hold fewer patches than the folder `patches` has coordinates of the "
            "same slide; the extraction of these slides was probably broken off",
            "extract these slides again",
            short,
        )


def find_folder_doubts(samples: Mapping[Path, PatchFileSample]) -> Iterator[Doubt]:
    """Yield whether the name of a TRIDENT folder contradicts what its files record.

    Args:
        samples: file of a slide -> its sample.
    """
    found = defaultdict[str, list[str]](list)
    for path, sample in samples.items():
        said = next((m for f in path.parents[:2] if (m := TRIDENT_FOLDER.match(f.name))), None)
        recorded = dict(sample.facts.origin)
        for index, name in enumerate(("target_magnification", "patch_size", "overlap"), start=1):
            value = recorded.get(name, "").strip().rstrip("xX")
            if said is not None and said[index] is not None and value and float(said[index]) != _number(value):
                found[f"{name} is {value} in the files, {said[index]} in the name of the folder"].append(path.name)
    for text, names in found.items():
        yield Doubt(
            _CHECK,
            f"{len(names)} of {len(samples)} files contradict their folder: {text}",
            "find out which of the two is right, and correct the name of the folder or extract again",
            tuple(names),
        )


def _names(samples: Mapping[Path, PatchFileSample], chosen: Callable[[PatchFileSample], bool]) -> tuple[str, ...]:
    """Return the names of the files whose samples are chosen."""
    return tuple(path.name for path, sample in samples.items() if chosen(sample))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _contradictions(samples: Mapping[Path, PatchFileSample]) -> Iterator[Doubt]:
    """Yield settings of the extraction that differ between files of one kind."""
    found = defaultdict[str, dict[str, list[str]]](lambda: defaultdict(list))
    for path, sample in samples.items():
        suffix, facts = path.suffix.lower(), sample.facts
        recorded = dict(facts.origin) | ({} if facts.encoder is None else {"encoder": "recorded"})
        for name in (*recorded, *(("type of the values",) if facts.num_patches else ())):
            found[f"{name} ({suffix})"][recorded.get(name, facts.dtype)].append(path.name)
    for name, values in found.items():
        label, _, suffix = name.rpartition(" (")
        known = {file for files in values.values() for file in files}
        absent = [p.name for p in samples if p.suffix.lower() == suffix.rstrip(")") and p.name not in known]
        if label != "type of the values" and absent:
            values["absent"] = absent
        if len(values) > 1:
            ranked = sorted(values.items(), key=lambda item: -len(item[1]))
            listed = ", ".join(f"{value} in {len(files)}" for value, files in ranked[:_MOST_VALUES])
            yield Doubt(
                _CHECK,
                f"the files come from different extractions: {label} is {listed} files",
                "extract all slides with the same settings, or point data.features.path to one extraction",
                tuple(file for _, files in ranked[1:] for file in files),
            )
