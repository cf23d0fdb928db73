"""A generated cohort with planted risk: the best reachable C-index is known, and a model can be held to it.

Every patient has a gene score (a few genes of one group) and a patch score (how much of the tissue is of a
rare kind). The log hazard ratio is `effect` times a score made from these two. Hospitals differ in size and
shift what they measure, but never along the planted directions: the scores can be read from the observed
    values exactly, whatever the hospital.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.config.simulation import SyntheticConfig
from memamba_core.data.records import Cohort, GeneTable, PatientRecord
from memamba_core.data.row_choice import choose_rows
from memamba_core.errors import ConfigError
from memamba_core.records import Bag
from memamba_core.survival.concordance import concordance_index

__all__ = ["MemoryFeatures", "SyntheticCohort", "generate_cohort"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_NUM_GROUPS = 6
_NUM_DRIVERS = 3  # genes of the first group that make the gene score
_COEXPRESSION = 0.5  # correlation of the expression of two genes of a group
_NUM_TISSUES = 3  # ordinary kinds of patches
_NUM_BAG_SIZES = 4
_TISSUE_SPREAD = 0.5  # standard deviation of their centres, in every feature
_RARE_SHIFT = 6.0  # distance of the rare kind, in standard deviations of a patch
_PATCH_SIZE = 512  # level-0 pixels between neighbouring patches
_HANDFUL = 5  # fewest patients of a hospital, where there are enough


@dataclass(frozen=True)
class SlideFeatures:
    """One generated slide.

    Attributes:
        patches_PF: float32 features.
        coords_P2: int64 level-0 pixels on a grid, row by row.
        rare_P: which patches are of the planted kind.
    """

    patches_PF: npt.NDArray[np.float32]
    coords_P2: npt.NDArray[np.int64]
    rare_P: BoolArray


@dataclass
class MemoryFeatures:
    """A `FeatureStore` whose slides lie in memory; attributes as there, and the slides by name."""

    width: int
    slides: Mapping[str, SlideFeatures]
    encoder: str = "synthetic"
    columns: tuple[str, ...] = ()
    families: tuple[str, ...] = ()

    def has(self, record: PatientRecord) -> bool:
        """Whether any slide of the patient has features."""
        return any(slide in self.slides for slide in record.slides)

    def load(
        self, record: PatientRecord, max_patches: int | None = None, rng: np.random.Generator | None = None
    ) -> Bag | None:
        """The patient's bag, see `FeatureStore.load`."""
        found = [self.slides[slide] for slide in record.slides if slide in self.slides]
        if not found:
            return None
        rows = choose_rows(sum(len(s.patches_PF) for s in found), max_patches, rng)
        patches_PF = np.concatenate([s.patches_PF for s in found])[rows]
        coords_P2 = np.concatenate([s.coords_P2 for s in found])[rows]
        return Bag(torch.from_numpy(patches_PF), torch.from_numpy(coords_P2))


@dataclass(frozen=True)
class SyntheticCohort:
    """A generated cohort and the truth behind it.

    Scores and risks are keyed by case id, and exist for every patient whether or not the part that carries
    them was measured.

    Attributes:
        cohort: the patients; `tss` is the two-letter code of the hospital, `fold` is None.
        signatures: gene group -> symbols. Neighbouring groups share a symbol, as published tables do.
        driver_columns: the gene columns that make the gene score, all in the first group.
        gene_score: the planted score of the genes, mean 0, variance 1.
        patch_score: share of rare patches, standardised over the cohort.
        true_risk: log hazard ratio against a patient of average risk; higher is worse.
        observed_risk: expectation of `true_risk` given what was measured of the patient. A missing part
            contributes 0: both scores are symmetric around 0, and independent of each other.
    """

    cohort: Cohort
    signatures: Mapping[str, tuple[str, ...]]
    driver_columns: tuple[str, ...]
    gene_score: Mapping[str, float] = field(repr=False)
    patch_score: Mapping[str, float] = field(repr=False)
    true_risk: Mapping[str, float] = field(repr=False)
    observed_risk: Mapping[str, float] = field(repr=False)

    @property
    def oracle_c_index(self) -> float:
        """Harrell's C of `observed_risk` on the whole cohort: what a perfect model of observed data reaches.

        Chance is in it (these patients, these censored outcomes), so a model may score slightly above on a
        small subset. Of `true_risk` it would be higher wherever a modality is missing, and out of any model's
        reach.
        """
        return self.oracle_c_index_of([r.case_id for r in self.cohort.records])

    def oracle_c_index_of(self, case_ids: Collection[str]) -> float:
        """`oracle_c_index` on some patients only, for example a test fold.

        Raises:
            NoComparablePairError: nobody among them had an event before another one's last visit.
        """
        records = self.cohort.subset(case_ids).records
        return concordance_index(
            np.array([self.observed_risk[r.case_id] for r in records]),
            np.array([r.time_months for r in records]),
            np.array([r.event for r in records]),
        )


def generate_cohort(config: SyntheticConfig) -> SyntheticCohort:
    """Generate the cohort of `config`: the same settings and seed give the same patients, bit by bit.

    Times are exponential (proportional hazards, `median_months` at average risk), censored at random by an
    independent exponential time whose rate gives the wanted share in expectation.

    Raises:
        ConfigError: more hospitals than patients, or missing shares that leave patients with nothing.
    """
    _check(config)
    # One stream per purpose: a change of the censoring, say, leaves the slides as they were.
    for_hospitals, for_genes, for_patches, for_missing, for_times = (
        np.random.default_rng(s) for s in np.random.SeedSequence(config.seed).spawn(5)
    )
    hospital_N = np.repeat(np.arange(config.num_sites), _hospital_sizes(config.num_patients, config.num_sites))
    codes = for_hospitals.permutation([_letters(i) for i in range(config.num_sites)])
    tss = [str(codes[h]) for h in hospital_N]
    case_ids = [f"SYN-{code}-{i:04d}" for i, code in enumerate(tss)]

    symbols = tuple(f"GENE{i + 1:03d}" for i in range(config.num_genes))
    signatures = _gene_groups(symbols)
    columns, genes_NC, gene_score_N, driver_columns = _draw_genes(config, symbols, hospital_N, for_genes)
    slides_of, share_N, high_N = _draw_slides(config, case_ids, hospital_N, for_patches)
    patch_score_N = (share_N - share_N.mean()) / share_N.std()

    has_genes_N, has_slides_N = _draw_missing(config, for_missing)
    true_N, observed_N = _planted_risk(config, gene_score_N, patch_score_N, high_N, has_genes_N, has_slides_N)
    time_N, event_N = _draw_outcomes(config, true_N, for_times)

    row_N = np.cumsum(has_genes_N) - 1
    records = tuple(
        PatientRecord(
            case_id=case_id,
            time_months=round(float(time_N[i]), 4),  # a few minutes; exact in a CSV
            event=bool(event_N[i]),
            slides=tuple(slides_of[case_id]) if has_slides_N[i] else (),
            gene_row=int(row_N[i]) if has_genes_N[i] else None,
            tss=tss[i],
        )
        for i, case_id in enumerate(case_ids)
    )
    kept = {name: slide for r in records if r.slides for name, slide in slides_of[r.case_id].items()}
    cohort = Cohort(
        records,
        genes=GeneTable(columns, genes_NC[has_genes_N]) if has_genes_N.any() else None,
        features=MemoryFeatures(config.feature_width, kept) if kept else None,
    )
    return SyntheticCohort(
        cohort,
        signatures,
        driver_columns,
        gene_score=dict(zip(case_ids, gene_score_N.tolist(), strict=True)),
        patch_score=dict(zip(case_ids, patch_score_N.tolist(), strict=True)),
        true_risk=dict(zip(case_ids, true_N.tolist(), strict=True)),
        observed_risk=dict(zip(case_ids, observed_N.tolist(), strict=True)),
    )


def _check(config: SyntheticConfig) -> None:
    """Checks across fields that only matter where a cohort is generated."""
    if config.num_sites > config.num_patients:
        raise ConfigError(
            f"synthetic cohort: num_sites={config.num_sites} hospitals for "
            f"num_patients={config.num_patients}; lower num_sites, every hospital has at least one patient"
        )
    if config.missing_genes + config.missing_slides > 1:
        raise ConfigError(
            f"synthetic cohort: missing_genes={config.missing_genes} and "
            f"missing_slides={config.missing_slides} add up to more than 1, but a patient keeps at least one "
            "modality; lower one of them"
        )


def _letters(index: int) -> str:
    """Two-letter code of a hospital: AA, AB, ..., ZZ."""
    return chr(ord("A") + index // 26) + chr(ord("A") + index % 26)


def _hospital_sizes(num_patients: int, num_sites: int) -> npt.NDArray[np.int64]:
    """Uneven, as tissue source sites are: a handful for each, and the r-th largest gets 1/r of the first."""
    floor = min(_HANDFUL, num_patients // num_sites)
    share = 1.0 / np.arange(1, num_sites + 1)
    edges = np.round(np.cumsum(share) / share.sum() * (num_patients - floor * num_sites))
    return np.asarray(floor + np.diff(edges, prepend=0), dtype=np.int64)


def _group_edges(num_symbols: int) -> list[int]:
    """Where each run of symbols begins, and the end of the last."""
    return [num_symbols * g // _NUM_GROUPS for g in range(_NUM_GROUPS + 1)]


def _gene_groups(symbols: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Six runs of symbols; each but the last also holds the first symbol of the next."""
    edges = _group_edges(len(symbols))
    return {f"Pathway {g + 1}": symbols[edges[g] : edges[g + 1] + (g + 1 < _NUM_GROUPS)] for g in range(_NUM_GROUPS)}


def _draw_genes(
    config: SyntheticConfig,
    symbols: tuple[str, ...],
    hospital_N: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[tuple[str, ...], npt.NDArray[np.float32], FloatArray, tuple[str, ...]]:
    """Columns, values, gene score and the columns that make it.

    Expression is normal, and genes of a group go together. Copy number (of every third symbol) is -2...2, a
    mutation (of every sixth) 0 or 1; both say nothing about the risk.
    """
    num = config.num_patients
    group_C = np.searchsorted(_group_edges(len(symbols))[1:], np.arange(len(symbols)), side="right")
    pathway_NG = rng.standard_normal((num, _NUM_GROUPS))
    own_NC = rng.standard_normal((num, len(symbols)))
    rna_NC = np.sqrt(_COEXPRESSION) * pathway_NG[:, group_C] + np.sqrt(1 - _COEXPRESSION) * own_NC
    with_cnv, with_mut = symbols[::3], symbols[::6]
    cnv_NC = rng.choice([-2.0, -1.0, 0.0, 1.0, 2.0], p=[0.05, 0.15, 0.6, 0.15, 0.05], size=(num, len(with_cnv)))
    mut_NC = (rng.random((num, len(with_mut))) < 0.15).astype(np.float64)

    num_drivers = min(_NUM_DRIVERS, int((group_C == 0).sum()))
    direction_C = np.zeros(len(symbols))
    direction_C[:num_drivers] = 1 / np.sqrt(num_drivers)
    shift_SC = config.batch_effect * rng.standard_normal((config.num_sites, len(symbols)))
    shift_SC = _without_direction(shift_SC, direction_C)
    gene_score_N = rna_NC @ direction_C / np.sqrt(1 + (num_drivers - 1) * _COEXPRESSION)

    columns = (
        *(f"{s}_rnaseq" for s in symbols),
        *(f"{s}_cnv" for s in with_cnv),
        *(f"{s}_mut" for s in with_mut),
    )
    values_NC = np.concatenate([rna_NC + shift_SC[hospital_N], cnv_NC, mut_NC], axis=1).astype(np.float32)
    return columns, values_NC, gene_score_N, columns[:num_drivers]


def _draw_slides(
    config: SyntheticConfig, case_ids: list[str], hospital_N: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[dict[str, dict[str, SlideFeatures]], FloatArray, BoolArray]:
    """Slides of every patient, the share of rare patches in each, and whether it is above `rare_fraction`.

    Half of the patients are above, half below, and rounding to whole patches moves nobody to the other side:
    the sign of the score, which the XOR needs, is fair and can be read from the bag.
    """
    width = config.feature_width
    rare_F = rng.standard_normal(width)
    rare_F /= np.linalg.norm(rare_F)
    tissue_TF = _without_direction(_TISSUE_SPREAD * rng.standard_normal((_NUM_TISSUES, width)), rare_F)
    shift_SF = _without_direction(config.batch_effect * rng.standard_normal((config.num_sites, width)), rare_F)

    # A few sizes only: bags of one size are computed together, and an example should not take an hour on a laptop.
    sizes_of_bags = np.unique(np.linspace(*config.patches, _NUM_BAG_SIZES).astype(np.int64))
    slides_of: dict[str, dict[str, SlideFeatures]] = {}
    share_N = np.zeros(len(case_ids))
    high_N = rng.random(len(case_ids)) < 0.5
    for i, case_id in enumerate(case_ids):
        num = int(rng.choice(sizes_of_bags))
        distance = rng.random()  # of the share from `rare_fraction`, uniform, so that the share is uniform
        middle = config.rare_fraction * num
        if high_N[i]:
            num_rare = min(num, int(np.ceil(middle * (1 + distance))))
        else:
            num_rare = int(np.floor(middle * (1 - distance)))
        share_N[i] = num_rare / num

        sizes = [num]
        if num > 1 and rng.random() < 0.2:  # a second slide
            sizes = [num - num // 3, num // 3] if num >= 3 else [1, 1]
        slides_of[case_id] = {}
        for index, size in enumerate(sizes):
            here = min(num_rare, size)  # the first slide takes them first
            num_rare -= here
            coords_P2, rare_P = _place(size, here, rng)
            tissue_P = rng.choice(_NUM_TISSUES, p=rng.dirichlet(np.ones(_NUM_TISSUES)), size=size)
            patches_PF = rng.standard_normal((size, width)) + tissue_TF[tissue_P] + shift_SF[hospital_N[i]]
            patches_PF += _RARE_SHIFT * rare_P[:, None] * rare_F
            slide = SlideFeatures(patches_PF.astype(np.float32), coords_P2, rare_P)
            slides_of[case_id][f"{case_id}-DX{index + 1}"] = slide
    return slides_of, share_N, high_N


def _without_direction(rows: FloatArray, direction: FloatArray) -> FloatArray:
    """The rows without their part along a unit vector."""
    return rows - np.outer(rows @ direction, direction)


def _place(num: int, num_rare: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], BoolArray]:
    """Patches on a square grid, row by row, and the rare ones: those nearest to a random patch."""
    side = int(np.ceil(np.sqrt(num)))
    cells_P2 = np.stack([np.arange(num) % side, np.arange(num) // side], axis=1)
    distance_P = ((cells_P2 - cells_P2[rng.integers(num)]) ** 2).sum(axis=1)
    rare_P = np.zeros(num, dtype=np.bool_)
    rare_P[np.argsort(distance_P, kind="stable")[:num_rare]] = True
    return (cells_P2 * _PATCH_SIZE).astype(np.int64), rare_P


def _draw_missing(config: SyntheticConfig, rng: np.random.Generator) -> tuple[BoolArray, BoolArray]:
    """Who has genes and who has slides: the configured shares exactly (rounded), nobody without both."""
    order = rng.permutation(config.num_patients)
    num_without_genes = round(config.missing_genes * config.num_patients)
    num_without_slides = min(round(config.missing_slides * config.num_patients), len(order) - num_without_genes)
    has_genes_N, has_slides_N = np.ones((2, config.num_patients), dtype=np.bool_)
    has_genes_N[order[:num_without_genes]] = False
    has_slides_N[order[num_without_genes : num_without_genes + num_without_slides]] = False
    return has_genes_N, has_slides_N


def _planted_risk(
    config: SyntheticConfig,
    gene_score_N: FloatArray,
    patch_score_N: FloatArray,
    high_N: BoolArray,
    has_genes_N: BoolArray,
    has_slides_N: BoolArray,
) -> tuple[FloatArray, FloatArray]:
    """Log hazard ratio of every patient, and its expectation given what was measured."""
    if config.risk == "genes":
        score_N, known_N = gene_score_N, gene_score_N * has_genes_N
    elif config.risk == "patches":
        score_N, known_N = patch_score_N, patch_score_N * has_slides_N
    elif config.risk == "both":
        score_N = gene_score_N + patch_score_N
        known_N = gene_score_N * has_genes_N + patch_score_N * has_slides_N
    else:
        score_N = np.sign(gene_score_N) * np.where(high_N, 1.0, -1.0)
        known_N = score_N * (has_genes_N & has_slides_N)
    scale = config.effect / score_N.std()
    return scale * score_N, scale * known_N


def _draw_outcomes(
    config: SyntheticConfig, log_hazard_N: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, BoolArray]:
    """Follow-up in months, and whether the event happened at its end."""
    rate_N = np.log(2) / config.median_months * np.exp(log_hazard_N)
    event_time_N = rng.exponential(1.0 / rate_N)
    draw_N = rng.exponential(1.0, size=config.num_patients)
    if config.censoring == 0:
        return event_time_N, np.ones(config.num_patients, dtype=np.bool_)
    censoring_time_N = draw_N / _censoring_rate(rate_N, config.censoring)
    return np.minimum(event_time_N, censoring_time_N), event_time_N <= censoring_time_N


def _censoring_rate(rate_N: FloatArray, share: float) -> float:
    """Rate c of an exponential censoring time with mean over patients of c / (c + rate) = share.

    c / (c + rate) is the chance that an exponential time of rate c comes before one of rate `rate`. It grows
    with c, and c = share / (1 - share) * rate solves it for one patient, so the solution lies between the
    extremes.
    """
    odds = share / (1 - share)
    low, high = np.log(odds * rate_N.min()), np.log(odds * rate_N.max())
    for _ in range(60):
        middle = (low + high) / 2
        if np.mean(1 / (1 + rate_N * np.exp(-middle))) < share:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))
