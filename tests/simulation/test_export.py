"""Cohorts written as site folders: what a client reads there is what the simulation held."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from memamba_core.config.simulation import (
    CohortConfig,
    MergedTSSPartition,
    SyntheticConfig,
    TSSPartition,
)
from memamba_core.config.site import (
    ClinicalTable,
    DisclosureConfig,
    FeatureFolder,
    GenomicsTable,
    SiteDataConfig,
    load_site_config,
)
from memamba_core.data.manifest import load_cohort
from memamba_core.data.records import Cohort
from memamba_core.data.synthetic.generate import generate_cohort
from memamba_core.data.synthetic.slides import MemoryFeatures
from memamba_core.errors import ConfigError
from simulation.export import export_sites
from simulation.folds import assign_folds
from simulation.partition import Sites, partition_cohort

SYNTHETIC = SyntheticConfig(num_patients=24, num_sites=3, patches=(3, 9), num_genes=6, feature_width=4)
BY_TSS = TSSPartition()


def assert_same(exported: Cohort, original: Cohort):
    """The same patients, values and bags, in the same order."""
    for one, two in zip(exported.records, original.records, strict=True):
        # Months made from days have 17 digits, and pandas reads the last one wrong now and then.
        assert one.time_months == pytest.approx(two.time_months, rel=1e-15, abs=0)
        assert replace(one, gene_row=None) == replace(two, gene_row=None, time_months=one.time_months)
    for one, two in zip(exported.records, original.records, strict=True):
        assert exported.has_genes(one) == original.has_genes(two)
        if original.has_genes(two):
            assert exported.genes.columns == original.genes.columns
            np.testing.assert_array_equal(
                exported.genes.values_NC[one.gene_row], original.genes.values_NC[two.gene_row]
            )
        assert exported.has_slides(one) == original.has_slides(two)
        if original.has_slides(two):
            bag, expected = exported.features.load(one), original.features.load(two)
            torch.testing.assert_close(
                bag.patches_PF, expected.patches_PF, rtol=0, atol=0, equal_nan=True, check_dtype=True
            )
            assert (bag.coords_P2 is None) == (expected.coords_P2 is None)
            if expected.coords_P2 is not None:
                assert torch.equal(bag.coords_P2, expected.coords_P2)


def assert_round_trip(cohort: Cohort, config: CohortConfig, sites: Sites, output_dir: Path):
    folders = export_sites(cohort, config, sites, output_dir)
    assert [folder.name for folder in folders] == list(sites)
    for folder, (name, case_ids) in zip(folders, sites.items(), strict=True):
        site = load_site_config(folder / "site.yaml")
        assert site.name == name
        assert site.disclosure == DisclosureConfig()
        assert site.state == (folder / "state").resolve()
        exported = load_cohort(site.data)
        assert_same(exported, cohort.subset(case_ids))
        if exported.features is not None:
            assert exported.features.encoder == cohort.features.encoder
            assert exported.features.columns == cohort.features.columns
            assert exported.features.families == cohort.features.families


@pytest.fixture(scope="module")
def synthetic() -> tuple[Cohort, CohortConfig, Sites]:
    cohort = generate_cohort(SYNTHETIC).cohort
    sites = partition_cohort(cohort, BY_TSS)
    return cohort, CohortConfig(name="synthetic", synthetic=SYNTHETIC), sites


def test_a_generated_cohort_comes_back(synthetic, tmp_path):
    assert_round_trip(*synthetic, tmp_path / "new" / "sites")


def test_folds_come_back_and_a_site_without_any_is_left_out(synthetic, tmp_path, caplog):
    cohort, config, sites = synthetic
    with_folds, _ = assign_folds(cohort, source="random", splits=None, num_folds=3, seed=0, sites=sites)
    some = with_folds.records[0]
    with_folds = replace(with_folds, records=(replace(some, fold=None), *with_folds.records[1:]))
    assert_round_trip(with_folds, config, sites, tmp_path / "folds")

    first, *others = sites
    forgotten = tuple(replace(r, fold=None) if r.case_id in sites[first] else r for r in with_folds.records)
    folders = export_sites(replace(with_folds, records=forgotten), config, sites, tmp_path / "left_out")
    assert [folder.name for folder in folders] == others
    assert f"site {first} is left out" in caplog.text


@pytest.mark.parametrize(("genes", "slides"), [(1.0, 0.0), (0.0, 1.0)])
def test_sites_without_a_modality_do_not_declare_it(tmp_path, genes, slides):
    settings = SYNTHETIC.model_copy(update={"missing_genes": genes, "missing_slides": slides})
    cohort = generate_cohort(settings).cohort
    sites = partition_cohort(cohort, BY_TSS)
    assert_round_trip(cohort, CohortConfig(name="s", synthetic=settings), sites, tmp_path / "sites")
    data = yaml.safe_load((tmp_path / "sites" / next(iter(sites)) / "site.yaml").read_text())["data"]
    assert ("genomics" in data, "features" in data) == (slides == 1, genes == 1)


def test_the_same_cohort_gives_the_same_bytes(synthetic, tmp_path):
    for name in ("one", "two"):
        export_sites(*synthetic, tmp_path / name)
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*") if p.suffix != ".h5"]
    assert len([f for f in files if f.name == "genomics.csv.gz"]) == 3
    for file in (f for f in files if (tmp_path / "one" / f).is_file()):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_nothing_is_overwritten_and_nothing_half_written_stays(synthetic, tmp_path):
    cohort, config, sites = synthetic
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "note.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"is not an empty folder; nothing was written\. Choose a new"):
        export_sites(cohort, config, sites, taken)
    with pytest.raises(ConfigError, match="not an empty folder"):
        export_sites(cohort, config, sites, taken / "note.txt")
    assert [p.name for p in taken.iterdir()] == ["note.txt"]

    failing = replace(cohort, features=FullDisk(cohort.features.width, cohort.features.slides))
    with pytest.raises(ConfigError, match="cannot be written: disk full"):
        export_sites(failing, config, sites, tmp_path / "failed")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]

    (tmp_path / "empty").mkdir()
    assert len(export_sites(cohort, config, sites, tmp_path / "empty")) == 3


class FullDisk(MemoryFeatures):
    """Fails at the last slide of those of the fixture `synthetic`."""

    def load(self, record, max_patches=None, rng=None):
        if record.slides[0] == max(self.slides):
            raise_full_disk()
        return super().load(record, max_patches, rng)


def raise_full_disk(*_):
    raise OSError("disk full")


def write_patch_cohort(root: Path) -> SiteDataConfig:
    """Three patients; slides as .h5 with TRIDENT's attributes, as .pt, and one that is not there."""
    rng = np.random.default_rng(0)
    for folder in ("h5_files", "pt_files"):
        (root / "uni" / folder).mkdir(parents=True)
    for slide in ("P1-A", "P2-A"):
        with h5py.File(root / "uni" / "h5_files" / f"{slide}.h5", "w") as file:
            file["features"] = rng.standard_normal((5, 4)).astype(np.float16)
            file["coords"] = rng.permutation(10).reshape(5, 2)
            file["features"].attrs["encoder"] = "uni_v1"
    torch.save(torch.ones(3, 4, dtype=torch.float16), root / "uni" / "pt_files" / "P1.B.pt")
    pd.DataFrame(
        {
            "patient": ["P1", "P2", "P3"],
            "os_days": [10.0, 200.5, 3000.0],
            "censorship": [1, 0, 0],
            "slides": ["P1-A.svs;P1.B.svs", "P2-A.svs;P2-gone.svs", ""],
            "tss": ["05", "NA", "05"],
        }
    ).to_csv(root / "clinical.csv", index=False)
    pd.DataFrame({"patient": ["P3", "P1"], "TP53_rnaseq": [0.1, 14071.2], "TP53_mut": [np.nan, 1]}).to_csv(
        root / "genes.csv", index=False
    )
    return SiteDataConfig(
        root=root,
        clinical=ClinicalTable(
            file="clinical.csv",
            case_id="patient",
            slides="slides",
            time="os_days",
            time_unit="days",
            event="censorship",
            event_means="censored",
            tss="tss",
        ),
        genomics=GenomicsTable(file="genes.csv", case_id="patient"),
        features=FeatureFolder(path="uni", encoder="uni_v1", magnification=20),
    )


def cohort_config(data: SiteDataConfig) -> CohortConfig:
    return CohortConfig(
        name="test", root=data.root, clinical=data.clinical, genomics=data.genomics, features=data.features
    )


@pytest.mark.parametrize("links", [True, False])
def test_patch_files_are_handed_on_as_they_are(tmp_path, monkeypatch, links):
    data = write_patch_cohort(tmp_path / "source")
    cohort = load_cohort(data)
    sites = {"tss-05": ("P1", "P3"), "tss-NA": ("P2",)}
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", raise_full_disk)
    assert_round_trip(cohort, cohort_config(data), sites, tmp_path / "sites")
    for name in ("h5_files/P1-A.h5", "pt_files/P1.B.pt"):
        source, target = tmp_path / "source" / "uni" / name, tmp_path / "sites" / "tss-05" / "features" / name
        assert target.read_bytes() == source.read_bytes()
        assert target.samefile(source) == links
    assert (tmp_path / "sites" / "tss-NA" / "clinical.csv").read_text().splitlines() == [
        "case_id,survival_months,event,slide_ids,tss",
        f"P2,{200.5 / 30.4375!r},1,P2-A;P2-gone,NA",
    ]
    assert not (tmp_path / "sites" / "tss-NA" / "genomics.csv.gz").exists()


def test_a_slide_level_table_is_keyed_by_patient(tmp_path):
    root = tmp_path / "source"
    root.mkdir()
    pd.DataFrame({"case_id": ["P1", "P2", "P3"], "survival_months": [1, 2, 3], "event": [0, 1, 1]}).to_csv(
        root / "clinical.csv", index=False
    )
    pd.DataFrame(
        {
            "case_id": ["P2", "P1", "P2"],
            "slide_ref": ["7", "8", "9"],
            "hif_001": [1.5, np.nan, 2.5e8],
            "hif_002": [0.1, 0.2, 0.3],
        }
    ).to_csv(root / "hif.csv", index=False)
    (root / "names.csv").write_text("id,name\nhif_001,AREA OF [TUMOR]\nhif_002,DENSITY [CELLS]\n")
    pd.DataFrame({"case_id": ["P3"], "TP53_mut": [1]}).to_csv(root / "genes.csv", index=False)
    data = SiteDataConfig(
        root=root,
        clinical=ClinicalTable(file="clinical.csv"),
        genomics=GenomicsTable(file="genes.csv"),
        features=FeatureFolder(path="hif.csv", encoder="hif", groups_file="names.csv"),
    )
    cohort = load_cohort(data)
    assert cohort.features.families
    sites = {"a": ("P1", "P2"), "b": ("P3",)}
    assert_round_trip(cohort, cohort_config(data), sites, tmp_path / "sites")
    assert cohort.features.load(cohort.records[1]).patches_PF.shape == (2, 2)
    assert not list((tmp_path / "sites" / "b").glob("*feature*"))


@pytest.mark.ci_slow
@pytest.mark.real_data
def test_a_tcga_cohort_comes_back(data_root, tmp_path):
    data = SiteDataConfig(
        root=data_root / "cohorts",
        clinical=ClinicalTable(file="tcga_blca_mcat.csv.gz", slides="slide_ids", tss="tss"),
        genomics=GenomicsTable(file="tcga_blca_mcat.csv.gz"),
    )
    cohort = load_cohort(data)
    sites = partition_cohort(cohort, MergedTSSPartition(min_patients=50))
    splits = data_root / "splits" / "tcga_blca"
    cohort, _ = assign_folds(cohort, source="cohort", splits=splits, num_folds=5, seed=0, sites=sites)
    name = min(sites, key=lambda name: len(sites[name]))  # one is enough: all are written by the same lines
    assert_round_trip(cohort, cohort_config(data), {name: sites[name]}, tmp_path / "sites")


@pytest.mark.real_data
def test_tcga_patients_with_slide_level_features_come_back(data_root, tmp_path):
    data = SiteDataConfig(
        root=data_root,
        clinical=ClinicalTable(file="cohorts/tcga_luad_mcat.csv.gz", slides="slide_ids", tss="tss"),
        features=FeatureFolder(path="hif/luad_hif.csv.gz", encoder="hif", groups_file="hif/hif_names.csv"),
    )
    cohort = load_cohort(data)
    sites = {name: ids for name, ids in partition_cohort(cohort, BY_TSS).items() if name in ("tss-05", "tss-44")}
    assert_round_trip(cohort, cohort_config(data), sites, tmp_path / "sites")
