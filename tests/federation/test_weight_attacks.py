"""Attacks of a coordinator by crafted weights: a strict site accepts only what an honest run could have brought.

Requests go through the site's executor. Where an attack reads something, the same requests first succeed at a site
without the checks, so that the test shows the attack and not only its refusal.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.federation import Federation, tiny
from fixtures.hostile_coordinator import HostileCoordinator, moved, updates
from fixtures.strict_sites import STRICT, StrictFederation, strict_site

from client.session import RefusedError
from client.weight_checks import WeightChecks
from client.worker import SiteWorker
from memamba_core.config.compose import compose_experiment
from memamba_core.config.strategy import STRATEGY_NAMES
from memamba_core.errors import FederationError
from memamba_core.wire.protocol import Refusal
from server.federation.handshake import perform_handshake
from server.federation.journal import Journal

SKIP, BIAS = "genomics.linear_skip.weight", "head.3.bias"
POLICY = Refusal.POLICY
SMALL = (
    "data.synthetic.num_patients=24",
    "data.synthetic.num_sites=2",
    "partition.num_sites=2",
    "federation.num_rounds=3",
)


@pytest.fixture(scope="module")
def federation():
    return StrictFederation(STRICT)


@pytest.fixture(scope="module")
def agreement(federation):
    return perform_handshake(federation.grid(), federation.run(), federation.cohort.signatures).agreement


@pytest.fixture
def attack(federation, agreement, interrupts, tmp_path):
    """Return a function that begins a run at a strict site, or at the same site without the checks of weights."""

    def begin(*, checked=True, experiment=federation.config.experiment, **changes):
        worker = SiteWorker(strict_site(federation.cohort.sites["site-01"], tmp_path / "state"))
        if not checked:
            worker._weights = WeightChecks(strict=False)
        return HostileCoordinator(worker, interrupts, tmp_path / "egress", experiment, agreement, **changes)

    (tmp_path / "egress").mkdir()
    return begin


def step(weights, group, length, seed=0):
    """Move the weights of a group by a random vector of a length."""
    rng = np.random.default_rng(seed)
    change = {name: rng.standard_normal(a.shape) for name, a in weights.items() if name.startswith(f"{group}.")}
    norm = np.sqrt(sum(float((c**2).sum()) for c in change.values()))
    return weights | {name: (weights[name] + length / norm * c).astype(np.float32) for name, c in change.items()}


def patients(coordinator):
    """The training patients of the site: scaled genes, events."""
    session = coordinator.worker._sessions._session
    dataset = coordinator.worker._dataset(session, "train")
    loaded = [dataset.load(i) for i in range(len(dataset))]
    genes = np.stack([p.genes_C.numpy() for p in loaded]).astype(np.float64)
    return SimpleNamespace(genes=genes, events=np.array([p.target.event for p in loaded]))


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


# The start


def test_start_weights_of_the_coordinators_choice_are_refused(attack):
    """A bias of -30 leaves censored patients out: the update of the linear skip is the sum over those who died."""
    unchecked = attack(checked=False).open()
    crafted = moved(unchecked.start, BIAS, lambda bias: np.full_like(bias, -30.0))
    read = updates(unchecked.train(crafted), crafted)[SKIP]
    site = patients(unchecked)
    assert cosine(read, site.genes[site.events].sum(0)) > 0.999
    strict = attack(run_id="strict").open()
    assert strict.train(crafted) is POLICY
    assert strict.train().weights  # the honest start is still welcome


@pytest.mark.parametrize("name", [SKIP, BIAS, "genomics.tokens.weights.0", "absent_genomics"])
def test_each_weight_of_the_start_is_checked(attack, name):
    coordinator = attack().open()
    names = coordinator.start
    name = name if name in names else next(n for n in names if n.startswith(name.split(".")[0]))
    for change in (1e-3, -1e-3, float("nan"), float("inf"), 1e30):
        crafted = moved(names, name, lambda a, c=change: np.r_[a.ravel()[:-1], a.ravel()[-1] + c].reshape(a.shape))
        assert coordinator.train(crafted) in (POLICY, Refusal.MESSAGE)


def test_the_last_bits_of_another_machine_are_no_attack(attack):
    """Torch's normal numbers differ in the last bits between processors."""
    coordinator = attack().open()
    other = {name: np.nextafter(array, np.float32(9)) for name, array in coordinator.start.items()}
    assert coordinator.train(other).weights


def test_weights_that_do_not_fit_the_model_are_refused(attack):
    coordinator = attack().open()
    weights = coordinator.start
    assert coordinator.train({n: a for n, a in weights.items() if n != SKIP}) is Refusal.MESSAGE
    assert coordinator.train(weights | {SKIP: weights[SKIP].astype(np.float64)}) is Refusal.MESSAGE
    assert coordinator.train(weights | {"head.extra": np.zeros(1, np.float32)}) is Refusal.MESSAGE


def test_a_start_by_settings_is_refused_with_the_settings(attack):
    """`model.hazard_bias` sets the bias of the start that the site computes itself."""
    for override in ("model.hazard_bias=-30", "federation.optimizer.learning_rate=3", "training.gradient_clip=100"):
        experiment = compose_experiment([override])
        assert attack(experiment=experiment).facts() is POLICY


def test_a_scaling_that_clips_all_but_a_few_patients_is_refused(attack, monkeypatch):
    """With a center above all values but one, every patient but this one is a constant: the update is this value."""
    unchecked = attack(checked=False).open()
    honest, values = unchecked.agreed, patients(unchecked).genes
    continuous = [i for i, column in enumerate(honest.gene_columns) if column.endswith("_rnaseq")]
    column = continuous[0]
    second, highest = np.sort(values[:, column])[-2:] * honest.gene_scale[column] + honest.gene_center[column]
    center, scale = honest.gene_center.copy(), honest.gene_scale.copy()
    scale[column] = unchecked.experiment.agreement.gene_scale_floor
    center[column] = min(second + 5 * scale[column], 10.0)
    crafted = dataclasses.replace(honest, gene_center=center, gene_scale=scale)
    with monkeypatch.context() as patch:
        patch.setattr("client.worker.check_scaling", lambda *_: None)
        unchecked.agreed = crafted
        assert not isinstance(unchecked.agree(), Refusal)
        seen = patients(unchecked).genes[:, column]
    assert (seen == -5).sum() == len(seen) - 1
    assert (seen.max() + 5) * scale[column] == pytest.approx(highest - second, rel=1e-4)
    strict = attack(run_id="strict").open()
    strict.agreed = crafted
    assert strict.agree() is Refusal.AGREEMENT_FIELD


# Later rounds


def test_weights_beyond_the_step_of_the_strategy_are_refused(attack, federation):
    bound = federation.config.experiment.federation.update_norm
    coordinator = attack().open()
    first = coordinator.start
    assert coordinator.train(first).weights
    for group in ("head", "genomics"):
        assert coordinator.train(step(first, group, 1.05 * bound), server_round=2) is POLICY
    crafted = moved(first, BIAS, lambda bias: np.full_like(bias, -30.0))
    assert coordinator.train(crafted, server_round=2) is POLICY
    assert coordinator.train(step(first, "genomics", 0.99 * bound), server_round=2).weights


@pytest.mark.parametrize("restart", [False, True])
def test_a_site_that_missed_rounds_allows_as_many_steps(attack, federation, restart):
    bound = federation.config.experiment.federation.update_norm
    coordinator = attack().open()
    first = coordinator.start
    assert coordinator.train(first).weights
    if restart:
        coordinator.worker = SiteWorker(coordinator.worker.site)
    assert coordinator.train(step(first, "head", 3.1 * bound), server_round=4) is POLICY
    far = step(first, "head", 2.9 * bound)
    assert coordinator.train(far, server_round=3) is POLICY
    assert coordinator.train(far, server_round=4).weights
    # the next bound starts from these weights
    assert coordinator.evaluate(step(far, "head", 1.1 * bound, seed=1)) is POLICY


def test_a_site_that_joins_late_measures_from_the_start(attack, federation):
    bound = federation.config.experiment.federation.update_norm
    coordinator = attack().open()
    assert coordinator.train(step(coordinator.start, "head", 2.1 * bound), server_round=3) is POLICY
    assert coordinator.train(step(coordinator.start, "head", 1.9 * bound), server_round=3).weights


def test_a_round_is_answered_for_one_set_of_weights(attack):
    """Many weights in one round would be an oracle; the same weights are a retry, and get the same answer."""
    coordinator = attack().open()
    first = coordinator.start
    answer = coordinator.train(first)
    other = moved(first, SKIP, lambda skip: skip + np.float32(1e-7))
    for _ in range(2):
        assert coordinator.train(other) is POLICY
        again = coordinator.train(first)
        assert all(np.array_equal(again.weights[n], answer.weights[n]) for n in first)
        coordinator.worker = SiteWorker(coordinator.worker.site)
        assert coordinator.facts() is not POLICY  # opening the run again forgets nothing
        coordinator.agree()


def test_rounds_never_go_back(attack):
    coordinator = attack().open()
    assert coordinator.train(server_round=1).weights
    assert coordinator.train(server_round=2).weights
    assert coordinator.train(server_round=1) is POLICY


def test_one_run_id_has_one_start(attack, federation):
    """The same run with another seed, and so other start weights, is another run."""
    coordinator = attack().open()
    assert coordinator.train().weights
    coordinator.experiment = federation.config.experiment.model_copy(update={"seed": 7})
    coordinator.facts()
    coordinator.agree()
    assert coordinator.train() is not None
    assert isinstance(coordinator.train(), Refusal)


# Evaluation


def test_evaluation_is_no_oracle(attack):
    """Risks of many crafted models are ranks of patients by any column; a strict site has one evaluation in a run."""
    unchecked, answers = attack(checked=False).open(), set()
    for column in range(6):
        crafted = moved(unchecked.start, SKIP, lambda s, c=column: 5 * np.eye(len(s))[c])
        answers.add(unchecked.evaluate(crafted).loss_sum)
    assert len(answers) == 6
    strict = attack(run_id="strict").open()
    first = strict.start
    assert strict.train(first).weights
    crafted = [moved(first, SKIP, lambda s, c=column: 0.1 * np.eye(len(s))[c]) for column in range(6)]
    closing = strict.evaluate(crafted[0])
    assert closing.loss_sum is not None
    strict.worker = SiteWorker(strict.worker.site)
    strict.open()
    assert [strict.evaluate(weights) for weights in crafted[1:]] == [POLICY] * 5
    again = strict.evaluate(crafted[0])
    assert (again.num_patients, again.loss_sum) == (closing.num_patients, closing.loss_sum)


def test_an_evaluation_of_crafted_weights_is_refused(attack):
    coordinator = attack().open()
    assert coordinator.train().weights
    crafted = moved(coordinator.start, SKIP, lambda s: 50 * np.eye(len(s))[0])
    assert coordinator.evaluate(crafted) is POLICY
    assert not isinstance(coordinator.evaluate(), Refusal)  # a refusal does not close the run


def test_a_run_that_was_evaluated_trains_no_more(attack):
    coordinator = attack().open()
    assert coordinator.train().weights
    assert not isinstance(coordinator.evaluate(), Refusal)
    assert coordinator.train(server_round=1) is POLICY
    assert coordinator.train(server_round=2) is POLICY
    coordinator.worker = SiteWorker(coordinator.worker.site)
    assert coordinator.open().train(server_round=2) is POLICY


def test_a_crash_during_the_evaluation_frees_no_second_one(attack, monkeypatch):
    coordinator = attack().open()
    assert coordinator.train().weights
    with monkeypatch.context() as patch:
        patch.setattr("client.worker.rounded_loss", lambda *_: 1 / 0)
        assert coordinator.evaluate() is Refusal.INTERNAL
    other = moved(coordinator.start, SKIP, lambda skip: skip + 0.01)
    assert coordinator.evaluate(other) is POLICY
    assert coordinator.evaluate().loss_sum is not None


def test_a_damaged_record_is_not_an_empty_one(attack):
    coordinator = attack().open()
    assert coordinator.train().weights
    (record,) = (coordinator.worker.site.config.state / "runs").glob("*/received.safetensors")
    record.write_bytes(record.read_bytes()[:-9])
    assert coordinator.train() is Refusal.CONFIG


# The update of the site


def test_a_site_scales_its_own_update_down(attack, federation):
    federated = federation.config.experiment.federation
    limit = 0.001
    short = federation.config.experiment.model_copy(
        update={"federation": federated.model_copy(update={"update_norm": limit})}
    )
    free, bounded = attack().open(), attack(run_id="short", experiment=short).open()
    free, bounded = (updates(c.train(), c.start) for c in (free, bounded))
    norm = np.sqrt(sum(float((u**2).sum()) for u in free.values()))
    assert limit < norm < federated.update_norm
    for name, update in free.items():
        np.testing.assert_allclose(bounded[name], update * limit / norm, atol=1e-7)


# Honest runs


@pytest.mark.ci_slow  # the bounds themselves: tests/site/test_step_bounds.py
@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_honest_runs_of_every_strategy_are_within_the_bounds(strategy):
    federation = StrictFederation(tiny(*STRICT, *SMALL, f"strategy={strategy}"))
    result = federation.train()
    assert result.absent == {}
    assert not any(record.failed for record in result.rounds)


def test_honest_adamw_runs_with_rounded_updates_are_within_the_bounds(tmp_path):
    """The numbers are those of a run without checks, and the state on disk does not change them."""
    settings = tiny(*STRICT, *SMALL, "federation=adamw", "federation.wire=bfloat16_delta")
    unchecked, federation = Federation(settings), StrictFederation(settings)
    for worker in unchecked.workers.values():
        worker._weights = WeightChecks(strict=False)
    federation.state = tmp_path
    federation.restart()
    strict, expected = federation.train(), unchecked.train()
    assert not any(record.failed for record in strict.rounds)
    assert all(np.array_equal(strict.weights[n], expected.weights[n]) for n in expected.weights)


def test_an_honest_run_with_absences_and_a_resumption_is_within_the_bounds(tmp_path):
    """A site misses rounds 2 and 3; the coordinator stops after round 4 and resumes from its journal."""
    federation = StrictFederation(
        tiny(*STRICT, *SMALL, "federation.num_rounds=6", "strategy=fedavgm", "federation.min_results=1")
    )
    federation.state = tmp_path / "state"
    federation.restart()
    asked = []

    def away(request, reply):
        asked.append(request)
        if request.metadata.message_type == "train" and 5 <= len(asked) <= 6:  # after three requests before round 1
            raise ConnectionError
        return reply

    def stop(record):
        if record.server_round == 4:
            raise InterruptedError

    federation.faults = {"site-01": away}
    journal = Journal(tmp_path / "journal", federation.config.experiment.digest(), 0)
    with pytest.raises(InterruptedError):
        federation.train(journal, SimpleNamespace(on_phase=lambda *_: None, on_round=stop))
    federation.restart()
    result = federation.train(journal)
    assert [sorted(record.failed) for record in result.rounds] == [[], ["site-01"], ["site-01"], [], [], []]
    assert result.absent == {}
    assert result.evaluation.num_patients


@pytest.mark.parametrize(("stopped_in", "removed", "continues"), [(3, 1, True), (3, 2, False), (4, 1, False)])
def test_a_coordinator_goes_back_only_to_the_round_that_its_sites_were_asked_for_last(
    tmp_path, stopped_in, removed, continues
):
    """It moves the newest files out of its journal. Round 3 is finished; round 4 is asked for, or not yet."""
    federation = StrictFederation(tiny(*STRICT, *SMALL, "federation.num_rounds=5"))
    federation.state = tmp_path / "state"
    federation.restart()

    def stop(server_round):
        if server_round == stopped_in:
            raise InterruptedError

    def stop_after_replies(request, reply):
        stop(request.content["fields"]["server-round"] if request.metadata.message_type == "train" else 0)
        return reply

    if stopped_in == 4:
        federation.faults = dict.fromkeys(federation.sites, stop_after_replies)
    journal = Journal(tmp_path / "journal", federation.config.experiment.digest(), 0)
    observer = SimpleNamespace(on_phase=lambda *_: None, on_round=lambda record: stop(record.server_round))
    with pytest.raises((InterruptedError, FederationError)):
        federation.train(journal, observer)
    states = sorted((tmp_path / "journal").glob("round-*.safetensors"))
    assert [path.name for path in states] == [f"round-{number:05d}.safetensors" for number in (1, 2, 3)]
    for path in states[-removed:]:
        path.unlink()
    federation.faults = {}
    federation.restart()
    if continues:
        assert len(federation.train(journal).rounds) == 5
    else:
        with pytest.raises(FederationError, match="policy does not allow"):
            federation.train(journal)


def test_under_differential_privacy_the_distance_is_free_and_all_else_is_checked(attack):
    """The noise of other sites moves the weights by any distance; (epsilon, delta) holds for all weights."""
    coordinator = attack().open()
    session = dataclasses.replace(coordinator.worker._sessions._session, plan=object())
    checks, start = WeightChecks(strict=True), coordinator.start
    far = step(start, "head", 1000.0)

    def request(weights, server_round):
        return SimpleNamespace(weights=weights, server_round=server_round)

    def refused(call, *arguments):
        with pytest.raises(RefusedError):
            call(session, *arguments, None)

    refused(checks.accept_round, request(far, 1))
    checks.accept_round(session, request(start, 1), None)
    checks.accept_round(session, request(far, 2), None)
    refused(checks.accept_round, request(start, 2))
    refused(checks.accept_round, request(start, 1))
    refused(checks.accept_evaluation, request(moved(far, BIAS, lambda b: b * np.nan), 0))
    assert checks.accept_evaluation(session, request(start, 0), None) is None
    refused(checks.accept_evaluation, request(far, 0))
    refused(checks.accept_round, request(far, 2))
