"""What all tests share: checked tensor shapes, one torch thread, the real data where they are.

Shapes in signatures (jaxtyping) are enforced here and free in production. A numba kernel in a checked package
needs `@typing.no_type_check` as its innermost decorator: numba cannot compile the checking wrapper.
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
import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from client.interrupts import Interrupts

# Before anything imports these packages: the hook rewrites them as they are imported.
install_import_hook(["memamba_core.model", "memamba_core.survival"], "beartype.beartype")

os.fsync = lambda _descriptor: None  # nobody cuts a test's power: what it writes need not wait for the disk

gc.disable()  # until all is collected: what is imported stays, and to look through it is a sixth of the imports' time

# Time limits of single examples say more about the machine than about the code. A third of the usual examples: the fast
# set has two minutes.
hypothesis.settings.register_profile("dev", deadline=None, max_examples=30)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=30, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")

REPOSITORY = Path(__file__).resolve().parents[1]
_NO_DATA = "the TCGA tables are not here; name their folder in the environment variable MEMAMBA_DATA"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give torch one thread, whatever the test before set."""
    import torch  # here, because the process that hands out the tests to others runs none

    torch.set_num_threads(1)  # pytest-xdist uses the cores


def _find_data_root() -> Path | None:
    """The folder that holds `cohorts/`: $MEMAMBA_DATA, or shared/data beside the repository."""
    named = os.environ.get("MEMAMBA_DATA")
    root = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    return root if (root / "cohorts").is_dir() else None


def pytest_collection_finish() -> None:
    """Garbage is collected again, but only among what the tests make, and seldom: whole libraries lie about."""
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `real_data` where the data are not."""
    if _find_data_root() is None:
        for item in items:
            if item.get_closest_marker("real_data"):
                item.add_marker(pytest.mark.skip(reason=_NO_DATA))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command sets up logging for its own process; here that would be for every test after it."""
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
    """The client's signal handlers for one test, without their end of the process after a time of grace."""
    from client import interrupts as module

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    monkeypatch.setattr(module, "_end_after_grace", lambda: None)
    before = {number: signal.getsignal(number) for number in numbers}
    yield module.Interrupts()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="module")
def benchmarks(repository: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script of `benchmarks/`. They import each other by name, as they do when one of them is run."""
    folder = repository / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the TCGA tables; skips where there is none. Mark such tests `real_data`."""
    root = _find_data_root()
    if root is None:
        pytest.skip(_NO_DATA)
    return root
