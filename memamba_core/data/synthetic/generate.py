"""Generate a cohort with planted risk, whose best reachable C-index is known as a standard for models.

Every patient has scores of genes and scores of patches; the log hazard ratio is `effect` times a score made from these.
The setting `risk` decides what carries the risk:

* `genes`: a few genes of one group. `patches`: the share of a rare kind of tissue. `both`: the sum of these two scores.
* `interaction`: the product of the two signs (XOR). Genes alone and patches alone carry no information.
* `correspondence`: six kinds of patches belong to the six gene groups, and every patient has all of them. Each kind
  looks active or at rest, and the risk is the agreement of looks and genes: a pathway that is active by its genes is
  bad if its kind of tissue looks active as well, and good if this tissue looks at rest. The score is a sum of six
  products; genes alone, patches alone and the activity of the whole tissue carry no information.
* `order`: the patches of one kind cluster or are scattered over the slide, as immune cells may be excluded from a
  tumour or infiltrate it. All patients have the same share of this kind, so only the order carries information.

Sites differ in size and shift their measurements, but never along the planted directions: at every site, the scores can
be read exactly from the observed values.
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

_HANDFUL = 5  # fewest patients of a site, if the cohort has enough
_MOST_SCATTERED = 0.2  # share of the patches; more patches could not all be isolated
_FEWEST_SCATTERED = 4


@dataclass(frozen=True)
class SyntheticCohort:
    """A generated cohort and the truth behind it.

    Scores and risks are keyed by case id, and exist for every patient whether or not the part that carries
    them was measured.

    Attributes:
        cohort: the patients; `tss` is the two-letter code of the site, `fold` is None.
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
        """Harrell's C of `observed_risk` on the whole cohort: the C-index of a perfect model of the observed data.

        This C-index depends on chance (these patients, these censored outcomes), so a model may score slightly higher
        on a small subset. The C-index of `true_risk` would be higher wherever a modality is missing, and out of reach
        for any model.
        """
        return self.oracle_c_index_of([r.case_id for r in self.cohort.records])

    def oracle_c_index_of(self, case_ids: Collection[str]) -> float:
        """Compute `oracle_c_index` on some patients only, for example a test fold.

        Raises:
            NoComparablePairError: none of them had an event before the last visit of another.
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
    independent exponential time whose rate gives the requested share in expectation.

    Raises:
        ConfigError: more sites than patients, or missing shares that leave patients without any modality.
    """
    _check(config)
    # One stream per purpose: for example, other settings of the censoring do not change the slides.
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
    """Check settings across fields that matter only for generating a cohort."""
    if config.num_sites > config.num_patients:
        raise ConfigError(
            f"synthetic cohort: num_sites is {config.num_sites}; expected at most num_patients="
            f"{config.num_patients}, because every site has at least one patient. Lower num_sites"
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
            f"of the tissue, and separates kinds and looks by directions of feature_width="
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
            f"that can cluster or scatter need rare_fraction <= {_MOST_SCATTERED}, and {_FEWEST_SCATTERED} of them in "
            "every patient: take more patches"
        )


def _letters(index: int) -> str:
    """Return the two-letter code of a site: AA, AB, ..., ZZ."""
    return chr(ord("A") + index // 26) + chr(ord("A") + index % 26)


def _site_sizes(num_patients: int, num_sites: int) -> npt.NDArray[np.int64]:
    """Return uneven sizes, like those of tissue source sites: a few patients each, and the rest as 1 : 1/2 : 1/3..."""
    smallest = min(_HANDFUL, num_patients // num_sites)
    share = 1.0 / np.arange(1, num_sites + 1)
    edges = np.round(np.cumsum(share) / share.sum() * (num_patients - smallest * num_sites))
    return np.asarray(smallest + np.diff(edges, prepend=0), dtype=np.int64)


def _draw_missing(config: SyntheticConfig, rng: np.random.Generator) -> tuple[BoolArray, BoolArray]:
    """Draw the presence of genes and slides: exactly the configured shares (rounded), at least one for each patient."""
    order = rng.permutation(config.num_patients)
    num_without_genes = round(config.missing_genes * config.num_patients)
    num_without_slides = min(round(config.missing_slides * config.num_patients), len(order) - num_without_genes)
    has_genes_N, has_slides_N = np.ones((2, config.num_patients), dtype=np.bool_)
    has_genes_N[order[:num_without_genes]] = False
    has_slides_N[order[num_without_genes : num_without_genes + num_without_slides]] = False
    return has_genes_N, has_slides_N
