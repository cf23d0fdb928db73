"""The settings models: closed, frozen, checked across fields, with sentences for people."""

import pydantic
import pytest
import yaml

from memamba_core.config.experiment import Experiment
from memamba_core.config.simulation import CohortConfig, SimulationConfig
from memamba_core.config.site import SiteConfig, load_site_config
from memamba_core.config.strategy import FedAvgMConfig
from memamba_core.config.training import SGDConfig
from memamba_core.errors import ConfigError

SITE = {
    "name": "st-elsewhere",
    "data": {
        "root": "data",
        "clinical": {"file": "clinical.csv", "event": "censorship", "event_means": "censored"},
        "genomics": {"file": "genomics.csv.gz"},
    },
    "state": "state",
}


def test_settings_are_frozen():
    with pytest.raises(pydantic.ValidationError):
        Experiment().seed = 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seeed": 1}, ["unknown setting 'seeed'", "seed"]),
        ({"model": {"loss": {}}}, ["unknown setting 'model.loss'", "d_model"]),
        ({"training": {"loss": {"beta": 1}}}, ["unknown setting 'training.loss.beta'", "mmd_weight"]),
        ({"seed": -1}, ["seed", "got -1", "greater than or equal to 0"]),
        ({"model": {"dropout": float("nan")}}, ["model.dropout", "finite"]),
        ({"model": {"experts": []}}, ["experts is empty"]),
        ({"model": {"experts": ["synergistic", "genomics"]}}, ["needs experts pathology and genomics"]),
        ({"model": {"scans": ["attention", "attention"]}}, ["scans names one twice"]),
        ({"agreement": {"num_bins": 5}}, ["num_bins=5 needs 4"]),
        ({"agreement": {"public_edges": [12, 12, 24]}}, ["ascending"]),
        ({"agreement": {"public_edges": [0, 12, 24]}}, ["positive"]),
        ({"strategy": {"name": "fedprox", "tau": 1}}, ["fedprox has no setting tau", "choose strategy=fedadam or"]),
        (
            {"federation": {"optimizer": {"name": "adamw", "momentum": 0.9}}},
            ["federation.optimizer=adamw has no setting momentum; choose federation.optimizer=sgd"],
        ),
        ({"federation": {"optimizer": {"momentum": 0.9}}}, ["optimizer.name is missing; expected one of adamw, sgd"]),
        ({"strategy": {"name": "fedavgg"}}, ["strategy.name is 'fedavgg'; expected one of fedavg, fedprox"]),
        ({"strategy": "fedavg"}, ["strategy: got 'fedavg'"]),
        ({"seed": True}, ["seed: got 'True'", "valid integer"]),
        ({"federation": {"curve_on_test_fold": True, "curve_holdout": 0.1}}, ["exclude each other"]),
    ],
)
def test_an_experiment_that_does_not_fit_is_refused_with_the_reason(values, words):
    with pytest.raises(ConfigError) as caught:
        Experiment.parse(values, "some.yaml")
    assert all(word in str(caught.value) for word in ["some.yaml: ", *words]), caught.value


def test_every_fault_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        Experiment.parse({"seed": -1, "model": {"dropout": 2}}, "x")
    assert "seed" in str(caught.value)
    assert "model.dropout" in str(caught.value)


def test_momentum_is_for_sgd():
    assert SGDConfig(momentum=0.9).momentum == 0.9


def test_a_strategy_fills_in_its_own_defaults():
    assert FedAvgMConfig(server_momentum=0.5).model_dump() == {
        "name": "fedavgm",
        "server_learning_rate": 1.0,
        "server_momentum": 0.5,
    }


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"name": "tss_merged"}, "needs partition.min_patients"),
        ({"name": "dirichlet", "num_sites": 3}, "needs partition.alpha"),
        ({"name": "iid", "num_sites": 3, "alpha": 1.0}, "has no setting alpha"),
        ({"name": "tss", "num_sites": 3}, "no setting num_sites; choose partition=iid or partition=dirichlet"),
    ],
)
def test_a_partition_takes_what_it_uses_and_nothing_else(values, word):
    with pytest.raises(ConfigError, match=word):
        SimulationConfig.parse({"experiment": {}, "data": {"name": "x", "synthetic": {}}, "partition": values}, "x")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"folds": []}, "at least one fold"),
        ({"folds": [0, 0]}, "each once"),
        ({"fold_source": "random", "num_folds": 3, "folds": [3]}, "fold 3 does not exist"),
        ({"output_dir": "a", "resume": "b"}, "exclude each other"),
        ({"data": {"name": "x"}}, "either `clinical`"),
        ({"data": {"name": "x", "root": "/", "clinical": {"file": "a.csv"}}}, "nothing to learn from"),
        ({"data": {"name": "x", "synthetic": {"patches": [5, 2]}}}, "fewest <= most"),
    ],
)
def test_a_simulation_that_does_not_fit_is_refused_with_the_reason(values, word):
    complete = {"experiment": Experiment(), "data": CohortConfig(name="s", synthetic={}), **values}
    with pytest.raises(ConfigError, match=word):
        SimulationConfig.parse(complete, "x")


def test_a_site_file_is_read_with_its_paths_taken_from_its_own_folder(tmp_path):
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(SITE))
    site = load_site_config(tmp_path / "site.yaml")
    assert site.data.root == tmp_path / "data"
    assert site.state == tmp_path / "state"
    assert site.data.clinical.event_means == "censored"


def test_a_deployed_site_is_strict_where_a_simulation_is_not(tmp_path):
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(SITE))
    strict = load_site_config(tmp_path / "site.yaml").disclosure
    open_ = SimulationConfig(experiment=Experiment(), data=CohortConfig(name="s", synthetic={})).disclosure
    assert (strict.min_patients, strict.min_events, strict.min_pairs) == (10, 5, 50)
    assert (open_.min_patients, open_.min_events, open_.min_pairs) == (1, 0, 1)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (None, "no such file"),
        ("a: [", "not readable as YAML"),
        ("- a", "got list, wanted a mapping"),
        ("", "got NoneType"),
        (yaml.safe_dump({**SITE, "name": "../up"}), "name"),
        (yaml.safe_dump({**SITE, "colour": "red"}), "unknown setting 'colour'"),
        (yaml.safe_dump({k: v for k, v in SITE.items() if k != "data"}), "setting 'data' is missing"),
        (yaml.safe_dump({**SITE, "data": {**SITE["data"], "genomics": None}}), "nothing to learn from"),
        (
            yaml.safe_dump({**SITE, "limits": {"strategies": ["fedavg", "fedagv"]}}),
            "got 'fedagv'. Input should be 'fed",
        ),
    ],
)
def test_a_site_file_that_is_no_site_file_is_refused_by_name(text, word, tmp_path):
    path = tmp_path / "site.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=word) as caught:
        load_site_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("limits:\n  settings:\n    # federation.num_rounds<=30\n", ["limits.settings is empty", "Write [] to allow"]),
        ("limits: {settings: null}\n", ["limits.settings is empty"]),
        ("limits:\n  local_epochs:\n", ["limits.local_epochs is empty", "remove the line"]),
        ("limits:\n", ["limits is empty"]),
        ("disclosure:\n  min_patients:\n", ["disclosure.min_patients is empty"]),
        ("privacy:\n  # {max_epsilon: 8.0}\n", ["privacy is empty"]),
        ("privacy: ~\n", ["privacy is empty"]),
    ],
)
def test_a_section_of_the_policy_with_nothing_in_it_is_refused(tmp_path, text, words):
    """YAML reads null, which would be the default of the program: no list, no privacy."""
    path = tmp_path / "site.yaml"
    path.write_text(f"name: a\ndata: {{root: ., clinical: {{file: c.csv}}, genomics: {{file: g.csv}}}}\n{text}")
    with pytest.raises(ConfigError) as caught:
        load_site_config(path)
    for word in words:
        assert word in str(caught.value)


def test_an_empty_list_of_settings_is_no_null(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(
        "name: a\ndata: {root: ., clinical: {file: c.csv}, genomics: {file: g.csv}}\nlimits: {settings: []}\n"
    )
    assert load_site_config(path).limits.settings == ()


LISTED = {"coordinator": ":".join(["AB"] * 32), "settings": "0" * 64}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"listed_runs": ["abc"]},
            "listed_runs.0: got 'abc', wanted the settings coordinator, settings, as `name: value`",
        ),
        ({"listed_runs": LISTED}, "listed_runs: got a mapping of coordinator, settings, wanted a list, [a,b] or []"),
        (
            {"listed_runs": [{**LISTED, "coordinator": "ab:cd"}]},
            "listed_runs.0.coordinator: got 'ab:cd'. Wanted 32 pairs of digits, AB:CD:...; copy them from `flower",
        ),
        (
            {"listed_runs": [{**LISTED, "settings": "abc"}]},
            "listed_runs.0.settings: got 'abc'. Wanted 64 hexadecimal digits; copy them from `flower-client runs",
        ),
        (
            {"approve": {"listed_runs": ["abc"]}},
            "approve: got a mapping of listed_runs. Input should be 'ask', 'listed' or 'automatic'",
        ),
        ({"disclosure": "strict"}, "disclosure: got 'strict', wanted the settings min_patients, min_events, min_pairs"),
    ],
)
def test_a_value_in_place_of_a_group_is_shown_with_the_settings_of_the_group(changes, text):
    with pytest.raises(ConfigError) as error:
        SiteConfig.parse({**SITE, "approve": "listed", **changes}, "site.yaml")
    assert str(error.value).startswith(f"site.yaml: {text}")
