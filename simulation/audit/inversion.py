"""Gradient inversion: reconstruct patients' molecular values from a site's answer of one round.

The returned weights less the weights sent are a gradient. The gradient of the first layer of a gene network is a sum
over patients of their values times numbers of the layer. With one patient it is that patient's values. With a few
patients, blind source separation finds them (the cocktail party attack, Kariyappa et al. 2023, arXiv 2209.05578),
because the columns of one patient are usually far from normal. With more patients than hidden units the attack fails.

The attacker is the coordinator, who holds both sets of weights. The answer is made by the code that sites run, private
or not as the settings say.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.config.experiment import Experiment
from memamba_core.data.agreement import Agreement
from memamba_core.data.dataset import PatientDataset
from memamba_core.data.records import Cohort
from memamba_core.errors import ConfigError
from memamba_core.model import MEMamba
from memamba_core.privacy.plan import plan_of
from memamba_core.training.checkpoint import initial_model
from memamba_core.training.seeding import derive_seed
from memamba_core.training.trainer import Span, train
from memamba_core.wire.protocol import size_band

from .records import InversionReport

__all__ = ["check_round_sizes", "invert_round"]

_RECOVERED = 0.9
_ROUNDING = 1e-6
"""Share of the largest singular value below which a singular value is float32 rounding."""
_MAX_STEPS = 300


def check_round_sizes(cohort: Cohort, experiment: Experiment, round_sizes: Sequence[int]) -> None:
    """Refuse sizes of a round that `invert_round` cannot attack.

    Raises:
        ConfigError: there are too few patients with genes for a round and for as many outsiders (at most 100), or the
            model has no genomics expert.
    """
    if "genomics" not in experiment.model.experts:
        raise ConfigError(
            "attack inversion reads the genomics network; model.experts has none. Add genomics, or choose other attacks"
        )
    available = len(_with_genes(cohort))
    for size in round_sizes:
        if available < size + _outsiders(size):
            raise ConfigError(
                f"attacks.round_sizes: a round of {size} and {_outsiders(size)} patients outside of it were asked for; "
                f"{available} patients have genes. Lower attacks.round_sizes"
            )


def invert_round(cohort: Cohort, experiment: Experiment, agreement: Agreement, num_patients: int) -> InversionReport:
    """Train a site of `num_patients` for one round in the middle of a run, and attack its answer.

    Args:
        cohort: patients; those without genes are not used.
        experiment: settings of the run; its model needs the genomics expert.
        agreement: agreement of the run.
        num_patients: number of patients in the round.

    Raises:
        ConfigError: see `check_round_sizes`.
    """
    check_round_sizes(cohort, experiment, [num_patients])
    rng = np.random.default_rng(derive_seed(experiment.seed, "audit", "inversion", num_patients))
    chosen = rng.permutation(_with_genes(cohort))
    inside = PatientDataset(cohort.subset(list(chosen[:num_patients])), agreement, experiment.agreement)
    others = cohort.subset(list(chosen[num_patients : num_patients + _outsiders(num_patients)]))
    model = initial_model(experiment, agreement)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _train_one_round(model, inside, experiment)
    columns, rows = _largest_group(model, agreement)
    update = {name: (before[name] - tensor).double().numpy() for name, tensor in model.state_dict().items()}
    guesses = _guesses(update, columns, rows, num_patients)
    own = _best_correlations(guesses, inside, columns)
    outside = _best_correlations(guesses, PatientDataset(others, agreement, experiment.agreement), columns)
    return InversionReport(
        num_patients=num_patients,
        correlation=float(own.mean()),
        recovered=float((own > _RECOVERED).mean()),
        recovered_by_chance=float((outside > _RECOVERED).mean()),
    )


def _with_genes(cohort: Cohort) -> list[str]:
    return [r.case_id for r in cohort.records if cohort.has_genes(r)]


def _outsiders(num_patients: int) -> int:
    """Return the number of patients outside the round that are looked for in its answer."""
    return min(num_patients, 100)


def _train_one_round(model: MEMamba, dataset: PatientDataset, experiment: Experiment) -> None:
    """Train the round in the middle of the run, where the learning rate is neither warming up nor at its end."""
    federation, plan = experiment.federation, plan_of(experiment)
    server_round = federation.num_rounds // 2 + 1
    if plan is None:
        seed = derive_seed(experiment.seed, "audit", server_round)
        epochs = federation.local_epochs
        span = Span((server_round - 1) * epochs, epochs, federation.num_rounds * epochs)
        train(model, dataset, config=experiment.training, optimizer=federation.optimizer, span=span, seed=seed)
        return
    from memamba_core.training.dp_training import train_dp_round  # Opacus is an extra

    band = size_band(len(dataset))
    train_dp_round(model, dataset, experiment=experiment, plan=plan, size_band=band, server_round=server_round)


def _largest_group(model: MEMamba, agreement: Agreement) -> tuple[npt.NDArray[np.int64], slice]:
    """Return the columns of the largest gene group, and its rows in the first layer's weight, where groups are stacked.

    The agreement, which the coordinator made, holds the groups with their columns.
    """
    groups = [np.asarray(columns) for columns in agreement.gene_groups.values()]
    largest = int(np.argmax([len(columns) for columns in groups]))
    start = sum(len(columns) for columns in groups[:largest])
    return groups[largest], slice(start, start + len(groups[largest]))


def _guesses(
    update: dict[str, npt.NDArray[np.float64]], columns: npt.NDArray[np.int64], rows: slice, num_patients: int
) -> npt.NDArray[np.float64]:
    """Return reconstructions [guesses, columns]: gradients of hidden units and linear skip, and separated sources.

    Unknown scale and sign do not matter, because correlations are compared.
    """
    gradient_CH = update["genomics.tokens.first.weight"][rows]
    guesses = [*gradient_CH.T]
    if "genomics.linear_skip.weight" in update:
        guesses.append(update["genomics.linear_skip.weight"][columns])
    guesses.extend(_separate(gradient_CH, num_patients).T)
    return np.stack(guesses)


def _separate(mixed_CH: npt.NDArray[np.float64], most_sources: int) -> npt.NDArray[np.float64]:
    """Return independent components [columns, sources] of mixtures [columns, hidden units]; none of one patient."""
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    directions_CS, strengths, _ = np.linalg.svd(mixed_CH - mixed_CH.mean(axis=0), full_matrices=False)
    num_sources = min(most_sources, int((strengths > _ROUNDING * strengths.max(initial=0.0)).sum()))
    if num_sources < 2:
        return np.zeros((len(mixed_CH), 0))
    white_CS = directions_CS[:, :num_sources] * np.sqrt(len(mixed_CH))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a poor separation is a poor attack and is reported so
        ica = FastICA(whiten=False, max_iter=_MAX_STEPS, random_state=0)
        sources_CS: npt.NDArray[np.float64] = ica.fit_transform(white_CS)
    return sources_CS


def _best_correlations(
    guesses: npt.NDArray[np.float64], dataset: PatientDataset, columns: Sequence[int] | npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return, for each patient, the largest absolute correlation with a guess over the columns."""
    inputs = [dataset.load(i).genes_C for i in range(len(dataset))]
    values = torch.stack([genes for genes in inputs if genes is not None]).double().numpy()[:, columns]
    best: npt.NDArray[np.float64] = np.abs(_standardised(values) @ _standardised(guesses).T).max(axis=1)
    return best


def _standardised(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scale rows to mean 0 and norm 1; a constant row becomes zero."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    standardised: npt.NDArray[np.float64] = centred / np.where(norms > 0, norms, 1.0)
    return standardised
