"""`limits.settings`: every difference from the installed defaults is held against the site's rules."""

import copy
from functools import cache

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config.base import setting_names
from memamba_core.config.compose import compose_experiment, config_groups
from memamba_core.config.experiment import Experiment
from memamba_core.config.guarded_settings import (
    ALSO_ALLOWED,
    CONSTANTS,
    FREE,
    GUARDED,
    LARGEST,
    LARGEST_NUMBER,
    check_constants,
    is_guarded,
)
from memamba_core.config.setting_rules import SettingRule, check_differences, opened_settings
from memamba_core.config.site import LimitsConfig, SiteConfig
from memamba_core.errors import ConfigError

INSTALLED = Experiment()


@cache
def files_of(*choices):
    """Compose files of groups with Hydra, which takes a tenth of a second."""
    return compose_experiment(choices).model_dump()


def experiment_with(*overrides):
    """Build the experiment of overrides as on the command line; single values are set without Hydra."""
    files = tuple(override for override in overrides if override.partition("=")[0] in config_groups())
    values = copy.deepcopy(files_of(*files))
    for override in overrides:
        if override not in files:
            name, _, text = override.partition("=")
            *path, last = name.split(".")
            node = values
            for part in path:
                node = node[part]
            node[last] = yaml.safe_load(text)
    return Experiment.parse(values, "overrides")


def test_values_set_without_hydra_are_those_of_hydra():
    overrides = ["strategy=fedyogi", "strategy.tau=1e-6", "agreement.public_edges=[12,12.5,24]", "seed=4"]
    overrides += ["federation.update_norm=null", "model.experts=[genomics]", "model.linear_skip=false"]
    assert experiment_with(*overrides) == compose_experiment(overrides)


def rules(*texts):
    return [SettingRule.parse(text) for text in texts]


def test_no_difference_needs_no_rule():
    assert check_differences(INSTALLED, INSTALLED, []) == []
    assert check_differences(INSTALLED, INSTALLED, None) == []


@pytest.mark.parametrize(
    ("overrides", "texts", "refused"),
    [
        (["federation.num_rounds=3"], [], ["federation.num_rounds"]),
        (["federation.num_rounds=3"], ["federation.num_rounds"], []),
        (["federation.num_rounds=3"], ["federation"], []),
        (["federation.num_rounds=3"], ["*"], []),
        (["federation.num_rounds=3"], ["federation.num_rounds<=3"], []),
        (["federation.num_rounds=3"], ["federation.num_rounds<=2"], ["federation.num_rounds"]),
        (["federation.num_rounds=3"], ["federation", "federation.num_rounds>=4"], ["federation.num_rounds"]),
        (["federation.num_rounds=3"], ["training", "model.d_model"], ["federation.num_rounds"]),
        ([], ["training.gradient_clip<=0.5"], ["training.gradient_clip"]),
        ([], ["training.max_patches<=100"], ["training.max_patches"]),
        ([], ["strategy.proximal_mu<=0.1"], []),
        (["federation.optimizer.learning_rate=0.5"], ["federation.optimizer"], []),
        (["strategy=fedprox"], ["strategy.name"], ["strategy.proximal_mu"]),
        (["strategy=fedprox"], ["strategy"], []),
        (["model=genomics"], ["strategy"], ["model.experts"]),
        (["model.experts=[genomics]"], ["model.experts"], []),
        (["federation=adamw"], ["federation.optimizer"], ["federation.local_epochs", "federation.update_norm"]),
    ],
)
def test_a_list_of_rules_allows_what_it_names_and_nothing_else(overrides, texts, refused):
    said = check_differences(experiment_with(*overrides), INSTALLED, rules(*texts))
    assert [sentence.partition("=")[0] for sentence in said] == refused


@pytest.mark.ci_slow
@pytest.mark.parametrize("group", ["model", "federation", "strategy", "privacy", "training", "agreement"])
def test_a_file_of_a_group_gets_past_no_rule(group):
    for option in config_groups()[group]:
        experiment = compose_experiment([f"{group}={option}"])
        changed = experiment.differences(INSTALLED)
        assert len(check_differences(experiment, INSTALLED, [])) == len(changed)


def with_value(setting, value):
    """Overrides of a setting; the public edges have to fit the number of bins."""
    edges = [f"agreement.public_edges={[12 * i for i in range(1, value)]}"] if setting == "agreement.num_bins" else []
    return [f"{setting}={value}", *edges]


def refused(*overrides, rules=None):
    """Names of the settings that a site refuses."""
    return [s.partition("=")[0] for s in check_differences(experiment_with(*overrides), INSTALLED, rules)]


@pytest.mark.parametrize(("setting", "relation"), GUARDED.items())
def test_without_a_list_a_guarded_setting_moves_in_the_harmless_direction_only(setting, relation):
    default = INSTALLED.flat()[setting]
    step = 1 if isinstance(default, int) else default / 2 or 0.1
    values = [value for value in (default + step, default - step) if value >= 0]
    rule = SettingRule(setting, relation, default)
    for value in values:
        try:
            experiment = experiment_with(*with_value(setting, value))
        except ConfigError:
            continue  # out of the setting's own range
        said = [s for s in check_differences(experiment, INSTALLED, None) if s.startswith(f"{setting}=")]
        harmless = value <= default if relation == "<=" else value >= default
        assert (said == []) == harmless == rule.allows(value)
        assert harmless or f"it must be {relation} {default:g}, the installed default" in said[0]


@pytest.mark.parametrize(
    "override",
    [
        "training.loss.censored_bin=before",
        "training.loss.expert_weight=0.5",
        "training.loss.mmd_weight=10",
        "model.transport=exact",
        "model.transport=unbalanced",
        "model.hazard_bias=-30",
        "model.hazard_bias=2",
        "model.dropout=0",
        "model.d_conv=5",
        "agreement.gene_transform=none",
        "agreement.feature_scaling=none",
        "agreement.public_edges=[12,12.5,24]",
        "agreement.public_edges=[1,12,24]",
        "agreement.public_edges=[12,24,200]",
        "federation.num_rounds=101",
        "federation.local_epochs=3",
        "federation.update_norm=1.5",
        "federation.update_norm=null",
        "federation.optimizer.momentum=0.5",
        "strategy=fedavgm strategy.server_learning_rate=5",
        "strategy=fedavgm strategy.server_momentum=0.99",
        "strategy=fedadam strategy.beta_1=0",
        "strategy=fedadam strategy.beta_2=0.999",
        "strategy=fedyogi strategy.tau=1e-6",
        "strategy=fedyogi strategy.server_learning_rate=1",
    ],
)
def test_without_a_list_settings_that_help_to_single_a_patient_out_are_refused(override):
    overrides = override.split()
    try:
        found = refused(*overrides)
    except ConfigError:
        return  # out of the setting's own range
    assert found == [overrides[-1].partition("=")[0]]
    assert refused(*overrides, rules=rules("*")) == []


def test_without_a_list_slides_get_no_path_without_dropout():
    model = INSTALLED.model.model_copy(update={"slide_skip": True})
    (said,) = check_differences(INSTALLED.model_copy(update={"model": model}), INSTALLED, None)
    assert said == "model.slide_skip=True; without limits.settings it must be False, the installed default"


@pytest.mark.parametrize("optimizer", LARGEST)
def test_without_a_list_another_optimizer_has_the_values_of_its_file_at_most(optimizer):
    composed = experiment_with(f"federation={optimizer}").flat()
    for setting, largest in LARGEST[optimizer].items():
        assert composed[setting] == largest
        (said,) = check_differences(
            experiment_with(f"federation={optimizer}", f"{setting}={2 * largest}"), INSTALLED, None
        )
        assert said.endswith(f"<= {largest:g}, the largest for {optimizer}")
        assert said.startswith(f"{setting}={2 * largest};")


def test_the_longer_updates_of_another_optimizer_are_not_allowed_with_the_default_one():
    assert refused("federation.update_norm=10") == ["federation.update_norm"]
    rate = INSTALLED.federation.optimizer.learning_rate
    assert refused("federation=adamw", f"federation.optimizer.learning_rate={rate}") == [
        "federation.optimizer.learning_rate"
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ["strategy=fedadam", "agreement.num_bins=3", "agreement.public_edges=[6,12]", "seed=4"],
        ["federation.num_rounds=50", "federation.min_results=3", "federation.wire=bfloat16_delta"],
        ["model.experts=[genomics]", "model.linear_skip=false", "agreement.gene_groups=kind"],
        ["training.max_patches=100", "training.precision=bfloat16", "training.batch_size=128"],
        ["federation=adamw"],
        ["federation=adamw", "federation.update_norm=1"],
        ["model=pathology"],
        ["model=late_fusion"],
        ["privacy=dp_sgd"],
    ],
    ids=str,
)
def test_without_a_list_harmless_settings_and_the_installed_files_are_free(overrides):
    assert check_differences(experiment_with(*overrides), INSTALLED, None) == []


def test_every_setting_of_the_closed_groups_is_judged():
    """A new setting of the model, the training or the agreement is closed until a table names it."""
    names = list(setting_names(Experiment))
    for table in (GUARDED, ALSO_ALLOWED, LARGEST_NUMBER, CONSTANTS):
        assert set(table) <= set(names)
    for free in FREE:
        assert any(name == free or name.startswith(f"{free}.") for name in names)
        assert free not in {*GUARDED, *ALSO_ALLOWED}
    closed = {name for name in names if is_guarded(name)}
    named = {*GUARDED, *ALSO_ALLOWED, *LARGEST_NUMBER, "agreement.public_edges"}
    # with the installed value only: no direction of these is harmless
    assert {name for name in closed - named if not name.startswith("strategy.")} == {
        "agreement.gene_transform",
        "model.hazard_bias",
        "model.transport_marginal",
        "training.loss.censored_bin",
    }


@pytest.mark.parametrize(
    "override",
    [
        "agreement.gene_transform=none",
        "agreement.gene_statistics_clip=5",
        "agreement.grid_step_months=12",
        "agreement.grid_num_cells=30",
        "federation.curve_holdout=0.1",
        "federation.curve_on_test_fold=true",
        "federation.update_norm=null",
    ],
)
def test_constants_of_a_deployment_cannot_be_set_in_either_direction(override):
    """Also where `limits.settings` allows everything: two runs with different constants could be subtracted."""
    (said,) = check_constants(experiment_with(override), INSTALLED)
    assert said.startswith(override.partition("=")[0])
    assert check_constants(INSTALLED, INSTALLED) == []


def test_a_private_run_needs_no_bound_of_its_updates():
    experiment = compose_experiment(["privacy=dp_sgd"])
    assert experiment.federation.update_norm is None
    assert check_constants(experiment, INSTALLED) == []


@pytest.mark.parametrize(
    ("texts", "opened"),
    [
        (None, []),
        ([], []),
        (["federation.num_rounds<=30", "model.dropout>=0.25"], []),
        (["seed", "model.experts", "federation.min_results"], []),
        (["model.dropout"], ["model.dropout"]),
        (["training", "training.gradient_clip<=2"], ["training.batch_size"]),
        (["*"], ["federation.optimizer.learning_rate", "model.dropout", "agreement.gene_transform"]),
    ],
)
def test_a_list_that_opens_guarded_settings_is_known(texts, opened):
    found = opened_settings(None if texts is None else rules(*texts))
    assert set(opened) <= set(found)
    assert (found == []) == (opened == [])
    assert "training.gradient_clip" not in found or texts == ["*"]


def test_the_warning_names_the_number_and_the_way_out():
    assert LimitsConfig().warning() is None
    assert LimitsConfig(settings=("model.dropout>=0.1",)).warning() is None
    said = LimitsConfig(settings=("*",)).warning()
    assert "limits.settings opens " in said
    assert "Name single settings with bounds" in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model.",
        ".model",
        "modell",
        "model.dropout<0.5",
        "model.dropout<=",
        "model.dropout<=x",
        "model<=3",
        "*<=1",
        "model.dropout<=nan",
        "model.dropout<=1e999",
        "federation.num_rounds == 3",
        "model.drop",
        "training.learning_rate",
    ],
)
def test_a_rule_that_means_nothing_is_refused_in_site_yaml(text):
    with pytest.raises(ConfigError, match=r"limits"):
        LimitsConfig.parse({"settings": [text]}, "limits")


@given(st.floats(-10, 10), st.floats(-10, 10), st.sampled_from(["<=", ">="]))
def test_a_bound_is_a_bound(bound, value, relation):
    rule = SettingRule.parse(f"federation.optimizer.learning_rate {relation} {bound!r}")
    assert rule.allows(value) == (value <= bound if relation == "<=" else value >= bound)
    assert SettingRule.parse(str(SettingRule("model.dropout", "<=", 0.25))) == SettingRule("model.dropout", "<=", 0.25)


@pytest.mark.parametrize("bound", ["1234567", "0.12345649", "16777215", "1e-7"])
def test_a_bound_keeps_its_digits_in_site_yaml(bound):
    (rule,) = LimitsConfig.parse({"settings": [f"training.gradient_clip <= {bound}"]}, "limits").setting_rules
    assert rule.bound == float(bound)


def test_zero_with_a_sign_is_a_difference():
    """The digest differs, so a site that allows no difference must not accept it."""
    experiment = compose_experiment(["training.loss.alpha=-0.0"])
    assert experiment == INSTALLED
    assert experiment.digest() != INSTALLED.digest()
    assert len(check_differences(experiment, INSTALLED, [])) == 1


@pytest.mark.parametrize("value", ["0.1", None, True, (1, 2)])
def test_a_value_that_is_no_number_lies_within_no_bound(value):
    assert not SettingRule.parse("model.dropout<=1").allows(value)


def test_the_name_of_version_0_1_0_leads_to_todays():
    with pytest.raises(ConfigError, match=r"unknown setting 'limits\.overrides'; nearest is limits\.settings"):
        SiteConfig.parse({"name": "a", "data": {}, "limits": {"overrides": []}}, "site.yaml")
