"""Learning rate over a run, weight-decay groups, and the bits of torch's optimizers."""

import copy
import math
import subprocess
import sys

import pytest
import torch

from memamba_core.config.model import ModelConfig
from memamba_core.config.training import AdamWConfig, SGDConfig, TrainingConfig
from memamba_core.model import build_model
from memamba_core.patient import InputSpec
from memamba_core.training.optim import build_optimizer, learning_rate_factor, set_learning_rate


@pytest.mark.parametrize(
    ("settings", "progress", "factor"),
    [
        ({"warmup_fraction": 0.1}, 0.0, 0.01),
        ({"warmup_fraction": 0.1}, 0.05, 0.5),
        ({"warmup_fraction": 0.1}, 0.1, 1.0),
        ({"warmup_fraction": 0.1}, 0.55, 0.5),
        ({"warmup_fraction": 0.1}, 0.325, (1 + math.sqrt(0.5)) / 2),
        ({"warmup_fraction": 0.1}, 1.0, 0.0),
        ({"warmup_fraction": 0.0}, 0.0, 1.0),
        ({"warmup_fraction": 0.0, "schedule": "constant"}, 0.0, 1.0),
        ({"warmup_fraction": 0.2, "schedule": "constant"}, 0.1, 0.5),
        ({"warmup_fraction": 0.2, "schedule": "constant"}, 0.9, 1.0),
        ({"warmup_fraction": 1e-4}, 0.0, 1.0),  # over before the first step ends: never above the peak
    ],
)
def test_learning_rates_over_a_run(settings, progress, factor):
    settings = TrainingConfig.model_validate({"schedule": "cosine", **settings})
    assert learning_rate_factor(settings, progress) == pytest.approx(factor, abs=1e-12)


def test_weight_decay_spares_vectors_and_the_state_of_the_scan():
    families = {"x": (0, 1), "y": (2, 3, 4)}
    spec = InputSpec(
        num_bins=3, num_genes=4, gene_groups={"a": (0, 1, 2), "b": (2, 3)}, feature_width=5, feature_groups=families
    )
    model = build_model(ModelConfig(d_model=8, d_state=2, slide_skip=True), spec, seed=0, expert_heads=True)
    optimizer = build_optimizer(model, AdamWConfig(weight_decay=0.02, skip_weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: decay[id(p)] for name, p in model.named_parameters()}
    skips = {name for name in by_name if "linear_skip" in name}
    assert skips
    for name, parameter in model.named_parameters():
        if name in skips:
            wanted = 0.3
        elif name.endswith(("A_log", ".D", "bias")) or parameter.ndim < 2:  # some biases are tables, one row a group
            wanted = 0.0
        else:
            wanted = 0.02
        assert by_name[name] == wanted, name
    assert any(name.endswith("A_log") for name in by_name)
    assert set(by_name.values()) == {0.0, 0.02, 0.3}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(by_name)


def _layers():
    """Build layers whose parameters fall into all three groups, and one parameter that never gets a gradient."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3), torch.nn.Linear(3, 2)
    )
    layers[2].weight._skip_weight_decay = True
    layers[3].weight._no_weight_decay = True
    layers.register_parameter("idle", torch.nn.Parameter(torch.ones(2, 2)))
    return layers


@pytest.mark.ci_slow  # torch's optimizers import its compiler
@pytest.mark.parametrize(
    ("config", "torchs", "options"),
    [
        (
            AdamWConfig(weight_decay=0.1, skip_weight_decay=0.3, learning_rate=0.05),
            torch.optim.AdamW,
            {"fused": True},
        ),
        (
            SGDConfig(momentum=0.9, weight_decay=0.1, skip_weight_decay=0.3, learning_rate=0.05),
            torch.optim.SGD,
            {"momentum": 0.9},
        ),
        (SGDConfig(momentum=0.0, learning_rate=0.05), torch.optim.SGD, {"momentum": 0.0}),
    ],
    ids=["adamw", "momentum", "sgd"],
)
def test_steps_are_those_of_torch(config, torchs, options):
    """Compare parameters and states bit by bit over steps with groups, a changing rate and absent gradients."""
    ours = _layers()
    optimizer = build_optimizer(ours, config)
    assert isinstance(optimizer, torchs)
    assert len(optimizer.param_groups) == 3
    assert {group["weight_decay"] for group in optimizer.param_groups} == {
        config.weight_decay,
        0.0,
        config.skip_weight_decay,
    }
    theirs = copy.deepcopy(ours)
    twins = dict(zip(ours.parameters(), theirs.parameters(), strict=True))
    groups = [
        {"params": [twins[p] for p in group["params"]], "weight_decay": group["weight_decay"]}
        for group in optimizer.param_groups
    ]
    twin = torchs(groups, lr=config.learning_rate, **options)
    start = copy.deepcopy(ours.state_dict())
    for number in range(8):
        inputs = torch.randn(6, 4)
        for layers, stepping in ((ours, optimizer), (theirs, twin)):
            set_learning_rate(stepping, config.learning_rate * (1 - number / 10))
            stepping.zero_grad(set_to_none=number % 3 > 0)
            output = layers[:2](inputs) if number == 4 else layers(inputs)  # the last layers get no gradient then
            output.square().sum().backward()
            stepping.step()
        for mine, other in twins.items():
            assert torch.equal(mine, other)
    for mine, other in twins.items():
        assert optimizer.state[mine].keys() == twin.state[other].keys()
        for key, value in optimizer.state[mine].items():
            assert (value is None and twin.state[other][key] is None) or torch.equal(value, twin.state[other][key])
    assert torch.equal(ours.idle, torch.ones(2, 2))
    moved = [name for name, value in ours.state_dict().items() if not torch.equal(value, start[name])]
    assert len(moved) == len(start) - 1


_STEPS = """
import sys, torch
from memamba_core.config.training import AdamWConfig, SGDConfig
from memamba_core.privacy.dp_sgd import PatientOptimizer
from memamba_core.privacy.secure_random import SecureRandom
from memamba_core.training.optim import build_optimizer
layer = torch.nn.Linear(2, 2)
for config in (AdamWConfig(), SGDConfig()):
    optimizer = build_optimizer(layer, config)
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
private = PatientOptimizer(optimizer, noise_multiplier=1.0, max_norm=1.0, divisor=2.0, random=SecureRandom())
layer(torch.ones(2)).sum().backward()
private.add_patient()
private.noisy_step()
assert "torch._dynamo" not in sys.modules
"""


@pytest.mark.ci_slow
def test_a_step_does_not_import_the_compiler():
    pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")
    subprocess.run([sys.executable, "-c", _STEPS], check=True)
