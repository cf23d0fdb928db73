"""A generated cohort with planted risk: the best reachable C-index is known, and a model can be held to it.

Every patient has scores of genes and scores of patches; the log hazard ratio is `effect` times a score made from these.
Where the risk lies is `risk`:

* `genes`: in a few genes of one group. `patches`: in how much of the tissue is of a rare kind. `both`: in their sum.
* `interaction`: in the product of the two signs (XOR). Neither alone says anything.
* `correspondence`: six kinds of patches belong to the six gene groups, and every patient has all of them. Each kind
  looks active or at rest, and the risk is in how well looks and genes agree: a pathway that the genes show to be active
  is bad where its kind of tissue looks so too, and good where it looks at rest. It is a sum of six products; genes
  alone, patches alone and how active all the tissue is say nothing.
* `order`: in whether the patches of one kind huddle together or are scattered over the slide, as immune cells may be
  shut out of a tumour or infiltrate it. Everybody has the same share of them, so without their order they say nothing.

Hospitals differ in size and shift what they measure, but never along the planted directions: the scores can be read
from the observed values exactly, whatever the hospital.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from memamba_core.config.simulation import SyntheticConfig
from memamba_core.data.records import Cohort, GeneTable, PatientRecord
from memamba_core.data.synthetic.genes import NUM_GROUPS, draw_genes, gene_groups
from memamba_core.data.synthetic.outcomes import draw_outcomes, planted_risk
from memamba_core.data.synthetic.slides import MemoryFeatures, draw_slides, patches_of_kind
from memamba_core.errors import ConfigError
from memamba_core.survival.concordance import concordance_index

__all__ = ["SyntheticCohort", "generate_cohort"]

BoolArray = npt.NDArray[np.bool_]

_HANDFUL = 5  # fewest patients of a hospital, where there are enough
_MOST_SCATTERED = 0.2  # share of the patches; more could not all stand by themselves
_FEWEST_SCATTERED = 4


@dataclass(frozen=True)
class SyntheticCohort:
    """A generated cohort and the truth behind it.

    Scores and risks are keyed by case id, and exist for every patient whether or not the part that carries
    them was measured.

    Attributes:
        cohort: the patients; `tss` is the two-letter code of the hospital, `fold` is None.
        signatures: gene group -> symbols. Neighbouring groups share a symbol, as published tables do.
        driver_columns: the gene columns that make the gene scores.
        gene_scores: of each planted group, mean 0, variance 1: of the first group, or, for `risk=correspondence`, of
            all six.
        patch_scores: of each planted kind of patch. Its share, or for `risk=order` the share of its patches that touch
            another one, standardised over the cohort; for `risk=correspondence` 1 for each kind that looks active, and
            -1.
        true_risk: log hazard ratio against a patient of average risk; higher is worse.
        observed_risk: expectation of `true_risk` given what was measured of the patient. A missing part
            contributes 0: all scores are symmetric around 0, and independent of each other.
    """

    cohort: Cohort
    signatures: Mapping[str, tuple[str, ...]]
    driver_columns: tuple[str, ...]
    gene_scores: Mapping[str, tuple[float, ...]] = field(repr=False)
    patch_scores: Mapping[str, tuple[float, ...]] = field(repr=False)
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
    for_sites, for_genes, for_patches, for_missing, for_times = (
        np.random.default_rng(s) for s in np.random.SeedSequence(config.seed).spawn(5)
    )
    site_N = np.repeat(np.arange(config.num_sites), _site_sizes(config.num_patients, config.num_sites))
    codes = for_sites.permutation([_letters(i) for i in range(config.num_sites)])
    tss = [str(codes[h]) for h in site_N]
    case_ids = [f"SYN-{code}-{i:04d}" for i, code in enumerate(tss)]

    symbols = tuple(f"GENE{i + 1:03d}" for i in range(config.num_genes))
    num_planted = NUM_GROUPS if config.risk == "correspondence" else 1
    genes = draw_genes(config, symbols, site_N, num_planted, for_genes)
    slides = draw_slides(config, case_ids, site_N, for_patches)

    has_genes_N, has_slides_N = _draw_missing(config, for_missing)
    true_N, observed_N = planted_risk(config, genes.scores_NG, slides, has_genes_N, has_slides_N)
    time_N, event_N = draw_outcomes(config, true_N, for_times)

    row_N = np.cumsum(has_genes_N) - 1
    records = tuple(
        PatientRecord(
            case_id=case_id,
            time_months=round(float(time_N[i]), 4),  # a few minutes; exact in a CSV
            event=bool(event_N[i]),
            slides=tuple(slides.slides_of[case_id]) if has_slides_N[i] else (),
            gene_row=int(row_N[i]) if has_genes_N[i] else None,
            tss=tss[i],
        )
        for i, case_id in enumerate(case_ids)
    )
    kept = {name: slide for r in records if r.slides for name, slide in slides.slides_of[r.case_id].items()}
    cohort = Cohort(
        records,
        genes=GeneTable(genes.columns, genes.values_NC[has_genes_N]) if has_genes_N.any() else None,
        features=MemoryFeatures(config.feature_width, kept) if kept else None,
    )
    return SyntheticCohort(
        cohort,
        gene_groups(symbols),
        genes.driver_columns,
        gene_scores=dict(zip(case_ids, map(tuple, genes.scores_NG.tolist()), strict=True)),
        patch_scores=dict(zip(case_ids, map(tuple, slides.scores_NK.tolist()), strict=True)),
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
    share, fewest = config.rare_fraction, round(config.rare_fraction * config.patches[0])
    if config.risk == "correspondence" and (share * NUM_GROUPS > 1 or config.feature_width <= NUM_GROUPS):
        raise ConfigError(
            f"synthetic cohort: risk=correspondence plants {NUM_GROUPS} kinds of patches, each rare_fraction={share} "
            f"of the tissue, and tells them and their looks apart by directions of feature_width="
            f"{config.feature_width}; it needs rare_fraction <= {1 / NUM_GROUPS:.2f} and feature_width > {NUM_GROUPS}"
        )
    few = [n for n in range(config.patches[0], config.patches[1] + 1) if NUM_GROUPS * patches_of_kind(share, n) > n]
    if config.risk == "correspondence" and few:
        raise ConfigError(
            f"synthetic cohort: risk=correspondence plants {NUM_GROUPS} x {patches_of_kind(share, few[-1])} patches, "
            f"more than a patient with {few[-1]} has; take more patches or another rare_fraction"
        )
    if config.risk == "order" and (share > _MOST_SCATTERED or fewest < _FEWEST_SCATTERED):
        raise ConfigError(
            f"synthetic cohort: risk=order with rare_fraction={share} of at least {config.patches[0]} patches; patches "
            f"that can huddle or scatter need rare_fraction <= {_MOST_SCATTERED}, and {_FEWEST_SCATTERED} of them in "
            "every patient: take more patches"
        )


def _letters(index: int) -> str:
    """Two-letter code of a hospital: AA, AB, ..., ZZ."""
    return chr(ord("A") + index // 26) + chr(ord("A") + index % 26)


def _site_sizes(num_patients: int, num_sites: int) -> npt.NDArray[np.int64]:
    """Uneven, as tissue source sites are: a handful for each, and the r-th largest gets 1/r of the first."""
    floor = min(_HANDFUL, num_patients // num_sites)
    share = 1.0 / np.arange(1, num_sites + 1)
    edges = np.round(np.cumsum(share) / share.sum() * (num_patients - floor * num_sites))
    return np.asarray(floor + np.diff(edges, prepend=0), dtype=np.int64)


def _draw_missing(config: SyntheticConfig, rng: np.random.Generator) -> tuple[BoolArray, BoolArray]:
    """Who has genes and who has slides: the configured shares exactly (rounded), nobody without both."""
    order = rng.permutation(config.num_patients)
    num_without_genes = round(config.missing_genes * config.num_patients)
    num_without_slides = min(round(config.missing_slides * config.num_patients), len(order) - num_without_genes)
    has_genes_N, has_slides_N = np.ones((2, config.num_patients), dtype=np.bool_)
    has_genes_N[order[:num_without_genes]] = False
    has_slides_N[order[num_without_genes : num_without_genes + num_without_slides]] = False
    return has_genes_N, has_slides_N
