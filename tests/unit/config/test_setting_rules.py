"""`limits.settings`: every difference from the installed defaults is held against the site's rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config.compose import compose_experiment, config_groups
from memamba_core.config.experiment import Experiment
from memamba_core.config.setting_rules import GUARDED, LARGEST_RATE, SettingRule, check_differences
from memamba_core.config.site import LimitsConfig, SiteConfig
from memamba_core.errors import ConfigError

INSTALLED = Experiment()


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
        (["federation=adamw"], ["federation.optimizer"], ["federation.local_epochs"]),
    ],
)
def test_a_list_of_rules_allows_what_it_names_and_nothing_else(overrides, texts, refused):
    said = check_differences(compose_experiment(overrides), INSTALLED, rules(*texts))
    assert [sentence.partition("=")[0] for sentence in said] == refused


@pytest.mark.ci_slow
@pytest.mark.parametrize("group", ["model", "federation", "strategy", "privacy", "training", "agreement"])
def test_a_file_of_a_group_gets_past_no_rule(group):
    for option in config_groups()[group]:
        experiment = compose_experiment([f"{group}={option}"])
        changed = experiment.differences(INSTALLED)
        assert len(check_differences(experiment, INSTALLED, [])) == len(changed)


BOUNDED = {setting: relation for setting, relation in GUARDED.items() if relation != "=="}


def with_value(setting, value):
    """Overrides of a setting; the public edges have to fit the number of bins."""
    edges = [f"agreement.public_edges={[12 * i for i in range(1, value)]}"] if setting == "agreement.num_bins" else []
    return [f"{setting}={value}", *edges]


@pytest.mark.parametrize(("setting", "relation"), BOUNDED.items())
def test_without_a_list_a_guarded_setting_moves_in_the_harmless_direction_only(setting, relation):
    default = INSTALLED.flat()[setting]
    step = 1 if isinstance(default, int) else 0.1
    zero_is_valid = setting in ("federation.optimizer.momentum", "training.loss.alpha")
    values = [value for value in (default + step, default - step, 0) if value > 0 or (value == 0 and zero_is_valid)]
    rule = SettingRule(setting, relation, default)
    for value in values:
        said = check_differences(compose_experiment(with_value(setting, value)), INSTALLED, None)
        harmless = value <= default if relation == "<=" else value >= default
        assert (said == []) == harmless == rule.allows(value)
        assert harmless or f"it must be {relation} {default:g}, the installed default" in said[0]
    assert not all(rule.allows(value) for value in values)


def test_without_a_list_patients_without_the_event_stay_in_the_gradient():
    """With `before` and one wide first bin, only patients with the event have a gradient, as with alpha=1."""
    experiment = compose_experiment(["training.loss.censored_bin=before"])
    (said,) = check_differences(experiment, INSTALLED, None)
    assert said.endswith("without limits.settings it must be through, the installed default")
    assert check_differences(experiment, INSTALLED, rules("training.loss")) == []


@pytest.mark.parametrize("optimizer", LARGEST_RATE)
def test_without_a_list_another_optimizer_is_as_fast_as_its_file_at_most(optimizer):
    assert compose_experiment([f"federation={optimizer}"]).federation.optimizer.learning_rate == LARGEST_RATE[optimizer]
    for rate in (INSTALLED.federation.optimizer.learning_rate, 2 * LARGEST_RATE[optimizer]):
        experiment = compose_experiment([f"federation={optimizer}", f"federation.optimizer.learning_rate={rate}"])
        (said,) = check_differences(experiment, INSTALLED, None)
        assert said.startswith(f"federation.optimizer.learning_rate={rate};")


def test_without_a_list_everything_else_is_free():
    experiment = compose_experiment(
        ["strategy=fedadam", "agreement.num_bins=3", "agreement.public_edges=[6,12]", "seed=4"]
    )
    assert check_differences(experiment, INSTALLED, None) == []


@pytest.mark.parametrize("option", ["federation=adamw", "privacy=dp_sgd", "model=pathology", "model=late_fusion"])
def test_the_installed_files_run_at_a_site_without_a_list(option):
    assert check_differences(compose_experiment([option]), INSTALLED, None) == []


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
