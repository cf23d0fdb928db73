"""Gradient inversion: a hospital's answer of one round, turned back into its patients' molecular values.

The weights that come back less the weights that went out are a gradient, and the gradient of the first layer of a gene
network is a sum over patients of their values times numbers of the layer. With one patient it is that patient's values.
With a few, blind source separation finds them (the cocktail party attack, Kariyappa et al. 2023, arXiv 2209.05578),
because the columns of one patient are as a rule far from normal. With more patients than hidden units it is at a loss.

The attacker is the coordinator, who holds both sets of weights. The answer is that of the code which hospitals run,
private or not as the settings say.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

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

__all__ = ["InversionReport", "check_round_sizes", "invert_round"]

_RECOVERED = 0.9
_NOTHING = 1e-6
"""Of the largest singular value: below, float32 rounding is all there is."""
_MOST_STEPS = 300


@dataclass(frozen=True)
class InversionReport:
    """What the coordinator reads from one answer.

    Attributes:
        num_patients: in the round.
        correlation: between a patient's values and the attacker's best reconstruction, mean over the patients.
        recovered: share of the patients with a correlation above 0.9.
        recovered_by_chance: the same share of patients who were not in the round: what is no leak at all.
    """

    num_patients: int
    correlation: float
    recovered: float
    recovered_by_chance: float


def check_round_sizes(cohort: Cohort, experiment: Experiment, round_sizes: Sequence[int]) -> None:
    """Refuse what `invert_round` could not do.

    Raises:
        ConfigError: there are not enough patients with genes for a round (as many again are wanted as outsiders, at
            most 100), or the model has no genomics expert.
    """
    if "genomics" not in experiment.model.experts:
        raise ConfigError("audit=inversion reads the genomics network; model.experts names none")
    available = len(_with_genes(cohort))
    for size in round_sizes:
        if available < size + _outsiders(size):
            raise ConfigError(
                f"audit.round_sizes: a round of {size} and {_outsiders(size)} patients outside of it were asked for; "
                f"{available} patients have genes"
            )


def invert_round(cohort: Cohort, experiment: Experiment, agreement: Agreement, num_patients: int) -> InversionReport:
    """Let a hospital of `num_patients` train for one round in the middle of a run, and attack its answer.

    Args:
        cohort: patients; those without genes are passed over.
        experiment: settings of the run; its model needs the genomics expert.
        agreement: of the run.
        num_patients: in the round.

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
    strange = _best_correlations(guesses, PatientDataset(others, agreement, experiment.agreement), columns)
    return InversionReport(
        num_patients, float(own.mean()), float((own > _RECOVERED).mean()), float((strange > _RECOVERED).mean())
    )


def _with_genes(cohort: Cohort) -> list[str]:
    return [r.case_id for r in cohort.records if cohort.has_genes(r)]


def _outsiders(num_patients: int) -> int:
    """How many patients that were not in the round are looked for in its answer."""
    return min(num_patients, 100)


def _train_one_round(model: MEMamba, dataset: PatientDataset, experiment: Experiment) -> None:
    """The round in the middle of the run, where the learning rate is neither warming up nor at its end."""
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
    """Columns of the largest gene group, and its rows in the first layer's weight, where groups lie one below another.

    The groups with their columns stand in the agreement, which the coordinator made.
    """
    groups = [np.asarray(columns) for columns in agreement.gene_groups.values()]
    largest = int(np.argmax([len(columns) for columns in groups]))
    start = sum(len(columns) for columns in groups[:largest])
    return groups[largest], slice(start, start + len(groups[largest]))


def _guesses(
    update: dict[str, npt.NDArray[np.float64]], columns: npt.NDArray[np.int64], rows: slice, num_patients: int
) -> npt.NDArray[np.float64]:
    """Reconstructions [guesses, columns]: each hidden unit's gradient, the linear skip's, and their separated sources.

    A scale and a sign that are not known do not matter: what is compared is correlation.
    """
    gradient_CH = update["genomics.tokens.first.weight"][rows]
    guesses = [*gradient_CH.T]
    if "genomics.linear_skip.weight" in update:
        guesses.append(update["genomics.linear_skip.weight"][columns])
    guesses.extend(_separate(gradient_CH, num_patients).T)
    return np.stack(guesses)


def _separate(mixed_CH: npt.NDArray[np.float64], most_sources: int) -> npt.NDArray[np.float64]:
    """Independent components [columns, sources] of mixtures [columns, hidden units]; none of a single patient."""
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    directions_CS, strengths, _ = np.linalg.svd(mixed_CH - mixed_CH.mean(axis=0), full_matrices=False)
    num_sources = min(most_sources, int((strengths > _NOTHING * strengths.max(initial=0.0)).sum()))
    if num_sources < 2:
        return np.zeros((len(mixed_CH), 0))
    white_CS = directions_CS[:, :num_sources] * np.sqrt(len(mixed_CH))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a poor separation is a poor attack, and is told as such
        ica = FastICA(whiten=False, max_iter=_MOST_STEPS, random_state=0)
        sources_CS: npt.NDArray[np.float64] = ica.fit_transform(white_CS)
    return sources_CS


def _best_correlations(
    guesses: npt.NDArray[np.float64], dataset: PatientDataset, columns: Sequence[int] | npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """For each patient the largest absolute correlation with a guess over the columns."""
    inputs = [dataset.load(i).genes_C for i in range(len(dataset))]
    values = torch.stack([genes for genes in inputs if genes is not None]).double().numpy()[:, columns]
    best: npt.NDArray[np.float64] = np.abs(_standardised(values) @ _standardised(guesses).T).max(axis=1)
    return best


def _standardised(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows of mean 0 and norm 1; a constant row becomes zero."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    standardised: npt.NDArray[np.float64] = centred / np.where(norms > 0, norms, 1.0)
    return standardised
