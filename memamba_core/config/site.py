"""`site.yaml`: a site's own data, machine and limits. These settings outrank the coordinator's."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from memamba_core.config.base import Settings, read_yaml
from memamba_core.config.setting_rules import SettingRule, opened_settings
from memamba_core.config.site_privacy import DeclaredBands, SitePrivacy
from memamba_core.config.strategy import STRATEGY_NAMES, StrategyName
from memamba_core.errors import ConfigError

__all__ = [
    "ClinicalTable",
    "CoordinatorAddress",
    "DeclaredBands",
    "Device",
    "DisclosureConfig",
    "FeatureFolder",
    "FoldTable",
    "GenomicsTable",
    "LimitsConfig",
    "ListedRun",
    "Name",
    "SiteConfig",
    "SiteDataConfig",
    "SiteName",
    "SitePrivacy",
    "TableFile",
    "load_site_config",
]


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise ValueError("Wanted at most 64 letters, digits, `-`, `_`, `.`, the first of them a letter or digit")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
"""Name that is also the name of a folder: letters, digits, `-`, `_`, `.`."""
SiteName = Name
"""Name of a site, as enrolled: letters, digits, `-`, `_`, `.`."""


def _check_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        raise ValueError("Wanted auto (a GPU where there is one), cpu, cuda, or a certain GPU: cuda:1")
    return name


Device = Annotated[str, AfterValidator(_check_device)]
"""Device of the computation. The presence of a GPU is checked when the device is used."""


class TableFile(Settings):
    """How a table is read, where its file leaves it open."""

    decimal_mark: Literal["point", "comma"] | None = None
    """Mark before the decimals of the table's numbers; the other one may stand between thousands. Absent: found, and
    numbers that may be read in two ways (137 and 1.903) are an error. Under differential privacy absent means
    point: found, the mark would depend on the cells of single patients."""
    sheet: str | None = None
    """Excel workbooks only: name of the sheet. Absent: the first."""


class ClinicalTable(TableFile):
    """Table of the patients and their follow-up; these settings name its columns."""

    file: str
    """CSV or another table file (docs/reference/data.md)."""
    case_id: str = "case_id"
    """Column of the patient's identifier, unique within the site."""
    slides: str | None = None
    """Column of slide names: a list joined by `;` (or `|`, a line break, or a comma that is no part of a name), or one
    slide per row with the patient's row repeated. None: the site has no slides, or the slide-level table is keyed by
    patient."""
    time: str = "survival_months"
    """Column of the follow-up time."""
    time_unit: Literal["months", "days"] = "months"
    """Unit of the follow-up time; 30.4375 days are a month."""
    event: str = "event"
    """Column of 0/1 (or true/false), or of the words of registries: `1:DECEASED` and `0:LIVING`, `Dead` and `Alive`."""
    event_means: Literal["happened", "censored"] = "happened"
    """Meaning of a 1 in that column; words need `happened`. `censored` is the coding of MCAT's `censorship` column."""
    tss: str | None = None
    """Column of the tissue source site or institution, if the table has one. A simulation partitions the cohort by this
    column; read as text of at most 40 letters, digits, `-`, `_` (leading zeros stay, and `NA` is a code)."""


class GenomicsTable(TableFile):
    """Molecular data, one row per patient, or equal rows per slide. Columns: `SYMBOL_rnaseq`, `_cnv`, `_mut`."""

    file: str
    """CSV or another table file, as for the clinical table."""
    case_id: str = "case_id"
    """Column of the patient's identifier, as in the clinical table."""
    bare_columns: Literal["ignore", "mut", "mut_counts"] = "ignore"
    """Numeric columns without a suffix: `ignore` leaves them out, `mut` reads those with only 0 and 1 as mutations
    (MCAT's full tables write those as the bare gene symbol), `mut_counts` also reads whole numbers, as mutated above 0.
    """
    not_genes: tuple[str, ...] = ()
    """Columns that are never read, whatever their name."""
    not_measured: tuple[float, ...] | None = None
    """Numbers that stand for a value that was not measured, for example [-9, -999]; they are read as empty. Absent:
    such numbers are an error. []: all numbers are measurements."""


class FeatureFolder(TableFile):
    """Features of whole-slide images: a folder of CLAM, TRIDENT or STAMP, or a table with one vector per slide."""

    path: str
    """Folder or file below `root`."""
    encoder: str
    """Name of the network (or table) that computed the features; all sites must agree."""
    encoder_in_files: str | None = None
    """Name of the encoder that the files record (TRIDENT: `encoder`, STAMP: `extractor`), where it differs from
    `encoder`, the name that the sites agreed on. None: the two must be equal, apart from case and separators."""
    dataset: str | None = None
    """Name of the dataset of features in the files, for example `20x/features`. None: `features` or `feats`."""
    magnification: float | None = Field(None, gt=0)
    """Objective magnification of the patches, for example 20."""
    width: int | None = Field(None, ge=1, le=65_536)
    """Width of a patch's features. None takes that of the first readable file. Under differential privacy a folder
    needs it: otherwise one patient's file would decide what the site declares."""
    key: str = "case_id"
    """Slide-level tables only: the column that names the slide, or the patient if the values are case ids."""
    columns: str = r"^hif_\d+$"
    """Slide-level tables only: regular expression of the feature columns."""
    groups_file: str | None = None
    """Slide-level tables only: a CSV with columns `id,name`. The long name sorts column `id` into a family (what is
    measured, and of what: `DENSITY RATIO [PLASMA CELLS] IN ...` is of the family `DENSITY: PLASMA`; the rule is
    `memamba_core.data.features.slide_tables.build_families`), and each family becomes one token. None: a slide is one
    token."""


class FoldTable(TableFile):
    """Table of the test fold of each patient. Without such a table a seeded hash of the case id decides."""

    file: str
    """CSV or another table file, as for the clinical table."""
    case_id: str = "case_id"
    """Column of the patient's identifier, as in the clinical table."""
    fold: str = "fold"
    """Column of the test fold, a whole number from 0 on."""


class SiteDataConfig(Settings):
    """Tables and features of the site, below one root."""

    root: Path
    """Folder of the tables and features."""
    clinical: ClinicalTable
    genomics: GenomicsTable | None = None
    features: FeatureFolder | None = None
    folds: FoldTable | None = None

    def with_decimal_points(self) -> Self:
        """Return the same data with `decimal_mark: point` where no mark is declared."""
        tables = {name: table for name, table in self if isinstance(table, TableFile) and table.decimal_mark is None}
        declared = {name: table.model_copy(update={"decimal_mark": "point"}) for name, table in tables.items()}
        return self.model_copy(update=declared)

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> Self:
        if self.genomics is None and self.features is None:
            raise ValueError("name genomics, features, or both: there is nothing to learn from")
        return self


class LimitsConfig(Settings):
    """Limits on what the coordinator may ask of this site."""

    local_epochs: int = Field(5, ge=1)
    """Most passes over the patients in a round; the site refuses a run that asks for more."""
    minutes_per_round: float = Field(60.0, gt=0)
    """Longest training of this site in one round, in minutes. After that training is cut off, nothing of it leaves, and
    the site replies with refusal 112; the round continues without the site. Under differential privacy a round is never
    cut off, because the answer would depend on how long single patients take. Instead, a patient who takes more than a
    twentieth of this time in a step counts as a gradient of zero."""
    max_patches: int = Field(20_000, ge=1)
    """Most patches of one patient held in memory; a larger bag is sampled evenly over its slides."""
    strategies: tuple[StrategyName, ...] = STRATEGY_NAMES
    """Strategies this site takes part in."""
    max_parameters: int = Field(50_000_000, ge=1)
    """Most parameters of a model that this site trains."""
    settings: tuple[str, ...] | None = None
    """Settings in which a run may differ from the installed defaults: a setting (`federation.num_rounds`), a group
    (`federation` allows all of its settings), `*` for all, or a setting with a bound (`training.gradient_clip<=1.0`),
    which also holds where a run does not differ. An entry opens a setting without the protection of the absent list.
    `[]` allows no difference. Absent: settings that could make a run reveal more of single patients, or cost more time
    and memory, stay at the installed default or move away from it in the harmless direction only
    (`memamba_core.config.guarded_settings`); all others are free."""

    @field_validator("settings")
    @classmethod
    def _parsed(cls, settings: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if settings is None else tuple(str(SettingRule.parse(text)) for text in settings)

    @property
    def setting_rules(self) -> tuple[SettingRule, ...] | None:
        """The entries of `settings`."""
        return None if self.settings is None else tuple(SettingRule.parse(text) for text in self.settings)

    def warning(self) -> str | None:
        """Return one sentence about guarded settings that `settings` opens without a bound; None if it opens none."""
        opened = opened_settings(self.setting_rules)
        if not opened:
            return None
        some = ", ".join(opened[:3]) + (", ..." if len(opened) > 3 else "")
        return (
            f"limits.settings opens {len(opened)} settings without a bound that protect single patients, or this "
            f"machine, from a hostile coordinator ({some}). Name single settings with bounds, or remove the list"
        )


class DisclosureConfig(Settings):
    """Thresholds below which a number does not leave the site. Strict by default."""

    min_patients: int = Field(10, ge=1)
    """Fewest patients behind a sum or a count."""
    min_events: int = Field(5, ge=0)
    """Fewest patients with the event, and fewest without."""
    min_pairs: int = Field(50, ge=1)
    """Fewest comparable pairs of patients behind a concordance."""
    min_round_patients: int = Field(32, ge=1)
    """Fewest patients for a training round without differential privacy: the weights that come back from a round of a
    few patients can be turned into those patients' molecular values (docs/explanation/privacy.md)."""


class CoordinatorAddress(Settings):
    """Address of the coordinator, and the files by which the two identify each other."""

    address: str = Field(pattern=r"^([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$")
    """`host:port`, with the host name of the coordinator's certificate."""
    ca: Path = Path("ca.crt")
    """Certificate of the authority that the coordinator sent; no other is trusted."""
    keys: Path = Path("keys")
    """Folder of `flower-client keygen`."""

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The two parts of `address`, an IPv6 address without brackets."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)


def _check_fingerprint(text: str) -> str:
    if not re.fullmatch(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", text):
        raise ValueError("Wanted 32 pairs of digits, AB:CD:...; copy them from `flower-client doctor site.yaml`")
    return text


def _check_digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError("Wanted 64 hexadecimal digits; copy them from `flower-client runs site.yaml RUN`")
    return text


class ListedRun(Settings):
    """Settings of runs that the operator approves in advance, from one coordinator."""

    coordinator: Annotated[str, AfterValidator(_check_fingerprint)]
    """Fingerprint of the coordinator's authority (`ca.crt`), as `flower-client doctor` shows it: `AB:CD:...`."""
    settings: Annotated[str, AfterValidator(_check_digest)]
    """Digest of the settings, as `flower-server run` and `flower-client runs site.yaml RUN` show it."""


class SiteConfig(Settings):
    """Data, machine and limits of one site."""

    name: SiteName
    """Name as enrolled: at most 64 letters, digits, `-`, `_`, `.`; starts with a letter or digit."""
    data: SiteDataConfig
    state: Path | None = None
    """The one writable folder: settings and agreement of each run, final model, egress log, private log, ledger. None
    keeps everything in memory: for a simulation only, `flower-client` does not run without the folder."""
    device: Device = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, or one GPU: `cuda:1`."""
    threads: int = Field(2, ge=1)
    """Torch threads of the client."""
    limits: LimitsConfig = LimitsConfig()
    disclosure: DisclosureConfig = DisclosureConfig()
    privacy: SitePrivacy | None = None
    """None: the site takes part in runs without differential privacy only."""
    coordinator: CoordinatorAddress | None = None
    """None: the site is in no federation over a network (simulation)."""
    approve: Literal["ask", "listed", "automatic"] | None = None
    """Approval of the coordinator's runs. `ask`: each run waits until the operator has typed `flower-client approve`.
    `listed`: runs in `listed_runs` need no approval, others wait as with `ask`. `automatic`: every run that the limits
    allow takes place, and over several runs a hostile coordinator can read single patients, unless under differential
    privacy. `flower-client run` and `train` require one of the three; None is for other commands."""
    listed_runs: tuple[ListedRun, ...] = ()
    """With `approve: listed`: the approved pairs of coordinator and settings. A pair covers every run with these
    settings: any fold, roster and number of runs."""

    @model_validator(mode="after")
    def _list_is_used(self) -> Self:
        if self.listed_runs and self.approve != "listed":
            raise ValueError(f"listed_runs is set, but approve is {self.approve}; expected approve: listed")
        return self

    @model_validator(mode="after")
    def _ledger_has_a_place(self) -> Self:
        if self.privacy is not None and self.state is None:
            raise ValueError("privacy needs state, the writable folder that holds the ledger")
        return self

    @model_validator(mode="after")
    def _sizes_are_declared(self) -> Self:
        """Require what differential privacy needs to be public, so that no answer is made from a count of patients."""
        if self.privacy is None:
            return self
        if self.privacy.bands is None:
            raise ValueError(
                "privacy needs bands, the public sizes of this site, for example {patients: 100, pathology: 0, "
                "genomics: 100}; each is the lower end of a band (0, 1, 10, 25, 50, 100, 250, 500, 1000, 10000)"
            )
        for name, section in (("pathology", "features"), ("genomics", "genomics")):
            declared, present = getattr(self.privacy.bands, name), getattr(self.data, section) is not None
            if bool(declared) != present:
                wanted = f"at least 1, because data.{section} is set" if present else f"0 without data.{section}"
                raise ValueError(f"privacy.bands.{name} is {declared}; expected {wanted}")
        if self.data.genomics is not None and self.data.genomics.bare_columns != "ignore":
            raise ValueError(
                f"data.genomics.bare_columns is {self.data.genomics.bare_columns}: one value of one patient decides "
                "whether such a column is read, and the list of columns leaves the site. With privacy, name the "
                "columns SYMBOL_mut and use ignore"
            )
        return self


def load_site_config(path: Path) -> SiteConfig:
    """Read a `site.yaml`. Relative paths are taken from the folder that holds the file.

    Raises:
        ConfigError: the file is absent, is not YAML, or holds something that `SiteConfig` does not allow.
    """
    wanted = "a site.yaml with name, data, ... (`flower-server kit` and `flower-simulate export-sites` write them)"
    values = read_yaml(path, wanted)
    _refuse_empty(values, path)
    config = SiteConfig.parse(values, str(path))

    def absolute(relative: Path) -> Path:
        return (path.parent / relative).resolve()

    changes: dict[str, object] = {"data": config.data.model_copy(update={"root": absolute(config.data.root)})}
    if config.state is not None:
        changes["state"] = absolute(config.state)
    if config.coordinator is not None:
        ca, keys = absolute(config.coordinator.ca), absolute(config.coordinator.keys)
        changes["coordinator"] = config.coordinator.model_copy(update={"ca": ca, "keys": keys})
    return config.model_copy(update=changes)


def _refuse_empty(values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
    """Refuse a key with nothing behind it: YAML reads null, and the protection of the section would be absent.

    `settings:` above nothing but comments would be read as no list, and `privacy:` as no privacy.

    Raises:
        ConfigError: a key has no value.
    """
    for key, value in values.items():
        name = f"{prefix}{key}"
        if value is None and (name == "privacy" or name.startswith(("limits", "disclosure", "privacy."))):
            instead = "Write [] to allow no difference" if name == "limits.settings" else "Give it a value"
            raise ConfigError(f"{path}: {name} is empty, which YAML reads as null. {instead}, or remove the line")
        if isinstance(value, Mapping):
            _refuse_empty(value, path, f"{name}.")
