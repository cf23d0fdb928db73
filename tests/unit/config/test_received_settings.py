"""Settings that came over the network: canonical JSON of an experiment, or a refusal. Hydra reads none of it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config import compose
from memamba_core.config.compose import compose_experiment
from memamba_core.config.experiment import Experiment
from memamba_core.errors import ConfigError

HONEST = Experiment().to_json()


def changed(path, value):
    """The settings of an honest coordinator with one value of another kind, written canonically."""
    values = json.loads(HONEST)
    node = values
    *groups, name = path.split(".")
    for group in groups:
        node = node[group]
    node[name] = value
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def without(path):
    values = json.loads(HONEST)
    node = values
    *groups, name = path.split(".")
    for group in groups:
        node = node[group]
    del node[name]
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


HOSTILE = {
    "nothing": "",
    "no JSON": "seed: 1",
    "a list": "[]",
    "a number": "1",
    "null": "null",
    "an interpolation": changed("seed", "${oc.env:SECRET}"),
    "an interpolation where text is": changed("model.transport", "${oc.env:SECRET}"),
    "a target": changed("model._target_", "os.system"),
    "a target at the top": changed("_target_", "os.system"),
    "Hydra's own settings": changed("hydra", {"searchpath": ["file:///tmp"]}),
    "a default list": changed("defaults", ["/x"]),
    "a key of a simulation": changed("output_dir", "/tmp"),
    "a site's data": changed("data", {"root": "/etc"}),
    "a site's thresholds": changed("disclosure", {"min_patients": 1}),
    "an unknown key": changed("model.nothing", 1),
    "a group that is a path": changed("model", "../data/tcga_blca"),
    "a group that is null": changed("model", None),
    "a group that is a list": changed("model", ["genomics", "late_fusion"]),
    "an unknown kind": changed("strategy.name", "fedevil"),
    "a setting of another kind": changed("strategy.proximal_mu", 1.0),
    "a number as text": changed("seed", "1"),
    "a number as a boolean": changed("seed", True),
    "a number as a list": changed("seed", [1]),
    "a float as an integer": changed("model.dropout", 0),
    "out of range": changed("model.dropout", 2.0),
    "not finite": HONEST.replace('"dropout":0.5', '"dropout":NaN'),
    "infinite": HONEST.replace('"learning_rate":0.3', '"learning_rate":Infinity'),
    "a missing setting": without("model.dropout"),
    "a missing group": without("privacy"),
    "white space": HONEST.replace(",", ", "),
    "a key twice": HONEST.replace('"seed":0', '"seed":1,"seed":0'),
    "keys in another order": json.dumps(dict(reversed(json.loads(HONEST).items())), separators=(",", ":")),
    "text behind it": HONEST + " ",
    "nested without end": "[" * 50_000,
    "too long": changed("seed", 1) + " " * 70_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_settings_are_refused_and_hydra_never_sees_them(text, monkeypatch):
    monkeypatch.setenv("SECRET", "3")
    monkeypatch.setattr(compose, "_compose", lambda *_: pytest.fail("was composed"))
    assert text != HONEST
    with pytest.raises(ConfigError) as caught:
        Experiment.from_json(text)
    assert "\n" not in str(caught.value)


def test_thousands_of_unknown_keys_do_not_fill_the_log():
    values = json.loads(HONEST)
    values["model"] |= {f"{number:04x}": 0 for number in range(5_000)}
    with pytest.raises(ConfigError) as caught:
        Experiment.from_json(json.dumps(values, sort_keys=True, separators=(",", ":")))
    assert len(str(caught.value)) < 2_100


@pytest.mark.parametrize("depth", range(900, 1000, 3))
def test_any_depth_is_refused_by_a_configuration_error(depth):
    with pytest.raises(ConfigError):
        Experiment.from_json(HONEST.replace('"seed":0', f'"seed":{"[" * depth}{"]" * depth}'))


def test_a_weight_decay_that_makes_weights_grow_is_refused():
    """Each further step would multiply the first gradient, past the bounds on learning rate and gradient clip."""
    text = HONEST.replace('"learning_rate":0.3,"momentum":0.0,"name":"sgd","skip_weight_decay":0.0', "X")
    assert text != HONEST
    for decay, accepted in ((3.0, True), (4.0, False), (1e300, False)):
        rewritten = f'"learning_rate":0.3,"momentum":0.0,"name":"sgd","skip_weight_decay":{json.dumps(decay)}'
        if accepted:
            assert Experiment.from_json(text.replace("X", rewritten)).federation.optimizer.skip_weight_decay == decay
        else:
            with pytest.raises(ConfigError, match="expected at most 1"):
                Experiment.from_json(text.replace("X", rewritten))


def test_honest_settings_are_read():
    assert Experiment.from_json(HONEST) == Experiment() == compose_experiment()


@given(st.text(max_size=300))
def test_any_text_is_refused_by_a_configuration_error(text):
    with pytest.raises(ConfigError):
        Experiment.from_json(text)


@given(
    st.sampled_from(sorted(Experiment().flat())),
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-2, 2)
    | st.text(max_size=4)
    | st.lists(st.integers(0, 2)),
)
def test_what_is_accepted_is_an_experiment_whose_own_json_it_is(name, value):
    try:
        experiment = Experiment.from_json(text := changed(name, value))
    except ConfigError:
        return
    assert experiment.to_json() == text
    assert set(experiment.differences(Experiment())) <= {name}


def test_a_difference_is_named_by_its_setting():
    experiment = compose_experiment(["strategy=fedprox", "model.dropout=0.25", "federation.optimizer.momentum=0.5"])
    assert experiment.differences(compose_experiment()) == {
        "strategy.name": "fedprox",
        "strategy.proximal_mu": 0.01,
        "model.dropout": 0.25,
        "federation.optimizer.momentum": 0.5,
    }
