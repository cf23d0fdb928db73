"""Training, private training, prediction and a whole federation on a GPU, compared with a CPU."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from fixtures.federation import Federation, tiny

from memamba_core.config.training import AdamWConfig, TrainingConfig
from memamba_core.data.dataset import PatientDataset
from memamba_core.model import scan
from memamba_core.training.checkpoint import initial_model
from memamba_core.training.trainer import Span, predict, train, training_loss
from server.federation.handshake import perform_handshake

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
SETTINGS = tiny(
    "model.dropout=0",  # devices draw different masks
    "model.d_model=16",
    "model.scan_backend=auto",
    "data.synthetic.patches=[40,90]",
)


@pytest.fixture(params=["triton", "mamba_ssm"])
def _each_scan(request, monkeypatch):
    """Return the scan backend that `auto` chooses on the GPU."""
    if (missing := scan._missing(request.param)) is not None:
        pytest.skip(missing)
    monkeypatch.setitem(scan._FASTEST, "cuda", (request.param,))


@pytest.fixture(scope="module")
def parts():
    """Return experiment, agreement and patients of one cohort."""
    federation = Federation(SETTINGS)
    agreement = perform_handshake(federation.grid(), federation.run(), federation.cohort.signatures).agreement
    experiment = federation.config.experiment
    return experiment, agreement, PatientDataset(federation.cohort.cohort, agreement, experiment.agreement)


def gradients(parts, device, **config):
    experiment, agreement, dataset = parts
    model = initial_model(experiment, agreement).to(device)
    patients = [dataset.load(i) for i in range(8)]
    loss, _ = training_loss(model, patients, TrainingConfig(**config))
    loss.backward()
    return loss.item(), {n: p.grad.double().cpu() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("_each_scan")
@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_the_gradient_of_the_loss_is_that_of_a_cpu(parts, precision, bound):
    loss, grads = gradients(parts, GPU, precision=precision)
    wanted_loss, wanted = gradients(parts, CPU)
    assert loss == pytest.approx(wanted_loss, rel=bound)
    assert grads.keys() == wanted.keys()
    difference = sum((grads[n] - wanted[n]).square().sum() for n in wanted)
    assert (difference / sum(g.square().sum() for g in wanted.values())).sqrt() < bound


@pytest.mark.usefixtures("_each_scan")
def test_trained_on_a_gpu_and_used_on_a_cpu(parts):
    """Train three epochs with AdamW: losses near those of a CPU; equal risks of equal weights on both."""
    experiment, agreement, dataset = parts
    losses = {}
    for device in (CPU, GPU):
        model = initial_model(experiment, agreement)
        options = {"config": TrainingConfig(batch_size=8), "optimizer": AdamWConfig(), "span": Span(0, 3, 3)}
        losses[device] = train(model, dataset, **options, seed=3, device=device).mean_loss
    assert losses[GPU] == pytest.approx(losses[CPU], rel=0.02)
    on_gpu = predict(model, dataset, device=GPU)
    on_cpu = predict(model, dataset, device=CPU)
    assert on_gpu.risk == pytest.approx(on_cpu.risk, rel=1e-3, abs=1e-4)
    assert on_gpu.survival_NK == pytest.approx(on_cpu.survival_NK, rel=1e-3, abs=1e-4)


@pytest.mark.usefixtures("_each_scan")
def test_a_private_round_takes_the_same_steps():
    pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")
    from fixtures.dp_training import BAND, ONE_SITE, StillChance

    from memamba_core.privacy.plan import plan_of
    from memamba_core.training.dp_training import train_dp_round

    federation = Federation(
        tiny(*ONE_SITE, "privacy=dp_sgd", "privacy.trained=all", "model.dropout=0", "model.scan_backend=auto")
    )
    # A private run would need sites with a budget for its handshake.
    plain = Federation(tiny(*ONE_SITE, "agreement.gene_scaling=public"))
    agreement = perform_handshake(plain.grid(), plain.run(), plain.cohort.signatures).agreement
    (site,) = federation.cohort.sites.values()
    experiment = federation.config.experiment
    moved = {}
    for device in (CPU, GPU):
        model = initial_model(experiment, agreement)
        before = torch.cat([p.detach().double().flatten() for p in model.parameters()])
        train_dp_round(
            model,
            PatientDataset(site.cohort, agreement, experiment.agreement),
            experiment=experiment,
            plan=plan_of(experiment),
            size_band=BAND,
            server_round=1,
            device=device,
            random=StillChance(),
        )
        moved[device] = torch.cat([p.detach().double().flatten().cpu() for p in model.parameters()]) - before
    assert moved[CPU].norm() > 0
    assert (moved[GPU] - moved[CPU]).norm() / moved[CPU].norm() < 1e-2


def test_a_federation_on_a_gpu(tmp_path):
    """Run the command on both devices: the risks of the test patients agree."""
    risks = {}
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        settings = [f"device={device}" if s == "device=cpu" else s for s in SETTINGS]
        command = [sys.executable, "-m", "simulation", *settings, f"output_dir={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        risks[device] = pd.read_csv(folder / "predictions.csv").set_index("case_id")["risk"]
    assert "device cuda, scan: " in (folder / "run.log").read_text()
    assert len(risks["cpu"]) > 5
    pd.testing.assert_series_equal(risks["cuda"], risks["cpu"], rtol=0.02, atol=0.01)
