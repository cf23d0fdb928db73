"""A cohort of tables and patch files with one mistake: an error before anything is computed, and nothing is left."""

import h5py
import numpy as np
import pandas as pd
import pytest
from fixtures.federation import tiny

from memamba_core.config.compose import compose_simulation
from memamba_core.errors import DataError, MemambaError
from simulation.cohort import prepare_cohort
from simulation.run import simulate

NUM = 24


@pytest.fixture
def overrides(tmp_path):
    """Settings of a simulation of three sites on the tables that it writes."""
    rng = np.random.default_rng(0)
    (tmp_path / "bags").mkdir()
    names = [f"P{i:02d}" for i in range(NUM)]
    genes = pd.DataFrame(rng.normal(size=(NUM, 3)), columns=["A_rnaseq", "B_rnaseq", "C_cnv"])
    genes.assign(case_id=names).to_csv(tmp_path / "genes.csv", index=False)
    event = (np.arange(NUM) % 2).tolist()
    months = rng.uniform(1, 90, NUM).round(2)
    clinical = {
        "case_id": names,
        "slides": names,
        "survival_months": months,
        "event": event,
        "tss": ["A", "B", "C"] * 8,
    }
    pd.DataFrame(clinical).to_csv(tmp_path / "clinical.csv", index=False)
    for name in names:
        with h5py.File(tmp_path / "bags" / f"{name}.h5", "w") as file:
            file["features"] = rng.normal(size=(3, 5)).astype(np.float32)
    return (
        "data.synthetic=null",
        "data.name=mine",
        f"data.root={tmp_path}",
        "data.clinical={file:clinical.csv,slides:slides,tss:tss}",
        "data.genomics={file:genes.csv}",
        "data.features={path:bags,encoder:e}",
        "agreement.gene_groups=kind",
        "federation.num_rounds=1",
        "model.d_model=4",
        "model.scan_backend=reference",
    )


def table(folder, **columns):
    path = folder / "clinical.csv"
    pd.read_csv(path).assign(**columns).to_csv(path, index=False)


def truncate(folder):
    path = folder / "bags" / "P07.h5"
    path.write_bytes(path.read_bytes()[:600])


def at_least_float32(folder):
    with h5py.File(folder / "bags" / "P07.h5", "w") as file:
        file["features"] = np.zeros((3, 6), np.float32)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, ["P07.h5", "is cut off: 600 of", "remove the file"]),
        (at_least_float32, ["P07.h5", "width 6, but 5", "extract all slides with one"]),
        (lambda folder: table(folder, event=0), ["none of the 24 patients", "event_means=censored"]),
        (lambda folder: table(folder, survival_months=[-1.0, *[5.0] * 23]), ["survival_months", "negative in row 1"]),
        (lambda folder: table(folder, survival_months=[np.nan, *[5.0] * 23]), ["survival_months", "empty in row 1"]),
        (lambda folder: table(folder, tss=""), ["24 of 24 patients have no tissue source site", "partition=iid"]),
    ],
)
def test_what_is_wrong_is_told_and_no_folder_is_left(overrides, tmp_path, damage, words):
    damage(tmp_path)
    with pytest.raises(DataError) as caught:
        simulate(compose_simulation((*overrides, f"output_dir={tmp_path / 'out'}")), overrides)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_gene_groups_without_a_table_of_them_are_told_and_no_folder_is_left(overrides, tmp_path):
    changed = (*(o for o in overrides if not o.startswith("agreement.")), f"output_dir={tmp_path / 'out'}")
    with pytest.raises(MemambaError, match=r"data\.signatures, or set agreement\.gene_groups=kind"):
        simulate(compose_simulation(changed), changed)
    assert not (tmp_path / "out").exists()


def test_complete_cases_are_the_patients_with_both_modalities():
    everybody = prepare_cohort(compose_simulation(tiny())).cohort
    cohort = prepare_cohort(compose_simulation(tiny("data.complete_cases=true"))).cohort
    both = [r.case_id for r in everybody.records if everybody.has_genes(r) and everybody.has_slides(r)]
    assert [r.case_id for r in cohort.records] == both
    assert 0 < len(both) < len(everybody.records)
