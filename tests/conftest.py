"""Set up all tests: checked tensor shapes, one torch thread, a disk that need not keep, the real data where they are.

Shapes in signatures (jaxtyping) are free in production and enforced in the folders of `_WITH_SHAPES`. In the others the
same models are trained, and the checks took a third of the time. A numba kernel in a checked package needs
`@typing.no_type_check` as its innermost decorator: numba cannot compile the checking wrapper.
"""

import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import hypothesis
import jaxtyping
import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from client.interrupts import Interrupts

# Before anything imports these packages: the hook rewrites them as they are imported.
install_import_hook(["memamba_core.model", "memamba_core.survival"], "beartype.beartype")

_FSYNC = os.fsync

# Modules that tests import, and objects that live as long as the process, are out of the collector's way: to look
# through them takes a sixth of the time of the imports.
gc.disable()

# Time limits of single examples say more about the machine than about the code. A third of the usual number of examples
# keeps the fast set under 90 s.
hypothesis.settings.register_profile("dev", deadline=None, max_examples=30)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=30, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")

REPOSITORY = Path(__file__).resolve().parents[1]
_TESTS = Path(__file__).parent
_WITH_SHAPES = ("unit", "simulation", "benchmarks")
_NO_DATA = "the TCGA tables are absent; name their folder in the environment variable MEMAMBA_DATA"


def _skip_fsync(_descriptor: int) -> None:
    """Return at once: no test cuts the power, and a busy disk takes most of the time of a test that writes."""


os.fsync = _skip_fsync  # also for fixtures of a session or module, and for what is written at import


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give the test one torch thread; tests marked `durable` get the real `os.fsync`, all others a stub."""
    import torch  # here, because the process of pytest-xdist that hands out the tests runs none

    torch.set_num_threads(1)  # pytest-xdist uses the cores
    jaxtyping.config.update("jaxtyping_disable", item.path.relative_to(_TESTS).parts[0] not in _WITH_SHAPES)
    os.fsync = _FSYNC if item.get_closest_marker("durable") else _skip_fsync


def _find_data_root() -> Path | None:
    """Return the folder that holds `cohorts/`: $MEMAMBA_DATA, or shared/data next to the repository; None if absent."""
    named = os.environ.get("MEMAMBA_DATA")
    root = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    return root if (root / "cohorts").is_dir() else None


def pytest_collection_finish() -> None:
    """Collect garbage again, but seldom, and only among objects that tests make: libraries stay loaded anyway."""
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `real_data` on a machine without the TCGA tables."""
    if _find_data_root() is None:
        for item in items:
            if item.get_closest_marker("real_data"):
                item.add_marker(pytest.mark.skip(reason=_NO_DATA))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Restore levels and handlers of all loggers after a test: commands set up logging for their whole process."""
    loggers = [logging.root, *(x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger))]
    before = [(logger, logger.level, tuple(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        if logger.level != level:
            logger.setLevel(level)
        for handler in set(logger.handlers).difference(handlers):
            logger.removeHandler(handler)


@pytest.fixture
def interrupts(monkeypatch: pytest.MonkeyPatch) -> Iterator["Interrupts"]:
    """Install the signal handlers of the client for one test; they do not end the process after the time of grace."""
    from client import interrupts as module

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    monkeypatch.setattr(module, "_end_after_grace", lambda: None)
    before = {number: signal.getsignal(number) for number in numbers}
    yield module.Interrupts()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="module")
def benchmarks(repository: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Import a script of `benchmarks/`; scripts import each other by name, as when one of them is run."""
    folder = repository / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of the TCGA tables; skip the test where there is none. Mark such tests `real_data`."""
    root = _find_data_root()
    if root is None:
        pytest.skip(_NO_DATA)
    return root
