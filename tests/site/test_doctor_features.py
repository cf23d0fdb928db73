"""Doctor on feature files: the checks that training makes on every header, and doubts about their contents."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from fixtures.patch_files import refusal

from client.doctor.features import check_features
from client.doctor.finding import Level
from memamba_core.config.site import ClinicalTable, FeatureFolder, SiteDataConfig
from memamba_core.data.features.survey import survey_features
from memamba_core.data.manifest import load_cohort
from memamba_core.errors import DataError

NUM = 6


@pytest.fixture
def root(tmp_path) -> Path:
    """A site with one slide per patient."""
    rows = [f"p{i},{10 + i},{i % 2},s{i}" for i in range(NUM)]
    (tmp_path / "clinical.csv").write_text("\n".join(["case_id,survival_months,event,slide_ids", *rows]) + "\n")
    (tmp_path / "features").mkdir()
    for i in range(NUM):
        write(tmp_path, i)
    return tmp_path


def write(root: Path, slide: int, width: int = 16, dataset: str = "features", dtype="f4", **attributes) -> None:
    with h5py.File(root / "features" / f"s{slide}.h5", "w") as file:
        file[dataset] = np.random.default_rng(slide).normal(size=(10, width)).astype(dtype)
        file["coords"] = np.arange(20).reshape(10, 2)
        file[dataset].attrs.update(attributes)


def findings(root: Path, **declared):
    features = FeatureFolder(path="features", encoder="uni_v1", **declared)
    data = SiteDataConfig(root=root, clinical=ClinicalTable(file="clinical.csv", slides="slide_ids"), features=features)
    cohort = load_cohort(data)
    return cohort, list(check_features(cohort, survey_features(cohort)))


def test_a_healthy_site(root):
    _, found = findings(root)
    assert [f.level for f in found] == [Level.OK, Level.OK]
    assert "6 of 6 patients; features uni_v1, 16 wide; median bag 10 patches, largest 10" in found[0].text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 32}, "a patch has width 32, but 16 in"),
        ({"encoder": "conch"}, "was made by encoder 'conch'"),
        ({"target_magnification": 40}, "was made at 40x, but data.features.magnification says 20"),
        ({"dtype": "i4"}, "features are int32; expected float16"),
        ({"dataset": "embeddings"}, "name it in data.features.dataset"),
        ({"dataset": "40x/features"}, "was made at 40x"),
    ],
)
def test_the_doctor_makes_the_checks_of_training_on_every_file(root, change, words):
    write(root, 3, **change)
    cohort, found = findings(root, magnification=20)
    assert cohort.features is not None
    (error,) = [f for f in found if f.level is Level.ERROR]
    assert words in error.text
    assert str(root / "features" / "s3.h5") in error.text
    assert not [f for f in found if f.text.startswith("present and readable")]
    with pytest.raises(DataError) as raised:  # noqa: PT012 - the first of the six that training cannot read
        for record in cohort.records:
            cohort.features.load(record)
    assert str(raised.value) == error.text


def test_a_file_of_zeros_is_an_error_as_in_training(root):
    with h5py.File(root / "features" / "s3.h5", "a") as file:
        file["features"][:] = 0
    cohort, found = findings(root)
    (error,) = [f for f in found if f.level is Level.ERROR]
    assert "features hold nothing but zeros" in error.text
    with pytest.raises(DataError, match="nothing but zeros"):
        cohort.features.load(cohort.records[3])


def test_a_name_in_the_files_can_be_declared(root):
    for slide in range(NUM):
        write(root, slide, encoder="mahmood-uni")
    assert "data.features.encoder_in_files" in refusal(findings, root)
    _, found = findings(root, encoder_in_files="Mahmood_UNI")
    assert {f.level for f in found} == {Level.OK}
    assert "says 'conch'" in refusal(findings, root, encoder_in_files="conch")


def test_slide_vectors_are_read_and_named_and_not_mixed_with_patches(root):
    for slide in range(NUM):
        with h5py.File(root / "features" / f"s{slide}.h5", "a") as file:
            del file["features"]
            file["features"] = np.random.default_rng(slide).normal(size=16).astype("f4")
    cohort, found = findings(root)
    assert "one slide-level vector per slide" in found[0].text
    assert {f.level for f in found} == {Level.OK}
    assert cohort.features.load(cohort.records[0]).patches_PF.shape == (1, 16)
    write(root, 3)
    _, found = findings(root)
    (error,) = [f for f in found if f.level is Level.ERROR]
    assert "s3.h5: holds patches, but" in error.text
    assert "one vector of the whole slide. Point data.features.path to a folder of one kind" in error.text


def test_a_doubt_about_contents_is_a_warning(root):
    shutil.copy(root / "features" / "s1.h5", root / "features" / "s2.h5")
    _, found = findings(root)
    (doubt,) = [f for f in found if f.level is Level.WARNING]
    assert "2 of 6 files hold the same features as the file of another slide" in doubt.text


def test_a_dataset_in_a_group_is_named(root):
    for slide in range(NUM):
        write(root, slide, dataset="20x/features")
    _, found = findings(root, magnification=20)
    assert "read from dataset 20x/features" in found[0].text


def test_names_of_files_reach_the_doubts_of_the_cohort(root):
    (root / "features" / "s9.h5.part").touch()
    cohort, _ = findings(root)
    (doubt,) = cohort.doubts
    assert "not complete (1 .part)" in doubt.text
