"""Prediction at a site: the numbers of the simulation, the attention to each patch, and no partial output."""

import errno
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from fixtures.federation import tiny
from sksurv.metrics import concordance_index_censored

from client import predict as predict_module
from client.cli import main
from client.exit_codes import ExitCode
from client.predict import predict_patients
from memamba_core.config.compose import compose_simulation
from memamba_core.config.experiment import Experiment
from memamba_core.config.site import load_site_config
from memamba_core.data.dataset import PatientDataset
from memamba_core.data.genomics.expression_scale import compare_expression
from memamba_core.data.manifest import load_cohort
from memamba_core.errors import AgreementError, CheckpointError, ConfigError
from memamba_core.inference import load_model, load_patients
from memamba_core.training.checkpoint import Checkpoint, initial_model, load_checkpoint, save_checkpoint, weights_of
from simulation import run as run_module
from simulation.cohort import prepare_cohort
from simulation.export import export_sites
from simulation.methods import predict_weights
from simulation.run import simulate

SITE = "site-01"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Simulate a run; return its folder, with its sites exported to `sites`, and its cohort."""
    folder = tmp_path_factory.mktemp("predict")
    overrides = (*tiny("federation.num_rounds=1"), f"output_dir={folder / 'run'}")
    config = compose_simulation(overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "draw_figures", lambda *_: None)
        simulate(config, overrides)
    cohort = prepare_cohort(config)
    sites = {name: tuple(r.case_id for r in site.cohort.records) for name, site in cohort.sites.items()}
    for site in export_sites(cohort.cohort, config.data, sites, folder / "sites"):
        change_settings(site, lambda s: s.update(threads=1))  # the number of threads outlasts the call
    return folder, cohort


@pytest.fixture
def model(simulated):
    return simulated[0] / "run"


@pytest.fixture
def site(simulated, tmp_path):
    """Copy a site's folder, for changes."""
    return Path(shutil.copytree(simulated[0] / "sites" / SITE, tmp_path / SITE))


def predicted(site, model, output, **options):
    lines = predict_patients(load_site_config(site / "site.yaml"), model, output, **options)
    return pd.read_csv(output / "predictions.csv", dtype={"case_id": str}), lines


def change_settings(site, change):
    path = site / "site.yaml"
    settings = yaml.safe_load(path.read_text())
    change(settings)
    path.write_text(yaml.safe_dump(settings))


def test_the_same_numbers_as_in_the_simulation(simulated, tmp_path):
    folder, cohort = simulated
    checkpoint = load_checkpoint(folder / "run")
    in_fold = pd.read_csv(folder / "run" / "predictions.csv").set_index("case_id")["risk"]
    seen = set()
    for name, own in cohort.sites.items():
        table, _ = predicted(folder / "sites" / name, folder / "run", tmp_path / name)
        expected = predict_weights(checkpoint.weights, own.cohort, checkpoint.experiment, checkpoint.agreement, "cpu")
        assert tuple(table["case_id"]) == expected.case_ids
        np.testing.assert_allclose(table["risk"], expected.risk, rtol=1e-5)
        survival = table.filter(like="survival").to_numpy()
        np.testing.assert_allclose(survival, expected.survival_NK[:, :-1], rtol=1e-5)
        tested = table[table["case_id"].isin(in_fold.index)]
        np.testing.assert_allclose(tested["risk"], in_fold[tested["case_id"]], rtol=1e-5)
        seen |= set(tested["case_id"])
        for record, modalities in zip(own.cohort.records, table["modalities"], strict=True):
            has = {"pathology": own.cohort.has_slides(record), "genomics": own.cohort.has_genes(record)}
            assert modalities == "+".join(name for name, there in has.items() if there)
    assert seen == set(in_fold.index)
    months = [f"survival_{edge:g}_months" for edge in checkpoint.agreement.time_bin_edges]
    assert list(table.columns) == ["case_id", "risk", *months, "modalities"]


def test_what_is_written_is_for_its_owner(site, model, tmp_path):
    _, lines = predicted(site, model, tmp_path / "out", attention=True)
    written = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert {path.stat().st_mode & 0o077 for path in written} == {0}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.csv", "attention"}
    cohort = load_cohort(load_site_config(site / "site.yaml").data)
    with_slides = {f"{r.case_id}.h5" for r in cohort.records if cohort.has_slides(r)}
    assert {path.name for path in (tmp_path / "out" / "attention").iterdir()} == with_slides
    assert not any(record.case_id in line for record in cohort.records for line in lines)


def cut_and_shuffle(site, case_id):
    """Cut a patient's slide in two, shuffle the patches, and rename the patient to `7/4`."""
    table = pd.read_csv(site / "clinical.csv", dtype=str)
    rows = table["case_id"] == case_id
    slide = table.loc[rows, "slide_ids"].item()
    table.loc[rows, ["case_id", "slide_ids"]] = ["7/4", "one;two"]
    table.to_csv(site / "clinical.csv", index=False)
    for name in ("genomics.csv.gz", "folds.csv"):
        other = pd.read_csv(site / name, dtype={"case_id": str})
        other["case_id"] = other["case_id"].replace(case_id, "7/4")
        other.to_csv(site / name, index=False)
    path = site / "features" / "h5_files" / f"{slide}.h5"
    with h5py.File(path) as file:
        features, coords = file["features"][()], file["coords"][()]
    rng = np.random.default_rng(0)
    features = np.concatenate([features, features + rng.normal(size=features.shape).astype(np.float32)])
    coords = np.concatenate([coords, coords + 7])
    order = rng.permutation(len(coords))
    path.unlink()
    for name, part in (("one", order[:3]), ("two", order[3:])):
        with h5py.File(path.with_name(f"{name}.h5"), "w") as file:
            file["features"], file["coords"] = features[part], coords[part]


@pytest.mark.parametrize("most", [20_000, 4], ids=["all patches", "a limit"])
def test_attention_is_to_the_patches_of_the_files_in_their_order(site, model, tmp_path, most):
    cohort = load_cohort(load_site_config(site / "site.yaml").data)
    case_id = next(
        r.case_id for r in cohort.records if cohort.has_slides(r) and len(cohort.features.load(r).patches_PF) > 2
    )
    cut_and_shuffle(site, case_id)
    change_settings(site, lambda s: s["limits"].update(max_patches=most))
    predicted(site, model, tmp_path / "out", attention=True)

    checkpoint = load_checkpoint(model)
    cohort = load_cohort(load_site_config(site / "site.yaml").data)
    dataset = PatientDataset(
        cohort.subset(["7/4"]), checkpoint.agreement, checkpoint.experiment.agreement, max_patches=most
    )
    patient = dataset.load(0)
    expected = dict(
        zip(
            map(tuple, patient.bag.coords_P2.tolist()),
            checkpoint.build().patch_attention(patient).tolist(),
            strict=True,
        )
    )
    with h5py.File(tmp_path / "out" / "attention" / "7%2F4.h5") as file:
        got = {name: file[name][()] for name in file}
    assert got["attention"].dtype == np.float32
    assert got["attention"].sum() == pytest.approx(1.0, abs=1e-6)
    assert len(got["attention"]) == min(most, len(expected)) == len(expected)
    for shares, coords in zip(got["attention"], got["coords"], strict=True):
        assert shares == pytest.approx(expected[tuple(coords)], rel=1e-5)
    assert len(set(expected.values())) == len(expected)  # otherwise any order would pass
    assert got["slides"].tolist() == [b"one", b"two"]
    for index, name in enumerate(["one", "two"]):
        rows = got["row"][got["slide"] == index]
        assert (np.diff(rows) > 0).all()
        with h5py.File(site / "features" / "h5_files" / f"{name}.h5") as file:
            np.testing.assert_array_equal(file["coords"][()][rows], got["coords"][got["slide"] == index])
            assert most == 4 or rows.tolist() == list(range(len(file["coords"])))


def edit_model(folder, change):
    about = json.loads((folder / "model.json").read_text())
    change(about)
    (folder / "model.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "is no folder; expected a folder with model"),
        (lambda folder: (folder / "model.json").unlink(), r"has no model\.json; expected"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "Copy both files again"),
        (lambda folder: edit_model(folder, lambda a: a["agreement"]["time_bin_edges"].pop()), "Copy the file again"),
        (lambda folder: edit_model(folder, lambda a: a["experiment"].update(seed=9)), "settings were changed by hand"),
    ],
)
def test_what_is_no_model(site, model, tmp_path, damage, words):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("model.safetensors", "model.json"):
        shutil.copyfile(model / name, copy / name)
    damage(copy)
    with pytest.raises(CheckpointError, match=words):
        predicted(site, copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder(site, model, tmp_path):
    with pytest.raises(CheckpointError, match=f"is a file; name its folder, {model}"):
        predicted(site, model / "model.json", tmp_path / "out")


def lose_genes(site):
    table = pd.read_csv(site / "genomics.csv.gz", dtype={"case_id": str})
    table.drop(columns=table.columns[1:3]).to_csv(site / "genomics.csv.gz", index=False)


def widen_features(site):
    for path in (site / "features" / "h5_files").iterdir():
        with h5py.File(path, "r+") as file:
            features = file["features"][()]
            del file["features"]
            file["features"] = np.concatenate([features, features], axis=1)
    change_settings(site, lambda settings: settings["data"]["features"].update(width=10))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lose_genes, r"lacks 2 of the \d+ columns .* Add these columns"),
        (widen_features, "are of encoder synthetic, 10 wide; the model reads synthetic, 5 wide"),
        (
            lambda site: change_settings(site, lambda s: s["data"]["features"].update(encoder="uni_v1")),
            "are of encoder uni_v1, 5 wide; the model reads synthetic, 5 wide. Extract them",
        ),
    ],
    ids=["genes", "width", "encoder"],
)
def test_data_that_the_model_was_not_trained_on(site, model, tmp_path, change, words):
    change(site)
    with pytest.raises(AgreementError, match=words):
        predicted(site, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def change_scale(site):
    table = pd.read_csv(site / "genomics.csv.gz", dtype={"case_id": str})
    columns = [column for column in table if column.endswith("_rnaseq")]
    table[columns] = 2 ** (table[columns].clip(-3, 3) + 6)
    table.to_csv(site / "genomics.csv.gz", index=False)


def test_expression_on_another_scale_is_refused_unless_accepted(site, model, tmp_path, capsys):
    own, _ = predicted(site, model, tmp_path / "own")
    change_scale(site)
    with pytest.raises(AgreementError, match=r"another scale .* standard deviations higher.*--accept-scale"):
        predicted(site, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    arguments = ["predict", str(site / "site.yaml"), "--model", str(model), "--output", str(tmp_path / "out")]
    for options, code in (((), ExitCode.MISTAKE), (("--accept-scale",), ExitCode.DONE)):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *options])
        assert ended.value.code == code
    assert "warning: the expression differs in scale from that of the model's patients" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype={"case_id": str})
    assert tuple(table["case_id"]) == tuple(own["case_id"])
    assert not np.allclose(table["risk"], own["risk"])


def test_a_model_of_public_scaling_does_not_know_its_scale(site, model):
    change_scale(site)
    patients, loaded = load_patients(site / "site.yaml"), load_model(model)
    assert loaded.compare_expression(patients).wrong
    about = loaded.checkpoint.experiment
    public = about.agreement.model_copy(update={"gene_scaling": "public"})
    assert compare_expression(patients, loaded.checkpoint.agreement, public) is None
    assert loaded.compare_expression(patients.subset([])) is None


def test_an_empty_column_is_not_a_missing_one(site, model, tmp_path):
    table = pd.read_csv(site / "genomics.csv.gz", dtype={"case_id": str})
    table[load_checkpoint(model).agreement.gene_columns[0]] = np.nan
    table.to_csv(site / "genomics.csv.gz", index=False)
    assert np.isfinite(predicted(site, model, tmp_path / "out")[0]["risk"]).all()


@pytest.fixture
def genes_alone(model, tmp_path):
    """Save a model of the same agreement without a pathology expert, of another version and trained on a GPU."""
    trained = load_checkpoint(model)
    settings = trained.experiment.model_dump()
    settings["model"] |= {"experts": ("genomics",), "scan_backend": "triton"}
    experiment = Experiment.parse(settings, "test")
    weights = weights_of(initial_model(experiment, trained.agreement))
    folder = tmp_path / "genes-alone"
    folder.mkdir()
    save_checkpoint(folder, "model", Checkpoint(weights, experiment, trained.agreement, 1, "of another version"))
    return folder


def test_what_the_model_does_not_read_is_not_compared(site, genes_alone, tmp_path):
    widen_features(site)
    table, lines = predicted(site, genes_alone, tmp_path / "out")
    assert set(table["modalities"]) <= {"genomics", "none"}
    assert any("another version of this software trained the model" in line for line in lines)
    with pytest.raises(ConfigError, match="needs a pathology expert"):
        predicted(site, genes_alone, tmp_path / "other", attention=True)


def test_unread_patients_are_counted(site, genes_alone, tmp_path):
    genes = pd.read_csv(site / "genomics.csv.gz", dtype={"case_id": str})
    cohort = load_cohort(load_site_config(site / "site.yaml").data)
    both = [r.case_id for r in cohort.records if cohort.has_slides(r) and cohort.has_genes(r)]
    alone = [r.case_id for r in cohort.records if not cohort.has_slides(r)]
    unread = sum(not cohort.has_genes(r) for r in cohort.records)
    genes = genes[~genes["case_id"].isin([both[0], alone[0]])]
    genes.to_csv(site / "genomics.csv.gz", index=False)
    table, lines = predicted(site, genes_alone, tmp_path / "out")
    assert (table["modalities"] == "none").sum() == unread + 1
    assert alone[0] not in set(table["case_id"])
    assert f"warning: {unread + 1} of them have no data that this model reads" in "\n".join(lines)
    assert "warning: 1 more are excluded" in "\n".join(lines)
    change_settings(site, lambda s: s["data"].pop("genomics"))
    with pytest.raises(
        AgreementError, match="the model reads genomics only, and no patient of this site has such data"
    ):
        predicted(site, genes_alone, tmp_path / "other")


def test_the_c_index_or_why_it_is_suppressed(site, model, tmp_path):
    table, lines = predicted(site, model, tmp_path / "one")
    assert "C-index: suppressed" in lines[-1]
    assert "disclosure.min_pairs is 50" in lines[-1]
    change_settings(site, lambda s: s["disclosure"].update(min_pairs=1))
    _, lines = predicted(site, model, tmp_path / "two")
    clinical = pd.read_csv(site / "clinical.csv", dtype={"case_id": str}).set_index("case_id").loc[table["case_id"]]
    index = concordance_index_censored(clinical["event"] == 1, clinical["survival_months"], table["risk"])[0]
    assert lines[-1].startswith(f"C-index {index:.3f}: {len(table)} patients with {clinical['event'].sum()} events")


def test_patients_without_follow_up(site, model, tmp_path):
    before, _ = predicted(site, model, tmp_path / "one")
    clinical = pd.read_csv(site / "clinical.csv", dtype=str)
    clinical.assign(survival_months="0", event="0").to_csv(site / "clinical.csv", index=False)
    after, lines = predicted(site, model, tmp_path / "two")
    pd.testing.assert_frame_equal(before, after)
    assert "0 events form 0 comparable pairs" in lines[-1]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_nothing_half_written_stays(site, model, tmp_path, monkeypatch, failure):
    real, calls = predict_module.write_heat_map, []

    def fail_at_the_second(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise failure
        real(*arguments)

    monkeypatch.setattr(predict_module, "write_heat_map", fail_at_the_second)
    wanted = KeyboardInterrupt if failure is KeyboardInterrupt else ConfigError
    with pytest.raises(wanted):
        predicted(site, model, tmp_path / "new" / "out", attention=True)
    assert not list((tmp_path / "new").iterdir())


def test_what_is_there_is_not_overwritten(site, model, tmp_path):
    (tmp_path / "mine").touch()
    for taken in (tmp_path, tmp_path / "mine"):
        with pytest.raises(ConfigError, match=r"nothing was written\. Choose a new --output"):
            predicted(site, model, taken)


def test_the_folder_that_one_stands_in_is_taken(site, model, tmp_path, monkeypatch):
    (tmp_path / "mine").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="exists and is not an empty folder"):
        predicted(site, model, Path())


def test_the_command(site, model, capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["predict", str(site / "site.yaml"), *arguments])
        return end.value.code, *capsys.readouterr()

    code, out, err = call("--model", str(model), "--attention")
    assert (code, err) == (ExitCode.DONE, "")
    (folder,) = (site / "state" / "predictions").iterdir()
    assert folder.name.startswith("run-")
    assert f"predictions: {folder / 'predictions.csv'}" in out
    assert (folder / "predictions.csv").is_file()
    assert (site / "state").stat().st_mode & 0o077 == 0
    code, _, err = call("--model", str(site))
    assert (code, err.startswith(f"error: {site} has no model")) == (ExitCode.MISTAKE, True)
    change_settings(site, lambda s: s.pop("state"))
    code, _, err = call("--model", str(model))
    assert (code, "add `state: state`" in err) == (ExitCode.MISTAKE, True)
