"""The packages as a library: exported names, a cheap import, and the example of the README."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures.federation import GENES_ONLY, tiny

import memamba_core
from memamba_core import load_model
from memamba_core.errors import AgreementError, CheckpointError
from simulation import SimulationResult, simulate

ROOT = Path(__file__).parents[2]
PACKAGES = ("memamba_core", "client", "server", "simulation")


@pytest.mark.parametrize("name", PACKAGES)
def test_exported_names_exist_and_are_documented(name):
    package = importlib.import_module(name)
    assert list(package.__all__) == sorted(set(package.__all__))
    for exported in package.__all__:
        assert inspect.getdoc(getattr(package, exported)), exported
    with pytest.raises(AttributeError):
        package.nothing_of_this_name  # noqa: B018 - the access is the test
    assert (Path(package.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("name", PACKAGES)
def test_importing_a_package_imports_no_heavy_library(name):
    heavy = {"torch", "flwr", "pandas", "matplotlib", "hydra"}
    code = f"import sys, {name}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A run of seconds with slides and genes, begun from overrides."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simulation.run.draw_figures", lambda *_: None)
        return simulate([*tiny("federation.num_rounds=1"), f"output_dir={tmp_path_factory.mktemp('api') / 'out'}"])


def test_a_model_predicts_risk_hazards_and_survival(simulated):
    assert isinstance(simulated, SimulationResult)
    model = load_model(simulated.folder, device="cpu")
    predictions = model.predict(simulated.patients)
    assert predictions.case_ids == tuple(r.case_id for r in simulated.patients.records)
    np.testing.assert_allclose(np.cumprod(1 - predictions.hazards_NK, axis=1), predictions.survival_NK, rtol=1e-5)
    np.testing.assert_allclose(-predictions.survival_NK.sum(axis=1), predictions.risk, rtol=1e-5)
    edges = model.time_bin_edges
    np.testing.assert_array_equal(predictions.survival_at(edges), predictions.survival_NK[:, :-1])
    assert predictions.survival_at(edges[0] / 2).shape == (len(predictions.risk),)
    assert {"pathology", "genomics"} == {name for names in predictions.modalities for name in names}
    table = predictions.to_frame()
    assert list(table["risk"]) == list(predictions.risk)
    assert len(table.columns) == 3 + len(edges)


def test_predictions_of_the_test_fold_are_those_of_the_run(simulated):
    tested = simulated.patients.subset([r.case_id for r in simulated.patients.records if r.fold == 0])
    predictions = load_model(simulated.folder).predict(tested)
    assert simulated.summary.details[0].federated.num_patients == len(predictions.risk)


def test_attention_needs_patch_files(simulated):
    with pytest.raises(AgreementError, match="needs files of patch features"):
        load_model(simulated.folder).attention(simulated.patients, simulated.patients.records[0].case_id)


def test_a_folder_without_a_model_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors and no model\.json; expected a folder with"):
        load_model(tmp_path)


def test_settings_files_of_an_own_folder_are_found(tmp_path):
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own" / "data" / "mine.yaml").write_text("name: mine\nsynthetic: {num_patients: 20}\n")
    words = [o for o in tiny(*GENES_ONLY, "methods=[pooled]", "federation.num_rounds=1") if not o.startswith("data.s")]
    result = simulate(
        [*words, "data=mine", "data.synthetic.missing_slides=0", f"output_dir={tmp_path / 'out'}"],
        config_dir=tmp_path / "own",
    )
    assert (result.summary.cohort, result.summary.num_patients) == ("mine", 20)


@pytest.mark.ci_slow
def test_the_example_of_the_readme_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[:1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 6
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_package_names_its_errors():
    assert issubclass(CheckpointError, memamba_core.MemambaError)
