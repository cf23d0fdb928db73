"""`limits.settings`: every difference from the installed defaults is held against the site's rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config.compose import compose_experiment, config_groups
from memamba_core.config.experiment import Experiment
from memamba_core.config.setting_rules import GUARDED, SettingRule, check_differences
from memamba_core.config.site import LimitsConfig
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


@pytest.mark.parametrize("group", ["model", "federation", "strategy", "privacy", "training", "agreement"])
def test_a_file_of_a_group_gets_past_no_rule(group):
    for option in config_groups()[group]:
        experiment = compose_experiment([f"{group}={option}"])
        changed = experiment.differences(INSTALLED)
        assert len(check_differences(experiment, INSTALLED, [])) == len(changed)


@pytest.mark.parametrize(("setting", "relation"), GUARDED.items())
def test_without_a_list_a_guarded_setting_moves_in_the_harmless_direction_only(setting, relation):
    default = INSTALLED.flat()[setting]
    step = 1 if isinstance(default, int) else 0.1
    values = [value for value in (default + step, default - step) if value > 0]
    rule = SettingRule(setting, relation, default)
    for value in values:
        said = check_differences(compose_experiment([f"{setting}={value}"]), INSTALLED, None)
        harmless = value <= default if relation == "<=" else value >= default
        assert (said == []) == harmless == rule.allows(value)
        assert harmless or f"it must be {relation} {default:g}, the installed default" in said[0]
    assert not all(rule.allows(value) for value in values)


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


@pytest.mark.parametrize("value", ["0.1", None, True, (1, 2)])
def test_a_value_that_is_no_number_lies_within_no_bound(value):
    assert not SettingRule.parse("model.dropout<=1").allows(value)
