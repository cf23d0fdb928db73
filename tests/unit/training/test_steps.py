"""Training steps: random draws, micro-batches, the proximal term, losses that are not finite; and prediction."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from fixtures.federation import Federation, tiny

from memamba_core.config.training import AdamWConfig, LossConfig, SGDConfig, TrainingConfig
from memamba_core.data.dataset import PatientDataset
from memamba_core.training import batches, trainer
from memamba_core.training.checkpoint import initial_model, weights_of
from memamba_core.training.trainer import Span, predict, train
from server.federation.handshake import perform_handshake

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts():
    """Return experiment (no dropout: its mask depends on the parts of a batch), agreement and patients of a cohort."""
    federation = Federation(tiny("model.dropout=0", "data.synthetic.patches=[1,6]"))
    agreement = perform_handshake(federation.grid(), federation.run(), federation.cohort.signatures).agreement
    experiment = federation.config.experiment
    return experiment, agreement, PatientDataset(federation.cohort.cohort, agreement, experiment.agreement)


def small(dataset, num):
    cohort = dataset.cohort
    records = dataclasses.replace(cohort, records=cohort.records[:num])
    return PatientDataset(records, dataset.agreement, dataset.config)


def config(**changes):
    return TrainingConfig.model_validate({"schedule": "constant", "warmup_fraction": 0.0, "batch_size": 8, **changes})


def trained(parts, num=16, *, seed=3, span=Span(0, 2, 2), optimizer=None, settings=None, **options):  # noqa: B008
    experiment, agreement, dataset = parts
    model = initial_model(experiment, agreement)
    result = train(
        model,
        small(dataset, num),
        config=settings or config(),
        optimizer=optimizer or AdamWConfig(),
        span=span,
        seed=seed,
        device=CPU,
        **options,
    )
    return weights_of(model), result


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_same_seed_gives_the_same_weights_bit_by_bit(parts):
    torch.manual_seed(1)  # the state of the caller's generator does not matter
    first, _ = trained(parts, settings=config(max_patches=2))
    torch.manual_seed(2)
    assert same(first, trained(parts, settings=config(max_patches=2))[0])
    assert not same(first, trained(parts, settings=config(max_patches=2), seed=4)[0])


def test_order_patches_and_dropout_are_drawn_anew_in_every_epoch(parts, monkeypatch):
    """Use the epoch's number, so that a round of a federation continues where the previous round ended."""
    load, loss = PatientDataset.load, trainer.training_loss
    drawn, masks = [], []

    def noted(self, index, **options):
        patient = load(self, index, **options)
        drawn.append((index, None if patient.bag is None else patient.bag.patches_PF.sum().item()))
        return patient

    def noted_loss(*arguments):
        masks.append(torch.rand(1).item())
        return loss(*arguments)

    monkeypatch.setattr(PatientDataset, "load", noted)
    monkeypatch.setattr(trainer, "training_loss", noted_loss)

    def epochs(first, num):
        drawn.clear()
        masks.clear()
        trained(parts, num=8, span=Span(first, num, 3), settings=config(max_patches=1))
        return [list(drawn[start : start + 8]) for start in range(0, 8 * num, 8)], list(masks)

    (one, two), (mask_one, mask_two) = epochs(0, 2)
    assert [index for index, _ in one] != [index for index, _ in two]
    assert sorted(index for index, _ in one) == sorted(index for index, _ in two)
    assert dict(one) != dict(two)
    assert mask_one != mask_two
    assert epochs(1, 1) == ([two], [mask_two])


def test_training_leaves_the_callers_generator_alone(parts):
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    trained(parts, num=4)
    torch.testing.assert_close(torch.rand(3), wanted)


def test_a_batch_cut_into_parts_has_the_same_gradient(parts, monkeypatch):
    """Take a step of SGD with rate 1 and no clipping: the difference of the weights is the gradient."""
    plain = SGDConfig(learning_rate=1.0, weight_decay=0.0, skip_weight_decay=0.0)
    settings = config(batch_size=16, gradient_clip=1e9, loss={"expert_weight": 0.5, "transport_weight": 0.1})
    experiment, agreement, dataset = parts
    experiment = experiment.model_copy(update={"training": settings})
    options = {"span": Span(0, 1, 1), "optimizer": plain, "settings": settings}
    counted = []
    cut = trainer.parts_of_batch

    def counting(patients):
        found = list(cut(patients))
        counted.append(len(found))
        return iter(found)

    monkeypatch.setattr(trainer, "parts_of_batch", counting)
    whole, whole_result = trained((experiment, agreement, dataset), **options)
    monkeypatch.setattr(batches, "MICRO_BATCH_ROWS", 5)
    pieces, pieces_result = trained((experiment, agreement, dataset), **options)
    assert counted[0] == 1
    assert counted[1] > 4
    assert whole_result.mean_loss == pytest.approx(pieces_result.mean_loss, rel=1e-6)
    assert whole_result.trained == pieces_result.trained
    start = weights_of(initial_model(experiment, agreement))
    for name in whole:
        scale = np.abs(whole[name] - start[name]).max() + 1e-6
        np.testing.assert_allclose(pieces[name], whole[name], atol=1e-4 * scale + 1e-7, err_msg=name)


def test_rounds_continue_the_schedule(parts, monkeypatch):
    """Expect the learning rates of one call over two epochs in two rounds of one epoch."""
    rates = []
    monkeypatch.setattr(trainer, "set_learning_rate", lambda optimizer, rate: rates.append(rate))
    settings = TrainingConfig(batch_size=8)
    trained(parts, span=Span(0, 2, 2), settings=settings)
    together, rates[:] = list(rates), []
    trained(parts, span=Span(0, 1, 2), settings=settings)
    trained(parts, span=Span(1, 1, 2), settings=settings)
    assert rates == together
    assert len(set(rates)) == len(rates) == 4


def test_the_proximal_term_has_the_gradient_of_its_formula(parts):
    """(mu/2) ||w - w_incoming||^2 has gradient mu (w - w_incoming), on the parameters that are trained.

    After the first of two steps of plain SGD the weights differ from the incoming ones by d. The second step then moves
    them by a further -rate mu d.
    """
    rate, mu = 0.3, 0.5
    settings = config(batch_size=16, gradient_clip=1e9)
    start = weights_of(initial_model(*parts[:2]))

    def after(steps, proximal_mu):
        sgd = SGDConfig(learning_rate=rate)
        options = {"optimizer": sgd, "settings": settings, "proximal_mu": proximal_mu}
        return trained(parts, span=Span(0, steps, steps), **options)[0]

    once, twice, with_term = after(1, mu), after(2, 0.0), after(2, mu)
    assert same(once, after(1, 0.0)), "the first step begins at the incoming weights"
    compared = 0
    for name, array in with_term.items():
        moved = once[name].astype(np.float64) - start[name]
        np.testing.assert_allclose(array - twice[name], -rate * mu * moved, atol=3e-7)
        compared += float(np.abs(rate * mu * moved).max(initial=0.0)) > 2e-6
    assert compared > 10


def test_a_large_mu_holds_the_weights_where_they_were(parts):
    start = weights_of(initial_model(*parts[:2]))

    def moved(mu):
        weights, _ = trained(parts, proximal_mu=mu, span=Span(0, 4, 4), optimizer=SGDConfig())
        return sum(float(((weights[name] - start[name]) ** 2).sum()) for name in start)

    assert moved(500.0) < 0.5 * moved(0.0)


def test_steps_with_a_gradient_that_is_not_finite_are_left_out(parts, monkeypatch, caplog):
    experiment, agreement, _ = parts
    calls, real = [], trainer.nll_loss

    def nan_at_first(*arguments, **options):
        calls.append(arguments)
        return real(*arguments, **options) * (math.nan if len(calls) == 1 else 1.0)

    monkeypatch.setattr(trainer, "nll_loss", nan_at_first)
    weights, result = trained(parts, span=Span(0, 1, 1))
    assert (result.steps, result.skipped_steps) == (1, 1)
    assert all(np.isfinite(array).all() for array in weights.values())
    assert not same(weights, weights_of(initial_model(experiment, agreement)))
    assert "1 of 2 steps were skipped" in caplog.text
    assert result.trained["head"] == 8  # of 16: the other 8 moved nothing


def test_counts_are_of_distinct_patients(parts):
    _, once = trained(parts, span=Span(0, 1, 1))
    _, twice = trained(parts, span=Span(0, 2, 2))
    assert once.trained == twice.trained
    assert once.trained["head"] == 16
    assert once.trained["genomics"] + once.trained["absent_genomics"] == 16


def test_every_epoch_is_told(parts):
    told = []
    _, result = trained(parts, span=Span(1, 2, 4), on_epoch=lambda epoch, loss: told.append((epoch, loss)))
    assert [epoch for epoch, _ in told] == [2, 3]
    assert result.mean_loss == pytest.approx(np.mean([loss for _, loss in told]))


def test_bfloat16_trains_float32_weights_to_nearly_the_same(parts):
    full, plain = trained(parts)
    half, result = trained(parts, settings=config(precision="bfloat16"))
    assert all(array.dtype == np.float32 for array in half.values())
    assert not same(full, half)
    assert result.mean_loss == pytest.approx(plain.mean_loss, rel=0.05)


def test_the_precision_of_products_is_that_of_the_settings_and_ends_with_training(parts, monkeypatch):
    seen, loss = set(), trainer.training_loss

    def note(*arguments):
        seen.add(torch.get_float32_matmul_precision())
        return loss(*arguments)

    monkeypatch.setattr(trainer, "training_loss", note)
    trained(parts, settings=config(matmul_precision="medium"))
    assert seen == {"medium"}
    assert torch.get_float32_matmul_precision() == "highest"


def test_nobody_cannot_be_trained_on(parts):
    with pytest.raises(ValueError, match="empty"):
        trained(parts, num=0)


def test_predictions_do_not_depend_on_how_patients_are_grouped(parts, monkeypatch):
    experiment, agreement, dataset = parts
    model = initial_model(experiment, agreement)
    together = predict(model, dataset, device=CPU)
    monkeypatch.setattr(batches, "MICRO_BATCH_ROWS", 1)
    alone = predict(model, dataset, device=CPU)
    for name in ("risk", "survival_NK", "loss"):
        np.testing.assert_allclose(getattr(alone, name), getattr(together, name), atol=1e-5)
    assert together.case_ids == alone.case_ids == tuple(r.case_id for r in dataset.records)
    assert np.ptp(together.risk) > 0


def test_the_loss_of_predictions_has_the_conventions_of_training(parts):
    experiment, agreement, dataset = parts
    model = initial_model(experiment, agreement)
    plain, events_alone = (predict(model, dataset, loss=LossConfig(alpha=alpha)).loss for alpha in (0.0, 1.0))
    np.testing.assert_array_equal(events_alone, np.where(dataset.events, plain, 0.0))
    assert plain[~dataset.events].min() > 0


def test_training_is_in_training_mode_and_prediction_is_not(parts):
    experiment, agreement, dataset = parts
    model, some = initial_model(experiment, agreement).eval(), small(dataset, 4)
    train(model, some, config=config(), optimizer=AdamWConfig(), span=Span(0, 1, 1), seed=0)
    assert model.training
    predict(model, some)
    assert not model.training


def test_nobody_is_predicted_as_nobody(parts):
    experiment, agreement, dataset = parts
    empty = predict(initial_model(experiment, agreement), small(dataset, 0), device=CPU)
    assert empty.risk.shape == (0,)
    assert empty.survival_NK.shape == (0, 4)


def test_case_ids_do_not_show_in_logs(parts):
    experiment, agreement, dataset = parts
    text = repr(predict(initial_model(experiment, agreement), small(dataset, 2), device=CPU))
    assert dataset.records[0].case_id not in text
