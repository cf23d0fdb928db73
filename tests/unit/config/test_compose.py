"""Composing: overrides in, frozen settings out, with sentences for what does not fit."""

from concurrent.futures import ThreadPoolExecutor

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from memamba_core.config.compose import (
    HYDRA_VERSION_BASE,
    compose_experiment,
    compose_simulation,
    config_folder,
    hydra_overrides,
    render_settings,
)
from memamba_core.config.experiment import Experiment
from memamba_core.config.strategy import FedProxConfig
from memamba_core.errors import ConfigError


def test_an_override_changes_one_setting():
    assert compose_experiment(["federation.num_rounds=3"]).federation.num_rounds == 3


def test_a_setting_that_no_file_shows_can_be_overridden():
    assert "d_conv" not in (config_folder() / "model" / "default.yaml").read_text()
    assert compose_experiment(["model.d_conv=3"]).model.d_conv == 3


def test_a_group_is_chosen_and_changed_at_once():
    experiment = compose_experiment(["strategy=fedprox", "strategy.proximal_mu=0.5"])
    assert experiment.strategy == FedProxConfig(proximal_mu=0.5)


def test_lists_become_tuples_and_nothing_of_hydra_is_left():
    dumped = compose_simulation(["agreement.num_bins=3", "agreement.public_edges=[10, 20]"]).model_dump()

    def walk(value):
        assert type(value).__module__.split(".")[0] not in {"omegaconf", "hydra"}
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
            walk(inner)

    walk(dumped)
    assert dumped["experiment"]["agreement"]["public_edges"] == (10.0, 20.0)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model=foo", ["model/foo", "genomics", "late_fusion"]),
        ("data=foo", ["data/foo", "synthetic", "tcga_blca"]),
        ("data.rooot=x", ["unknown setting 'data.rooot'", "root"]),
        ("modell.dropout=0", ["unknown setting 'modell'", "model"]),
        ("model.dropuot=0", ["unknown setting 'model.dropuot'", "dropout"]),
        ("model.dropout=2", ["model.dropout", "got 2", "less than 1"]),
        ("model.dropout=much", ["model.dropout", "got 'much'", "number"]),
        ("model.dropout.x=1", ["model.dropout", "number"]),
        ("model.scans=attention", ["model.scans", "got 'attention'", "wanted a list, [a,b]"]),
        ("model.experts=[genomics,radiology]", ["model.experts.1", "got 'radiology'", "'pathology'"]),
        ("strategy.proximal_mu=1", ["strategy=fedavg has no setting proximal_mu"]),
        ("partition.alpha=1", ["partition=tss has no setting alpha"]),
        ("folds=[]", ["at least one fold"]),
        ("seed=1,2", ["'seed=1,2' has several values", "(seed=[...])"]),
        ("seed", ["got 'seed'", "wanted key=value"]),
        ("model=null", ["model=null", "must be a string"]),
        ("model={a: 1}", ["model"]),
        ("seed=${oc.env:MEMAMBA_NO_SUCH_VARIABLE}", ["MEMAMBA_NO_SUCH_VARIABLE"]),
        ("seed=${nowhere}", ["nowhere"]),
        ("experiment.seed=1", ["unknown setting 'experiment'"]),
        ("data=tcga_blca", ["data.root=FOLDER", "MEMAMBA_DATA"]),
    ],
)
def test_what_does_not_fit_is_a_sentence_that_names_it_and_what_is_allowed(override, words, monkeypatch):
    monkeypatch.delenv("MEMAMBA_DATA", raising=False)
    with pytest.raises(ConfigError) as caught:
        compose_simulation([override])
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_an_unknown_settings_file_is_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"no settings file '\.\./x'; there are: audit, experiment, simulate"):
        compose_experiment(config_name="../x")


def test_the_simulation_is_no_experiment():
    with pytest.raises(ConfigError, match="unknown setting"):
        compose_experiment(config_name="simulate")


# --- the digest ---


def test_digest_changes_with_a_setting_and_not_with_the_order_in_which_settings_were_given():
    one = compose_experiment(["seed=1", "model.d_model=16"])
    other = compose_experiment(["model.d_model=16", "seed=1"])
    assert one.digest() == other.digest() != compose_experiment(["seed=1"]).digest()
    values = Experiment().model_dump(mode="json")
    turned_round = {key: dict(reversed(v.items())) if isinstance(v, dict) else v for key, v in reversed(values.items())}
    assert Experiment.parse(turned_round, "test").digest() == Experiment().digest()


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["partition=iid", "data.synthetic.effect=1", "output_dir=x"],
        ["federation.num_rounds=3", "compare=true", "model=late_fusion", "model.d_conv=3"],
        ["strategy=fedadam", "strategy.tau=0.1", "seed=5", "folds=[0,1]", "++training.batch_size=8"],
        [
            "agreement.time_bins=public",
            "agreement.public_edges=[6, 12.5, 1e2]",
            "workers=2",
        ],
        [
            "training.max_patches=null",
            "model.experts=[genomics]",
            "model.scans=[]",
            "federation.update_norm=3",
        ],
    ],
)
def test_a_site_reads_the_settings_that_were_composed(overrides):
    experiment = compose_simulation(overrides).experiment
    received = Experiment.from_json(experiment.to_json())
    assert received == experiment
    assert received.digest() == experiment.digest()


def test_hydra_gets_settings_that_no_file_shows():
    given = ["model=genomics", "model.d_conv=3", "seed=1"]
    assert hydra_overrides(given) == ["model=genomics", "++model.d_conv=3", "++seed=1"]


# --- inside other users of Hydra, and from threads ---


def test_composing_leaves_an_outer_hydra_as_it_was():
    with hydra.initialize_config_dir(str(config_folder()), version_base=HYDRA_VERSION_BASE):
        outer = GlobalHydra.instance().hydra
        config = hydra.compose("simulate", overrides=hydra_overrides(["seed=3", "model.d_conv=3"]))
        assert isinstance(config, DictConfig)
        simulation = compose_simulation(["seed=3", "model.d_conv=3"])
        assert (simulation.experiment.seed, simulation.experiment.model.d_conv) == (3, 3)
        with pytest.raises(ConfigError):
            compose_experiment(["model=foo"])
        assert GlobalHydra.instance().hydra is outer
        hydra.compose("experiment")
    assert not GlobalHydra.instance().is_initialized()
    compose_experiment()
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.ci_slow
def test_threads_do_not_disturb_each_other():
    with ThreadPoolExecutor(8) as pool:
        seeds = list(pool.map(lambda seed: compose_experiment([f"seed={seed}"]).seed, range(24)))
    assert seeds == list(range(24))


def test_the_composed_settings_can_be_read_as_yaml():
    text = render_settings("simulate", ["seed=4", "data.synthetic.num_sites=3"])
    values = yaml.safe_load(text)
    assert (values["seed"], values["data"]["synthetic"]["num_sites"]) == (4, 3)


def test_a_missing_value_is_named():
    with pytest.raises(ConfigError, match="seed"):
        compose_simulation(["seed='???'"])


def test_a_folder_may_have_signs_of_the_grammar_in_its_name():
    config = compose_simulation(["output_dir=out/seed=1,strategy=it's [new]"])
    assert str(config.output_dir) == "out/seed=1,strategy=it's [new]"
    assert str(compose_simulation(["resume='a,b'"]).resume) == "a,b"
    assert compose_simulation(["output_dir=null"]).output_dir is None


def test_a_folder_of_more_settings_files_is_found(tmp_path):
    (tmp_path / "a b" / "data").mkdir(parents=True)
    (tmp_path / "a b" / "data" / "mine.yaml").write_text("name: mine\nsynthetic: {num_sites: 3}\n")
    config = compose_simulation(["data=mine"], tmp_path / "a b")
    assert (config.data.name, config.data.synthetic.num_sites) == ("mine", 3)
    with pytest.raises(ConfigError, match="there is no 'data/mine'"):
        compose_simulation(["data=mine"])
