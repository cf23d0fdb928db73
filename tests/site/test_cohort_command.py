"""`flower-client cohort`: what the operator of a hospital sees and confirms."""

import shutil
import unicodedata

import pandas as pd
import pytest
import yaml

from client import cohort_registry
from client.cli import main
from client.doctor.report import examine
from memamba_core.config.compose import compose_simulation
from simulation.cohort import prepare_cohort
from simulation.export import export_sites


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One hospital of 60 patients with thresholds that allow some blocks."""
    config = compose_simulation(
        ("data.synthetic.num_patients=60", "data.synthetic.num_sites=1", "partition=iid", "partition.num_sites=1")
    )
    cohort = prepare_cohort(config)
    case_ids = {name: tuple(r.case_id for r in site.cohort.records) for name, site in cohort.sites.items()}
    (folder,) = export_sites(cohort.cohort, config.data, case_ids, tmp_path_factory.mktemp("sites") / "out")
    settings = yaml.safe_load((folder / "site.yaml").read_text())
    settings["disclosure"] |= {"min_patients": 5, "min_events": 2, "min_round_patients": 10}
    (folder / "site.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def site(exported):
    for path in (exported / "state").glob("cohort*"):
        path.unlink()
    return exported / "site.yaml"


def cohort(capsys, *arguments):
    """Call the command; return its exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as end:
        main(["cohort", *map(str, arguments)])
    return end.value.code, *capsys.readouterr()


def test_before_the_first_run_the_plan_is_shown_and_nothing_is_drawn(site, capsys):
    code, out, _ = cohort(capsys, "show", site)
    assert code == 0
    assert out.startswith("Nothing is drawn yet.")
    assert out.count("\n") == 7, "two lines of heading and five blocks"
    assert not (site.parent / "state" / "cohort.json").exists()


def test_a_withdrawal_states_what_it_costs_and_asks(site, capsys):
    cohort(capsys, "refreeze", site, "--reason", "first", "--yes")
    patient = pd.read_csv(site.parent / "clinical.csv")["case_id"][0]
    code, out, _ = cohort(capsys, "withdraw", site, patient)
    assert code == 0
    assert "1 block of 12 patients is retired" in out
    assert "11 more patients train no more" in out
    assert "Nothing was recorded" in out
    assert "set aside" not in cohort(capsys, "show", site)[1]
    assert "Recorded." in cohort(capsys, "withdraw", site, patient, "--yes")[1]
    shown = cohort(capsys, "show", site)[1]
    assert "set aside: a block of 12 patients (1 withdrew)" in shown
    assert shown.endswith("withdrawal: 1 patient\n")


def test_a_file_that_returns_decomposed_holds_the_same_patients(exported, tmp_path, capsys):
    """A table and files that went through a Mac: names with umlauts are decomposed, blanks are non-breaking."""
    root = shutil.copytree(exported, tmp_path / "site")
    for path in (root / "state").glob("*"):
        path.unlink()
    features = next((root / "features").rglob("*.h5")).parent

    def rename(form, blank):
        table = pd.read_csv(root / "clinical.csv", dtype=str, keep_default_na=False)
        genes = pd.read_csv(root / "genomics.csv.gz", dtype={"case_id": str})
        folds = pd.read_csv(root / "folds.csv")
        for frame, column in ((table, "case_id"), (table, "slide_ids"), (genes, "case_id"), (folds, "case_id")):
            frame[column] = [unicodedata.normalize(form, f"{_umlaut(name)}{blank}") for name in frame[column]]
        for frame, name in ((table, "clinical.csv"), (genes, "genomics.csv.gz"), (folds, "folds.csv")):
            frame.to_csv(root / name, index=False)
        for file in features.glob("*.h5"):
            file.rename(features / unicodedata.normalize(form, _umlaut(file.name)))
        return table["case_id"][0]

    rename("NFC", "")
    cohort(capsys, "refreeze", root / "site.yaml", "--reason", "first", "--yes")
    before = cohort(capsys, "show", root / "site.yaml")[1]
    assert before.count("\n") > 4
    patient = rename("NFD", "\u00a0")
    assert cohort(capsys, "show", root / "site.yaml")[1] == before
    assert "1 block of 12 patients is retired" in cohort(capsys, "withdraw", root / "site.yaml", patient)[1]
    assert "Recorded." in cohort(capsys, "withdraw", root / "site.yaml", patient, "--yes")[1]
    rename("NFC", "")
    assert "(1 withdrew)" in cohort(capsys, "show", root / "site.yaml")[1]


def _umlaut(name):
    return name.replace("SYN", "SÜN")


def test_a_patient_named_twice_or_in_no_block_is_not_counted_among_the_others(site, capsys):
    cohort(capsys, "refreeze", site, "--reason", "first", "--yes")
    table = pd.read_csv(site.parent / "clinical.csv")
    patient, newcomer = table["case_id"][0], "NEWCOMER"  # without slides or genes yet
    table.to_csv(site.parent / "before.csv", index=False)
    pd.concat([table, table.iloc[[0]].assign(case_id=newcomer, slide_ids="")]).to_csv(
        site.parent / "clinical.csv", index=False
    )
    try:
        out = cohort(capsys, "withdraw", site, patient, patient, newcomer)[1]
    finally:
        (site.parent / "before.csv").replace(site.parent / "clinical.csv")
    assert out.startswith("2 patients: no run uses the data")
    assert "11 more patients train no more" in out


def test_a_name_that_nobody_has_is_refused(site, capsys):
    code, _, err = cohort(capsys, "withdraw", site, "P-404", "--yes")
    assert code == 2
    assert "neither in the clinical table nor in a block" in err


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 201])
def test_a_new_draw_needs_a_reason_of_one_line(site, capsys, reason):
    assert cohort(capsys, "refreeze", site, "--reason", reason, "--yes")[0] == 2


def test_a_new_draw_states_what_it_costs_and_asks(site, capsys):
    code, out, _ = cohort(capsys, "refreeze", site, "--reason", "the unit was wrong")
    assert code == 0
    assert "can subtract them" in out
    assert not (site.parent / "state" / "cohort.json").exists()
    assert "new approval" in cohort(capsys, "refreeze", site, "--reason", "the unit was wrong", "--yes")[1]
    assert "the unit was wrong" in cohort(capsys, "show", site)[1]


def test_a_release_that_reads_the_files_differently_is_named_with_what_a_new_draw_costs(site, capsys, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(cohort_registry, "READER_VERSION", 1)
        cohort(capsys, "refreeze", site, "--reason", "first", "--yes")
    assert "reader version" not in cohort(capsys, "show", site)[1]
    path = site.parent / "clinical.csv"
    before = path.read_bytes()
    table = pd.read_csv(path)
    table.loc[0, "survival_months"] += 1  # as another reader would have it
    table.to_csv(path, index=False)
    try:
        shown = cohort(capsys, "show", site)[1]
        finding = next(f for f in examine(site, "data") if f.check == "reader")
    finally:
        path.write_bytes(before)
    for text in (shown, f"{finding.text}; {finding.remedy}"):
        assert "reader version 1; this release has reader version 2" in " ".join(text.split())
        assert "flower-client cohort refreeze site.yaml --reason TEXT" in text
        assert "can subtract them" in text
