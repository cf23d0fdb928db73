"""SIGKILL at every point of a private round: read data are charged, a stored answer is sent again, nothing else is."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from fixtures.private_federation import PrivateFederation, a_training_request

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from client.session import RefusedError
from memamba_core.wire.protocol import Refusal

pytestmark = [pytest.mark.slow, pytest.mark.durable]

POINTS = {
    "before the charge": "before(Ledger, 'charge')",
    "after the charge": "after(Ledger, 'charge')",
    "at the first patient": "before(PatientDataset, 'load')",
    "after the first patient": "after(PatientOptimizer, 'add_patient')",
    "at the noise": "before(PatientOptimizer, 'add_noise')",
    "after the last step": "after(private_training, 'train_dp_round')",
    "half way through keeping the answer": "after(np, 'savez')",
    "after keeping the answer": "after(private, '_keep')",
    "with the answer in hand": "after(private, '_reply')",
}
KEPT = ("after keeping the answer", "with the answer in hand")

SCRIPT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from fixtures.private_federation import PrivateFederation, a_training_request
import client.private_round as private
import memamba_core.training.dp_training as private_training
from memamba_core.data.dataset import PatientDataset
from memamba_core.privacy.dp_sgd import PatientOptimizer
from memamba_core.privacy.ledger import Ledger
from memamba_core.privacy.secure_random import SecureRandom

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name):
    setattr(owner, name, lambda *a, **k: die())

def after(owner, name):
    work = getattr(owner, name)
    setattr(owner, name, lambda *a, **k: (work(*a, **k), die()))

folder = Path(sys.argv[1])
federation = PrivateFederation(folder)
request, site = a_training_request(federation), federation.sites[0]
load = PatientDataset.load
def seen(*a, **k):
    (folder / "a patient was read").touch()
    return load(*a, **k)
PatientDataset.load = seen
SecureRandom.bernoulli = lambda _random, num, _probability: np.ones(num, bool)
{death}
federation.workers[site].train(request)
"""


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_costs_the_round_or_nothing(tmp_path, point):
    script = textwrap.dedent(SCRIPT).replace("{death}", POINTS[point])
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)]
    done = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]

    federation = PrivateFederation(tmp_path)
    request, site = a_training_request(federation), federation.sites[0]
    charged = len(federation.ledger(site).charges())
    assert charged == (0 if point == "before the charge" else 1)
    if (tmp_path / "a patient was read").exists():
        assert charged == 1
    if point in KEPT:
        (kept,) = (tmp_path / site / "runs" / "test").glob("round-*.npz")
        with np.load(kept) as stored:
            reply = federation.workers[site].train(request)
            assert all(np.array_equal(reply.weights[name], stored[name]) for name in stored.files)
    elif point == "before the charge":
        assert federation.workers[site].train(request).weights
    else:
        with pytest.raises(RefusedError) as caught:
            federation.workers[site].train(request)
        assert caught.value.refusal is Refusal.BUDGET
    assert len(federation.ledger(site).charges()) == 1
    assert federation.workers[site].train(request.model_copy(update={"server_round": 2})).weights
