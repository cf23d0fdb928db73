"""Hydra in, frozen settings out: `configs/` and overrides become `Experiment` or `SimulationConfig`.

The only file that knows Hydra and OmegaConf, which are imported when something is composed. An override is
`key=value` (`federation.num_rounds=50`) or `group=file` (`model=genomics`). The YAML files show what people
change; every other setting can be overridden too, because the models and not the files say what exists.

Settings are composed once, on the machine of the person who begins a run. Over the network they travel as validated
JSON (`Experiment.to_json`): Hydra never reads text that another machine sent.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from memamba_core.config.base import setting_names
from memamba_core.config.experiment import Experiment
from memamba_core.config.simulation import SimulationConfig
from memamba_core.errors import ConfigError

__all__ = [
    "HYDRA_VERSION_BASE",
    "compose_experiment",
    "compose_simulation",
    "config_folder",
    "config_groups",
    "hydra_overrides",
    "simulation_from",
]

HYDRA_VERSION_BASE = "1.3"
"""Behaviour of Hydra that is relied on. The same wherever Hydra is started: it keeps one for the process."""

_HYDRA = threading.Lock()  # Hydra keeps its state in process-wide singletons

_OVERRIDE = re.compile(r"(?P<sign>~|\+\+?)?(?P<key>[A-Za-z_][\w.]*)=")
_SOURCE = "settings"  # of what is parsed here, for error texts: YAML and overrides together


def config_folder() -> Path:
    """The folder of the YAML files: beside this package, in a checkout as in an installed wheel.

    Not looked up by the name `configs` on the import path, where a folder of that name in the working
    directory would come first.
    """
    folder = Path(__file__).resolve().parents[2] / "configs"
    if not (folder / "experiment.yaml").is_file():
        raise ConfigError(f"{folder}: this package's settings files are missing; install memamba-federated again")
    return folder


def config_groups() -> dict[str, tuple[str, ...]]:
    """Every group with its files, by name: `{"strategy": ("fedadam", ...), ...}`."""
    folders = sorted(folder for folder in config_folder().iterdir() if folder.is_dir())
    groups = {folder.name: tuple(sorted(file.stem for file in folder.glob("*.yaml"))) for folder in folders}
    return {name: files for name, files in groups.items() if files}


def compose_experiment(overrides: Sequence[str] = (), config_name: str = "experiment") -> Experiment:
    """Compose the experiment from overrides of the person who runs this program.

    Args:
        overrides: as on the command line.
        config_name: a file at the top of `configs/`, without `.yaml`.

    Raises:
        ConfigError: naming what is unknown or out of range, and what is allowed.
    """
    return Experiment.parse(_compose(config_name, overrides), _SOURCE)


def compose_simulation(overrides: Sequence[str] = ()) -> SimulationConfig:
    """Compose a simulation from overrides of the person who runs this program.

    Raises:
        ConfigError: naming what is unknown or out of range, and what is allowed.
    """
    return _simulation(_compose("simulate", overrides))


def simulation_from(config: Mapping[str, Any]) -> SimulationConfig:
    """Check a simulation that Hydra composed already (under `@hydra.main`), or that was read from a file.

    Args:
        config: a `DictConfig` or plain mapping; the experiment's settings lie at its top (`simulate.yaml`).

    Raises:
        ConfigError: naming what is unknown or out of range, and what is allowed.
    """
    return _simulation(_plain(config))


def hydra_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra must get them, so that settings which no YAML file shows can be given too.

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
    """Settings of the experiment that may have been meant: of the same last word, or nearly the same."""
    settings = sorted(setting_names(Experiment))
    nearest = [s for s in settings if s.endswith(f".{key}")] or get_close_matches(key, settings, cutoff=0.9)
    return f"; nearest {'is' if len(nearest) == 1 else 'are'} {', '.join(nearest)}" if nearest else ""


def _simulation(values: dict[str, Any]) -> SimulationConfig:
    """Sort the flat settings of a simulation into those of the experiment and its own, and check both."""
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


def _compose(config_name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Let Hydra compose `config_name` and return plain data."""
    from hydra import compose
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    folder = config_folder()
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    if config_name not in names:
        raise ConfigError(f"no settings file {config_name!r}; there are: {', '.join(names)}")
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise ConfigError(
                f"got {override!r}; wanted key=value (federation.num_rounds=20) or group=file (model=genomics)"
            )
    with _hydra_of_our_own(folder):
        try:
            config = compose(config_name, overrides=hydra_overrides(overrides))
        except MissingConfigException as error:
            missing, options = error.missing_cfg_file or "?", ", ".join(error.options or ()) or "none"
            raise ConfigError(f"{_SOURCE}: there is no {missing!r}; options: {options}") from None
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError) as error:
            raise ConfigError(f"{' '.join((_SOURCE, *overrides))}: {_sentences(error)}") from None
    return _plain(config)


@contextmanager
def _hydra_of_our_own(folder: Path) -> Iterator[None]:
    """A Hydra that finds `folder`, one thread at a time; then that of an outer `@hydra.main` is back."""
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
    """Dictionaries, lists and scalars, everything interpolated: past this no Hydra type exists."""
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
    """What a Hydra error says, on one line, without the lines on where in its machinery it happened."""
    lines = (line.strip() for line in str(error).splitlines())
    kept = [line for line in lines if line and not line.startswith(("full_key:", "object_type="))]
    return " ".join(kept).replace("'++", "'") or type(error).__name__  # of `hydra_overrides`
