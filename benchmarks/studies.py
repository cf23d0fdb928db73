"""Studies of docs/results/survival.md: their settings, cohorts and seeds."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cohorts import COHORTS, HISTOLOGY_COHORTS

__all__ = ["PLANTED_PAIRS", "STUDIES", "Setting", "Study", "folder_name"]

FOLDS = "folds=[0,1,2,3,4]"


@dataclass(frozen=True)
class Setting:
    """One row of a table: its label and its overrides."""

    label: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """Settings x cohorts x seeds.

    Attributes:
        base: overrides of every run.
        settings: rows of the table.
        cohorts: columns of the table; `data=` of each run.
        seeds: seeds of training.
    """

    base: tuple[str, ...]
    settings: tuple[Setting, ...]
    cohorts: tuple[str, ...]
    seeds: tuple[int, ...]

    def runs(self, root: Path) -> Iterable[tuple[Path, tuple[str, ...]]]:
        """Yield folder and overrides of every run."""
        for setting in self.settings:
            for cohort in self.cohorts:
                for seed in self.seeds:
                    merged = dict(o.split("=", 1) for o in (*self.base, *setting.overrides))
                    overrides = (f"data={cohort}", f"seed={seed}", *(f"{k}={v}" for k, v in merged.items()))
                    yield root / folder_name(setting.label) / f"{cohort}-seed-{seed}", overrides

    def values(self, root: Path, setting: Setting, cohort: str, method: str) -> np.ndarray:
        """Return the C-index by seed and fold."""
        rows = []
        for seed in self.seeds:
            path = root / folder_name(setting.label) / f"{cohort}-seed-{seed}" / "summary.json"
            rows.append([fold[method] for fold in json.loads(path.read_text(encoding="utf-8"))["folds"]])
        return np.array(rows, dtype=np.float64)


def folder_name(label: str) -> str:
    """Turn a row's label into a folder's name: `no scan, all patients` -> `no-scan-all-patients`."""
    return label.replace(",", "").replace(" ", "-")


_PLANTED = (
    "data.synthetic.num_patients=1500",
    "data.synthetic.num_genes=12",
    "data.synthetic.feature_width=16",
    "data.synthetic.patches=[24,48]",
    "data.synthetic.missing_genes=0",
    "data.synthetic.missing_slides=0",
    "training.batch_size=32",
    "methods=[pooled]",
)

# An interaction without marginal effect is hard to find: a clear cohort and no regularisation, chosen on another cohort
# (data.synthetic.seed=8).
_INTERACTION = (
    "data.synthetic.risk=interaction",
    "data.synthetic.num_genes=6",
    "data.synthetic.feature_width=6",
    "data.synthetic.patches=[16,16]",
    "data.synthetic.rare_fraction=0.3",
    "data.synthetic.batch_effect=0",
    "data.synthetic.effect=3",
    "data.synthetic.censoring=0.2",
    "model.dropout=0",
    "model.linear_skip=false",
    "training.optimizer.learning_rate=0.003",
    "training.loss.mmd_weight=0",
    "federation.num_rounds=25",
)

# The same for the correspondence of six gene groups with six kinds of patches, with settings chosen on the cohort of
# seed 8. Without scans, the models differ in the synergistic expert alone.
_CORRESPONDENCE = (
    "data.synthetic.risk=correspondence",
    "data.synthetic.num_genes=6",
    "data.synthetic.feature_width=8",
    "data.synthetic.patches=[16,16]",
    "data.synthetic.batch_effect=0",
    "data.synthetic.effect=3",
    "data.synthetic.censoring=0.2",
    "model.dropout=0.1",
    "model.scans=[]",
    "model.linear_skip=false",
    "training.optimizer.learning_rate=0.003",
    "training.loss.mmd_weight=0",
    "federation.num_rounds=25",
)

_ORDER = (
    "data.synthetic.risk=order",
    "data.synthetic.num_patients=1000",
    "data.synthetic.num_genes=6",
    "data.synthetic.feature_width=8",
    "data.synthetic.patches=[36,36]",
    "data.synthetic.rare_fraction=0.2",
    "data.synthetic.effect=2",
    "data.synthetic.censoring=0.3",
    "model=pathology",
    "model.d_model=16",
    "model.dropout=0.1",
    "training.optimizer.learning_rate=0.003",
    "federation.num_rounds=30",
)

PLANTED_PAIRS = (
    ("interaction, three experts", "interaction, no synergistic expert"),
    ("correspondence, three experts", "correspondence, no synergistic expert"),
    ("correspondence, three experts", "correspondence, uniform plan"),
    ("order, conventional scan", "order, no scan"),
    ("order, both scans", "order, conventional scan"),
)

_PRIVATE_FOLDS = "folds=[0,1,2]"
_BY_EPSILON = (
    Setting("without", ()),
    *(Setting(f"epsilon {e}", ("privacy=dp_sgd", f"privacy.epsilon={e}")) for e in (16, 8, 4, 2)),
)

STUDIES = {
    "genomics": Study(
        base=("model=genomics", "methods=[pooled]", "federation.num_rounds=14", FOLDS),
        settings=(
            Setting("both scans and linear skip", ()),
            Setting("without linear skip", ("model.linear_skip=false",)),
            Setting("conventional scan only", ("model.scans=[conventional]",)),
            Setting("attention scan only", ("model.scans=[attention]",)),
            Setting("no scan", ("model.scans=[]",)),
            Setting("no scan and no linear skip", ("model.scans=[]", "model.linear_skip=false")),
        ),
        cohorts=COHORTS,
        seeds=(0, 1, 2),
    ),
    "federated": Study(
        base=("model=genomics", "partition=tss", "compare=true", FOLDS),
        settings=(Setting("by tissue source site", ()),),
        cohorts=COHORTS,
        seeds=(0,),
    ),
    "histology": Study(
        base=("methods=[pooled]", FOLDS),
        settings=tuple(
            Setting(f"{label}, {patients}", (*overrides, f"data.complete_cases={complete}"))
            for patients, complete in (("complete cases", "true"), ("all patients", "false"))
            for label, overrides in (
                ("three experts", ()),
                ("no synergistic expert", ("model=late_fusion",)),
                ("genomics expert", ("model=genomics",)),
                ("pathology expert", ("model=pathology",)),
            )
        ),
        cohorts=HISTOLOGY_COHORTS,
        seeds=(0, 1),
    ),
    "slide_skip": Study(
        base=("methods=[pooled]", FOLDS, "data.complete_cases=true", "model=pathology"),
        settings=(
            Setting("pathology expert", ()),
            Setting("pathology expert with a linear path", ("model.slide_skip=true",)),
        ),
        cohorts=HISTOLOGY_COHORTS,
        seeds=(0,),
    ),
    "planted": Study(
        base=_PLANTED,
        settings=(
            Setting("genes, genomics expert", ("data.synthetic.risk=genes", "model=genomics")),
            Setting("patches, pathology expert", ("data.synthetic.risk=patches", "model=pathology")),
            Setting(
                "patches, pathology expert without scans",
                ("data.synthetic.risk=patches", "model=pathology", "model.scans=[]"),
            ),
            Setting("interaction, three experts", _INTERACTION),
            Setting("interaction, no synergistic expert", (*_INTERACTION, "model=late_fusion")),
            Setting("correspondence, three experts", _CORRESPONDENCE),
            Setting("correspondence, uniform plan", (*_CORRESPONDENCE, "model.transport_epsilon=1000")),
            Setting("correspondence, no synergistic expert", (*_CORRESPONDENCE, "model=late_fusion")),
            Setting("order, both scans", _ORDER),
            Setting("order, conventional scan", (*_ORDER, "model.scans=[conventional]")),
            Setting("order, attention scan", (*_ORDER, "model.scans=[attention]")),
            Setting("order, no scan", (*_ORDER, "model.scans=[]")),
        ),
        cohorts=("synthetic",),
        seeds=(0, 1, 2),
    ),
    "privacy": Study(
        base=("model=genomics", "partition=tss_merged", "partition.min_patients=50", _PRIVATE_FOLDS),
        settings=_BY_EPSILON,
        cohorts=COHORTS,
        seeds=(0, 1),
    ),
    "privacy-region": Study(
        base=("model=genomics", "partition=region", _PRIVATE_FOLDS),
        settings=_BY_EPSILON,
        cohorts=("tcga_brca",),
        seeds=(0, 1),
    ),
    "privacy-slides": Study(
        base=("partition=tss_merged", "partition.min_patients=50", _PRIVATE_FOLDS),
        settings=_BY_EPSILON,
        cohorts=("tcga_luad_hif",),
        seeds=(0, 1),
    ),
}
