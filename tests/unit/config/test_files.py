"""The YAML files: each composes, none says anything else than the models by surprise."""

import re
from typing import Annotated

import pytest
import yaml
from pydantic import TypeAdapter

from memamba_core.config.compose import compose_experiment, compose_simulation, config_folder, config_groups
from memamba_core.config.experiment import Experiment
from memamba_core.config.simulation import CohortConfig, SimulationConfig, SyntheticConfig
from memamba_core.config.strategy import STRATEGY_NAMES, StrategyConfig

FILES = sorted(config_folder().rglob("*.yaml"))
EXPERIMENT_OPTIONS = [(g, o) for g, files in config_groups().items() if g in Experiment.model_fields for o in files]
COHORTS = [name for name in config_groups()["data"] if name != "synthetic"]


def test_composed_defaults_are_the_defaults_of_the_models():
    assert compose_experiment() == Experiment()
    synthetic = CohortConfig(name="synthetic", synthetic=SyntheticConfig())
    assert compose_simulation() == SimulationConfig(experiment=Experiment(), data=synthetic)


def test_groups_are_the_settings_that_have_files():
    experiment = {"model", "training", "federation", "strategy", "agreement", "privacy"}
    assert set(config_groups()) == experiment | {"data", "partition", "attacks"}


@pytest.mark.ci_slow
@pytest.mark.parametrize(("group", "option"), EXPERIMENT_OPTIONS)
def test_every_option_of_the_experiment_composes(group, option):
    experiment = compose_experiment([f"{group}={option}"])
    text = (config_folder() / group / f"{option}.yaml").read_text()
    shown = yaml.safe_load(text)
    if "# @package _global_" not in text:
        shown = {group: shown}
    for changed, values in shown.items():
        annotation = Annotated[Experiment.model_fields[changed].annotation, Experiment.model_fields[changed]]
        assert getattr(experiment, changed) == TypeAdapter(annotation).validate_python(values)


def test_every_strategy_has_a_file_that_shows_its_own_settings_and_their_defaults():
    assert set(config_groups()["strategy"]) == set(STRATEGY_NAMES)
    for name in STRATEGY_NAMES:
        shown = yaml.safe_load((config_folder() / "strategy" / f"{name}.yaml").read_text())
        assert shown == TypeAdapter(StrategyConfig).validate_python({"name": name}).model_dump()


@pytest.mark.ci_slow
@pytest.mark.parametrize("partition", config_groups()["partition"])
def test_every_partition_composes_and_has_the_name_of_its_file(partition):
    assert compose_simulation([f"partition={partition}"]).partition.name == partition


@pytest.mark.ci_slow
@pytest.mark.parametrize("cohort", COHORTS)
def test_every_cohort_composes_and_has_the_name_of_its_file(cohort, tmp_path):
    data = compose_simulation([f"data={cohort}", f"data.root={tmp_path}"]).data
    assert (data.name, data.root) == (cohort, tmp_path)
    assert data.clinical.event_means == "happened"
    assert data.clinical.time_unit == "months"


@pytest.mark.ci_slow
@pytest.mark.real_data
@pytest.mark.parametrize("cohort", COHORTS)
def test_every_file_and_column_that_a_cohort_names_exists(cohort, data_root):
    import pandas as pd

    data = compose_simulation([f"data={cohort}", f"data.root={data_root}"]).data
    clinical = set(pd.read_csv(data_root / data.clinical.file, nrows=0).columns)
    wanted = {
        data.clinical.case_id,
        data.clinical.slides,
        data.clinical.time,
        data.clinical.event,
        data.clinical.tss,
    }
    assert wanted - {None} <= clinical
    genes = pd.read_csv(data_root / data.genomics.file, nrows=0).columns
    assert any(re.search(r"_(rnaseq|cnv|mut)$", column) for column in genes)
    if data.features is not None and (data_root / data.features.path).is_dir():
        assert list((data_root / data.features.path).glob("*.h5"))
    elif data.features is not None:
        features = pd.read_csv(data_root / data.features.path, nrows=0).columns
        assert data.features.key in features
        assert any(re.search(data.features.columns, column) for column in features)
        assert (data_root / data.features.groups_file).is_file()
    assert (data_root / data.signatures).is_file()
    assert (data_root / data.tss_table).is_file()
    assert len(list((data_root / data.splits).glob("splits_*.csv"))) == 5


def test_data_root_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMAMBA_DATA", str(tmp_path))
    assert compose_simulation(["data=tcga_blca"]).data.root == tmp_path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(config_folder())))
def test_a_file_is_data_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# "), "the first line says what the file is"
    assert "_target_" not in text
    interpolations = set(re.findall(r"\$\{[^}]*\}", text))
    assert interpolations <= ({"${oc.env:MEMAMBA_DATA,null}"} if path.parent.name == "data" else set())
    values = yaml.safe_load(text)
    if path.parent == config_folder():
        assert values["defaults"][0] == "_self_", "or the file would silently overrule its groups"
    else:
        assert "defaults" not in values


def test_there_is_nothing_but_yaml():
    assert {path.suffix for path in config_folder().rglob("*") if path.is_file()} == {".yaml"}
