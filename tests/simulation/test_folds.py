"""Test folds: no patient is tested twice, folds are even, and contradictory split files are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config.site import ClinicalTable, GenomicsTable, SiteDataConfig
from memamba_core.data.manifest import load_cohort
from memamba_core.data.records import Cohort, PatientRecord
from memamba_core.errors import ConfigError, DataError
from simulation.folds import assign_folds


def cohort_of(events: list[bool]) -> Cohort:
    return Cohort(tuple(PatientRecord(f"P{i:04d}", float(i), event, fold=99) for i, event in enumerate(events)))


def folds_of(cohort: Cohort) -> dict[str, int | None]:
    return {r.case_id: r.fold for r in cohort.records}


def assign(cohort: Cohort, source: str, *, splits=None, num_folds=5, seed=0, sites=None) -> Cohort:
    return assigned(cohort, source, splits=splits, num_folds=num_folds, seed=seed, sites=sites)[0]


def assigned(cohort: Cohort, source: str, *, splits=None, num_folds=5, seed=0, sites=None):
    """The cohort with folds, and the warnings."""
    return assign_folds(cohort, source=source, splits=splits, num_folds=num_folds, seed=seed, sites=sites or {})


def write_splits(folder, *folds: tuple[list[str], list[str]]):
    """Files as MCAT publishes them: an unnamed counter, and two columns of which the shorter is padded."""
    folder.mkdir(exist_ok=True)
    for k, (train, val) in enumerate(folds):
        rows = [
            f"{i},{(train[i : i + 1] or [''])[0]},{(val[i : i + 1] or [''])[0]}"
            for i in range(max(len(train), len(val)))
        ]
        (folder / f"splits_{k}.csv").write_text("\n".join([",train,val", *rows]) + "\n")
    return folder


@given(st.lists(st.booleans(), min_size=2, max_size=80), st.integers(2, 12), st.integers(0, 99), st.randoms())
def test_random_folds_are_balanced_and_the_order_of_the_table_plays_no_part(events, num_folds, seed, random):
    cohort = cohort_of(events)
    if num_folds > len(events):
        with pytest.raises(ConfigError, match=rf"num_folds={num_folds}, but the cohort has {len(events)}"):
            assign(cohort, "random", num_folds=num_folds, seed=seed)
        return
    assigned = assign(cohort, "random", num_folds=num_folds, seed=seed)
    assert [r.case_id for r in assigned.records] == [r.case_id for r in cohort.records]
    for group in ([True], [False], [True, False]):
        sizes = [sum(r.fold == k and r.event in group for r in assigned.records) for k in range(num_folds)]
        assert sum(sizes) == sum(e in group for e in events)
        assert max(sizes) - min(sizes) <= 1
    shuffled = list(cohort.records)
    random.shuffle(shuffled)
    again = assign(Cohort(tuple(shuffled)), "random", num_folds=num_folds, seed=seed)
    assert folds_of(again) == folds_of(assigned)


def test_the_seed_decides_random_folds():
    cohort = cohort_of([i % 3 == 0 for i in range(60)])
    assert folds_of(assign(cohort, "random", seed=1)) != folds_of(assign(cohort, "random", seed=2))


@given(st.lists(st.integers(1, 30), min_size=2, max_size=30), st.integers(2, 6))
def test_site_grouped_folds_hold_out_whole_sites_evenly(sizes, num_folds):
    cohort = cohort_of([i % 2 == 0 for i in range(sum(sizes))])
    case_ids = iter(r.case_id for r in cohort.records)
    sites = {f"site-{i:02d}": tuple(next(case_ids) for _ in range(size)) for i, size in enumerate(sizes)}
    if len(sizes) < num_folds:
        with pytest.raises(ConfigError, match=rf"num_folds={num_folds}, but there are {len(sizes)} sites"):
            assign(cohort, "site_grouped", num_folds=num_folds, sites=sites)
        return
    fold_of = folds_of(assign(cohort, "site_grouped", num_folds=num_folds, sites=sites))
    for members in sites.values():
        assert len({fold_of[case_id] for case_id in members}) == 1
    held_out = [sum(fold == k for fold in fold_of.values()) for k in range(num_folds)]
    assert min(held_out) > 0
    assert max(held_out) - min(held_out) <= max(sizes)
    reversed_sites = dict(reversed(sites.items()))
    assert folds_of(assign(cohort, "site_grouped", num_folds=num_folds, sites=reversed_sites)) == fold_of


def test_without_split_files_the_cohort_source_is_random():
    cohort = cohort_of([i % 3 == 0 for i in range(40)])
    assert folds_of(assign(cohort, "cohort")) == folds_of(assign(cohort, "random"))


def test_the_fold_is_the_file_whose_val_holds_the_patient(tmp_path):
    a, b, c, d, outsider = "P0000", "P0001", "P0002", "P0003", "P9999"
    folds = ([b, c, outsider], [a]), ([a, outsider], [b, c]), ([a, b, c], [outsider])
    splits = write_splits(tmp_path / "splits", *folds)
    cohort, warnings = assigned(cohort_of([True, False, True, False]), "cohort", splits=splits)
    assert folds_of(cohort) == {a: 0, b: 1, c: 1, d: None}
    assert [warning.partition(" in ")[0] for warning in warnings] == ["1 patients are", "1 patients of the splits"]
    assert not any(case_id in warning for case_id in (a, b, c, d, outsider) for warning in warnings)


def test_split_files_that_contradict_each_other_are_refused(tmp_path):
    a, b, c, d = "P0000", "P0001", "P0002", "P0003"
    cohort = cohort_of([True, False, True, False])
    good = (([c, d], [a, b]), ([a, b], [c, d]))
    assigned = assign(cohort, "cohort", splits=write_splits(tmp_path / "good", *good))
    assert folds_of(assigned) == {a: 0, b: 0, c: 1, d: 1}
    for first, second, message in (
        (
            ([c, d], [a, b]),
            ([a], [c, d, b]),
            r"s_1\.csv: column 'val' repeats .* another file's val in row 3",
        ),
        (
            ([c, d, b], [a, b]),
            ([a, b], [c, d]),
            r"s_0\.csv: column 'val' repeats a patient of train in row 2",
        ),
        (([c, d], [a, b, a]), ([a, b], [c, d]), r"s_0\.csv: column 'val' repeats a patient in row 3"),
        (([c, c, d], [a, b]), ([a, b], [c, d]), r"s_0\.csv: column 'train' repeats a patient in row 2"),
        (([c], [a, b]), ([a, b], [c, d]), r"s_0\.csv: column 'train' lacks 1 patients"),
        (([c, d], [a]), ([a, b], [c, d]), r"s_1\.csv: column 'train' .* are tested in no split in row 2"),
    ):
        folder = write_splits(tmp_path / "bad", first, second)
        with pytest.raises(DataError, match=message) as error:
            assign(cohort, "cohort", splits=folder)
        assert not any(case_id in str(error.value) for case_id in (a, b, c, d))


def test_split_files_that_are_not_there_or_of_another_cohort(tmp_path):
    cohort = cohort_of([True, False])
    with pytest.raises(ConfigError, match=r"found 0 files.*fold_source=random"):
        assign(cohort, "cohort", splits=tmp_path / "absent")
    folder = write_splits(tmp_path / "gap", (["b"], ["a"]), (["a"], ["b"]))
    with pytest.raises(DataError, match=r"none of the cohort's 2 patients is in these splits \(2 patients\)"):
        assign(cohort, "cohort", splits=folder)
    (folder / "splits_1.csv").rename(folder / "splits_2.csv")
    with pytest.raises(ConfigError, match=r"found 2 files splits_\*\.csv, but not splits_1\.csv"):
        assign(cohort, "cohort", splits=folder)
    (folder / "splits_2.csv").rename(folder / "splits_1.csv")
    (folder / "splits_1.csv").write_text(",train,held\n0,a,b\n")
    with pytest.raises(DataError, match=r"splits_1\.csv: no column 'val'"):
        assign(cohort, "cohort", splits=folder)


A, B, C, D = "P0000", "P0001", "P0002", "P0003"
FOUR = cohort_of([True, False, True, False])


def write(folder, **files):
    for name, text in files.items():
        path = folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def rows(*case_ids):
    """A table of MMP: one row per slide."""
    return "case_id,slide_id,os_survival_days\n" + "".join(f"{c},{c}-DX{n},5\n" for c in case_ids for n in (1, 2))


def test_other_files_of_a_clam_folder_are_ignored(tmp_path):
    folder = write_splits(tmp_path, ([C, D], [A, B]), ([A, B], [C, D]))
    for k in (0, 1):
        write(
            folder, **{f"splits_{k}_bool": f",train,val\n{A},True,False\n", f"splits_{k}_descriptor": ",train\na,1\n"}
        )
    assert folds_of(assign(FOUR, "cohort", splits=folder)) == {A: 0, B: 0, C: 1, D: 1}


def test_of_three_groups_test_is_held_out_and_val_is_trained_on(tmp_path):
    write(tmp_path, splits_0=f",train,val,test\n0,{B},{C},{A}\n1,{D},,\n")
    write(tmp_path, splits_1=f",train,val,test\n0,{A},,{B}\n1,,,{C}\n2,,,{D}\n")
    cohort, warnings = assigned(FOUR, "cohort", splits=tmp_path)
    assert folds_of(cohort) == {A: 0, B: 1, C: 1, D: 1}
    assert len(warnings) == 1
    assert "val patients" in warnings[0]
    assert "are trained on" in warnings[0]


def test_an_empty_test_column_leaves_val_held_out(tmp_path):
    write(tmp_path, splits_0=f",train,val,test\n0,{C},{A},\n1,{D},{B},\n")
    write(tmp_path, splits_1=f",train,val,test\n0,{A},{C},\n1,{B},{D},\n")
    assert assigned(FOUR, "cohort", splits=tmp_path)[1] == ()


@pytest.mark.parametrize("path", ["survival", "survival/BLCA_overall", "survival/BLCA_overall_k=0"])
def test_folders_of_mmp(tmp_path, path):
    write(tmp_path / "survival/BLCA_overall_k=0", train=rows(C, D), test=rows(A, B))
    write(tmp_path / "survival/BLCA_overall_k=1", train=rows(A, B), test=rows(C, D))
    assert folds_of(assign(FOUR, "cohort", splits=tmp_path / path)) == {A: 0, B: 0, C: 1, D: 1}


def test_folders_of_several_cohorts_are_listed(tmp_path):
    for name in ("BLCA_k=0", "BRCA_k=0"):
        write(tmp_path / name, train=rows(C, D), test=rows(A, B))
    with pytest.raises(ConfigError, match=r"holds splits of BLCA, BRCA\. Name one of them: FOLDER/BLCA; or correct"):
        assign(FOUR, "cohort", splits=tmp_path)
    write(tmp_path / "BLCA_k=2", train=rows(C, D), test=rows(A, B))
    with pytest.raises(ConfigError, match=r"found 2 folders BLCA_k=\*, but not BLCA_k=1"):
        assign(FOUR, "cohort", splits=tmp_path / "BLCA")


@pytest.mark.parametrize(
    "files",
    [
        {"splits_0": f",train,val\n0,{C},{A}\n1,{D},{B}\n"},
        {"one": f"train,test\n{C},{A}\n{D},{B}\n"},
        {"train": rows(C, D), "test": rows(A, B)},
        {"train": rows(C), "val": rows(D), "test": rows(A, B)},
        {"train": f"slide_id\n{C}.svs\n{D}.svs\n", "val": f"slide_id\n{A}.svs\n{B}.svs\n"},
    ],
)
def test_one_split_tests_fold_0_only(tmp_path, files):
    write(tmp_path, **files)
    path = tmp_path / "one.csv" if "one" in files else tmp_path
    options = {"source": "cohort", "splits": path, "num_folds": 5, "seed": 0, "sites": {}}
    slides = Cohort(tuple(PatientRecord(r.case_id, 5.0, r.event, slides=(r.case_id,)) for r in FOUR.records))
    assert folds_of(assign_folds(slides, **options)[0]) == {A: 0, B: 0, C: 1, D: 1}
    with pytest.raises(ConfigError, match=r"folds=\[0, 1\]: .* is one split .* only folds=\[0\]"):
        assign_folds(slides, **options, folds=(0, 1))


def test_splits_of_slides_that_tear_a_patient_apart_are_refused(tmp_path):
    write(tmp_path, splits_0=",train,val\n0,a1,a2\n1,b1,\n")
    cohort = Cohort((PatientRecord("a", 5.0, True, slides=("a1", "a2")), PatientRecord("b", 5.0, True, slides=("b1",))))
    with pytest.raises(DataError, match=r"column 'val' repeats a patient of train in row 1\."):
        assign(cohort, "cohort", splits=tmp_path)


def test_empty_groups_are_refused(tmp_path):
    write(tmp_path, splits_0=f",train,val\n0,{C},\n1,{D},\n")
    with pytest.raises(DataError, match=r"splits_0\.csv: train, or val and test, are empty"):
        assign(FOUR, "cohort", splits=tmp_path)


def test_near_misses_are_counted(tmp_path):
    folder = write_splits(tmp_path, (["p0002", "p0003"], ["p0000", B]), (["p0000", B], ["p0002", "p0003"]))
    cohort, (without, ignored) = assigned(FOUR, "cohort", splits=folder)
    assert sum(r.fold is None for r in cohort.records) == 3
    assert without.startswith("3 patients are in no split")
    assert "3 patients of the splits" in ignored
    assert "; 3 would ignoring case: write capital and small letters alike" in ignored
    folder = write_splits(tmp_path, (["p0002", "p0003"], ["p0000"]), (["p0000"], ["p0002", "p0003"]))
    with pytest.raises(DataError, match=r"none of the cohort's 4 patients .* 3 would ignoring case"):
        assign(FOUR, "cohort", splits=folder)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("cohort_name", "table"),
    [
        ("tcga_blca", "tcga_blca_mcat"),
        pytest.param("tcga_luad", "tcga_luad_mcat", marks=pytest.mark.ci_slow),
        pytest.param("tcga_ucec", "tcga_ucec_mcat", marks=pytest.mark.ci_slow),
        pytest.param("tcga_brca", "tcga_brca_porpoise", marks=pytest.mark.ci_slow),
        pytest.param("tcga_gbmlgg", "tcga_gbmlgg_porpoise", marks=pytest.mark.ci_slow),
    ],
)
def test_the_published_splits_hold_every_patient_once(data_root, cohort_name, table):
    config = SiteDataConfig(
        root=data_root / "cohorts",
        clinical=ClinicalTable(file=f"{table}.csv.gz"),
        genomics=GenomicsTable(file=f"{table}.csv.gz"),
    )
    cohort = load_cohort(config)
    with_folds, warnings = assigned(cohort, "cohort", splits=data_root / "splits" / cohort_name)
    sizes = [sum(r.fold == k for r in with_folds.records) for k in range(5)]
    assert sum(sizes) == len(cohort.records)
    assert max(sizes) - min(sizes) <= 2
    assert warnings == ()
