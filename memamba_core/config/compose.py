"""Composition of settings with Hydra: `configs/` and overrides become `Experiment` or `SimulationConfig`.

Only this file imports Hydra and OmegaConf, and only when settings are composed. An override is `key=value`
(`federation.num_rounds=50`) or `group=file` (`model=genomics`). The YAML files show what people change; every other
setting can be overridden too, because the models and not the files say what exists.

Settings are composed once, on the machine of the person who begins a run. Over the network they travel as validated
JSON (`Experiment.to_json`): Hydra never reads text that another machine sent.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from memamba_core.config.base import setting_names
from memamba_core.config.experiment import Experiment
from memamba_core.config.simulation import SimulationConfig
from memamba_core.config.text_settings import quote, quote_texts
from memamba_core.errors import ConfigError

__all__ = [
    "HYDRA_VERSION_BASE",
    "compose_audit",
    "compose_experiment",
    "compose_simulation",
    "config_folder",
    "config_groups",
    "expand_sweep",
    "hydra_overrides",
    "installed_experiment",
    "render_settings",
]

HYDRA_VERSION_BASE = "1.3"
"""Version of Hydra's behaviour. Every start of Hydra uses the same, because Hydra keeps one for the process."""

_HYDRA = threading.Lock()  # Hydra keeps its state in process-wide singletons

_OVERRIDE = re.compile(r"(?P<sign>~|\+\+?)?(?P<key>[A-Za-z_][\w.]*)=")
_SOURCE = "settings"  # source in error texts: YAML and overrides together


def config_folder() -> Path:
    """Return the folder of the YAML files, next to this package in a checkout and in an installed wheel.

    The import path is not searched for `configs`: a folder of that name in the working directory would come first.

    Raises:
        ConfigError: the installation is damaged.
    """
    folder = Path(__file__).resolve().parents[2] / "configs"
    if not (folder / "experiment.yaml").is_file():
        raise ConfigError(f"{folder}: this package's settings files are missing; install memamba-federated again")
    return folder


def config_groups() -> dict[str, tuple[str, ...]]:
    """Return every group with the names of its files: `{"strategy": ("fedadam", ...), ...}`."""
    folders = sorted(folder for folder in config_folder().iterdir() if folder.is_dir())
    groups = {folder.name: tuple(sorted(file.stem for file in folder.glob("*.yaml"))) for folder in folders}
    return {name: files for name, files in groups.items() if files}


def compose_experiment(overrides: Sequence[str] = (), config_name: str = "experiment") -> Experiment:
    """Compose the experiment from overrides of the person who runs this program.

    Args:
        overrides: as on the command line.
        config_name: a file at the top of `configs/`, without `.yaml`.

    Raises:
        ConfigError: a setting is unknown or out of range; the text names it and what is allowed.
    """
    return Experiment.parse(_compose(config_name, overrides), _SOURCE)


def compose_simulation(overrides: Sequence[str] = (), config_dir: Path | None = None) -> SimulationConfig:
    """Compose a simulation from overrides of the person who runs this program.

    Args:
        overrides: as on the command line.
        config_dir: folder with more settings files, in the layout of `configs/`.

    Raises:
        ConfigError: a setting is unknown or out of range; the text names it and what is allowed.
    """
    attacks = next((o for o in overrides if re.match(r"[~+]*attacks\b", o)), None)
    if attacks is not None:
        raise ConfigError(f"{attacks} is a setting of an audit; expected `flower-simulate audit {attacks}`")
    return _simulation(_compose("simulate", overrides, config_dir))


@cache
def installed_experiment() -> Experiment:
    """Return the installed settings; composing takes a tenth of a second, and a simulation has many sites."""
    return compose_experiment()


def compose_audit(overrides: Sequence[str] = (), config_dir: Path | None = None) -> SimulationConfig:
    """Compose an audit: a simulation with attacks on it, all of them unless `attacks=FILE` chooses.

    Args:
        overrides: as on the command line.
        config_dir: folder with more settings files, in the layout of `configs/`.

    Raises:
        ConfigError: a setting is unknown or out of range; the text names it and what is allowed.
    """
    return _simulation(_compose("audit", overrides, config_dir))


def render_settings(config_name: str, overrides: Sequence[str] = (), config_dir: Path | None = None) -> str:
    """Return the composed YAML of a settings file as text, before it is checked and interpolated.

    Raises:
        ConfigError: Hydra cannot compose it.
    """
    from omegaconf import OmegaConf

    with _hydra_session(config_name, overrides, config_dir) as words:
        return OmegaConf.to_yaml(_composed(config_name, words))


def expand_sweep(overrides: Sequence[str], config_dir: Path | None = None) -> list[tuple[dict[str, str], list[str]]]:
    """Expand overrides with several values, such as `seed=0,1`, into one list of overrides per combination.

    Args:
        overrides: as on the command line.
        config_dir: folder with more settings files, which `group=glob(*)` then finds too.

    Returns:
        For each run the swept settings with their values, and all overrides. The last sweep varies fastest.

    Raises:
        ConfigError: an override is not readable, sweeps over a continuous interval, or none has several values.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    choices: list[list[tuple[str | None, str, str]]] = []
    with _hydra_session("simulate", overrides, config_dir, sweep=True):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        words = quote_texts(overrides, _is_readable)
        for override, parsed in zip(overrides, parser.parse_overrides(words), strict=True):
            if not parsed.is_sweep_override():
                choices.append([(None, "", override)])
                continue
            if not parsed.is_discrete_sweep():
                raise ConfigError(f"{override!r} sweeps over an interval; expected values such as seed=0,1,2")
            key = parsed.get_key_element()
            values = [str(value) for value in parsed.sweep_string_iterator()]
            choices.append([(key.lstrip("+"), value.strip("'\""), f"{key}={value}") for value in values])
    if all(key is None for options in choices for key, _, _ in options):
        raise ConfigError("--multirun: no setting has several values; expected at least one such as seed=0,1,2")
    return [
        ({key: value for key, value, _ in run if key is not None}, [override for _, _, override in run])
        for run in product(*choices)
    ]


def hydra_overrides(overrides: Sequence[str]) -> list[str]:
    """Rewrite overrides for Hydra, so that settings absent from the YAML files can be given too.

    Hydra refuses a key that the composed YAML does not have. Here the models say which keys exist, so
    `key=value` becomes `++key=value`, and an unknown key reaches the model, which names the known ones. A
    choice of a group's file, Hydra's own settings and its options are left as they are.
    """
    groups = config_groups()

    def open_key(override: str) -> str:
        match = _OVERRIDE.match(override)
        if match is None or match["sign"] or match["key"] in groups or match["key"].split(".")[0] == "hydra":
            return override
        return f"++{override}"

    return [open_key(override) for override in overrides]


def _nearest(key: str) -> str:
    """Suggest settings of the experiment with the same last word, or nearly the same name."""
    settings = sorted(setting_names(Experiment))
    groups = [*SimulationConfig.model_fields, *Experiment.model_fields]
    nearest = [s for s in settings if s.endswith(f".{key}")] or get_close_matches(key, [*settings, *groups], cutoff=0.8)
    return f"; nearest {'is' if len(nearest) == 1 else 'are'} {', '.join(nearest)}" if nearest else ""


def _simulation(values: dict[str, Any]) -> SimulationConfig:
    """Separate the settings of the experiment from those of the simulation, and check both."""
    values.pop("hydra", None)
    own = set(SimulationConfig.model_fields) - {"experiment"}
    known = own | set(Experiment.model_fields)
    if unknown := sorted(set(values) - known):
        names = ", ".join(map(repr, unknown))
        hints = "".join(map(_nearest, unknown))
        raise ConfigError(f"{_SOURCE}: unknown setting {names}{hints}; known here: {', '.join(sorted(known))}")
    experiment = Experiment.parse({k: v for k, v in values.items() if k not in own}, _SOURCE)
    rest = {k: v for k, v in values.items() if k in own}
    return SimulationConfig.parse({"experiment": experiment, **rest}, _SOURCE)


def _compose(config_name: str, overrides: Sequence[str], config_dir: Path | None = None) -> dict[str, Any]:
    """Let Hydra compose `config_name` and return plain data."""
    with _hydra_session(config_name, overrides, config_dir) as words:
        config = _composed(config_name, words)
    return _plain(config)


def _composed(config_name: str, words: Sequence[str]) -> Any:
    """Compose in an open session; turn each of Hydra's errors into one sentence."""
    from hydra import compose
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        return compose(config_name, overrides=list(words))
    except MissingConfigException as error:
        missing, options = error.missing_cfg_file or "?", ", ".join(error.options or ()) or "none"
        raise ConfigError(f"{_SOURCE}: there is no {missing!r}; options: {options}") from None
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError) as error:
        given = (word.removeprefix("++") for word in words if not word.startswith("hydra."))
        raise ConfigError(f"{' '.join((_SOURCE, *given))}: {_sentences(error)}") from None


@contextmanager
def _hydra_session(
    config_name: str, overrides: Sequence[str], config_dir: Path | None, *, sweep: bool = False
) -> Iterator[list[str]]:
    """Check the overrides, start Hydra with the folders, and yield the overrides in the form that Hydra accepts."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    folder = config_folder()
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    if config_name not in names:
        raise ConfigError(f"no settings file {config_name!r}; there are: {', '.join(names)}")
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(
            f"--config-dir {config_dir}: no such folder; expected a folder of settings such as data/my_cohort.yaml"
        )
    parser = OverridesParser.create()
    words = quote_texts(overrides, _is_readable if sweep else None)
    for override, quoted in zip(overrides, words, strict=True):
        if "=" not in override and not override.startswith("~"):
            raise ConfigError(
                f"got {override!r}; wanted key=value (federation.num_rounds=20) or group=file (model=genomics), or one "
                "of the commands that --help lists"
            )
        if override.lstrip("+~").startswith("hydra"):
            raise ConfigError(f"{override!r} configures Hydra, which has no effect here; leave it out")
        try:
            parsed = parser.parse_override(quoted)
        except HydraException as error:
            detail = str(error).splitlines()[0]
            key = override.partition("=")[0]
            raise ConfigError(
                f"{override!r} is not readable ({detail}); expected key=value with closed brackets and quotes. Quote "
                f"text with other signs for the shell and for the setting: '{key}=\"TEXT\"'"
            ) from None
        if parsed.is_sweep_override() and not sweep:
            key = override.partition("=")[0]
            raise ConfigError(
                f"{override!r} has several values; expected one, or a list in brackets ({key}=[...]). --multirun of "
                "`flower-simulate run` runs each value"
            )
    search = [] if config_dir is None else [f"hydra.searchpath=[{quote(f'file://{config_dir.resolve()}')}]"]
    with _hydra_of_our_own(folder):
        yield [*search, *hydra_overrides(words)]


def _is_readable(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


@contextmanager
def _hydra_of_our_own(folder: Path) -> Iterator[None]:
    """Start Hydra with the files of `folder`, one thread at a time; restore an outer Hydra afterwards."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with _HYDRA:
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(folder), version_base=HYDRA_VERSION_BASE):
                yield
        finally:
            GlobalHydra.instance().clear()
            if outer is not None:
                GlobalHydra.instance().initialize(outer)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert to dictionaries, lists and scalars with all interpolations resolved; no Hydra type is left."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        node = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
        values = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{_SOURCE}: {_sentences(error)}") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _sentences(error: Exception) -> str:
    """Return the text of a Hydra error on one line, without the lines that name places inside Hydra."""
    lines = (line.strip() for line in str(error).splitlines())
    kept = [line for line in lines if line and not line.startswith(("full_key:", "object_type="))]
    return " ".join(kept).replace("'++", "'") or type(error).__name__  # of `hydra_overrides`
