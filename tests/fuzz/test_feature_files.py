"""Fuzz the readers of feature files: damaged bytes give a `DataError`, neither a crash, a hang nor a large allocation.

Each batch runs in a process of its own with a limit on memory and time, so that a crash of a library is seen and does
not end the tests. `MEMAMBA_FUZZ_SECONDS` sets the time per format; the default of 5 s is a smoke test.

The HDF5 files have text attributes of fixed length. Those of variable length lie in a global heap, and HDF5 2.0 reads a
heap with an object of size 0 without end; no program around the library can prevent that.
"""

import multiprocessing
import os
import random
import resource
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fixtures.patch_files import grid

from memamba_core.data.features.patch_files import inspect_patch_file, read_patches, sample_patch_file
from memamba_core.errors import DataError

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("MEMAMBA_FUZZ_SECONDS", "5"))
BATCH = 200
SECONDS_PER_FILE = 10
MEMORY = 2 << 30  # beyond what the process holds at its start
ROWS = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


def write_hdf5(path: Path, name: str, **storage) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=ROWS, **storage)
        file["coords"] = grid(len(ROWS))
        file["coords"].attrs["target_magnification"] = 20
        file[name].attrs["encoder"] = np.bytes_(b"uni_v1")


def write_stamp(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file["feats"] = ROWS.astype(np.float16)
        file["coords"] = grid(len(ROWS)).astype(np.float32) * 1.01
        file.attrs.update({"extractor": np.bytes_(b"uni2"), "unit": np.bytes_(b"um"), "tile_size_um": 256.0})


FORMATS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "contiguous": (".h5", lambda path: write_hdf5(path, "features")),
    "chunks of one row": (".h5", lambda path: write_hdf5(path, "features", chunks=(1, 8), maxshape=(None, 8))),
    "gzip": (".h5", lambda path: write_hdf5(path, "20x/features", chunks=(7, 8), compression="gzip")),
    "STAMP": (".h5", write_stamp),
    "tensor": (".pt", lambda path: torch.save(torch.from_numpy(ROWS), path)),
    "dictionary": (
        ".pt",
        lambda path: torch.save({"features": torch.from_numpy(ROWS), "coords": torch.from_numpy(grid(40))}, path),
    ),
    "bfloat16": (".pt", lambda path: torch.save(torch.from_numpy(ROWS).bfloat16(), path)),
    "old tensor": (
        ".pt",
        lambda path: torch.save(torch.from_numpy(ROWS), path, _use_new_zipfile_serialization=False),
    ),
    "npy": (".npy", lambda path: np.save(path, ROWS)),
    "npz": (".npz", lambda path: np.savez(path, features=ROWS, coords=grid(40))),
    "compressed npz": (".npz", lambda path: np.savez_compressed(path, features=ROWS, coords=grid(40), encoder="uni")),
}


def mutate(content: bytes, seed: str) -> bytes:
    """Return a damaged copy: changed, removed, repeated and inserted bytes, more of them near the start."""
    rng, data = random.Random(seed), bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not data:
            break
        near = min(len(data), rng.choice((16, 128, 1024, len(data))))
        at, length = rng.randrange(near), rng.choice((1, 1, 2, 4, 8, 64))
        kind = rng.randrange(8)
        if kind <= 2:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            data[at : at + length] = bytes(rng.choice((0, 255, 127, rng.randrange(256))) for _ in range(length))
        elif kind == 4:
            data[at : at + 8] = rng.choice((0, 1, 2**31, 2**32, 2**40, 2**63, 2**64 - 1)).to_bytes(8, "little")
        elif kind == 5:
            del data[at : at + length]
        elif kind == 6:
            data[at:at] = data[at : at + length]
        else:
            del data[rng.randrange(len(data)) :]
    return bytes(data)


def read_all(path: Path) -> None:
    """Call every reader; only a `DataError` may come out, and what is read has the shape of its facts."""
    for function in (inspect_patch_file, read_patches, sample_patch_file):
        try:
            result = function(path)
        except DataError as error:
            if str(path) not in str(error):
                raise
            continue
        if function is read_patches:
            patches_PF, coords_P2 = result
            assert patches_PF.dtype == np.float32
            assert np.isfinite(patches_PF).all()
            assert coords_P2 is None or coords_P2.shape == (len(patches_PF), 2)


def work(path: Path, content: bytes, seeds: list[str], pipe: Connection) -> None:
    """Read mutated files, and report each seed before and its failure after the read."""
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, also inside a library
    for seed in seeds:
        pipe.send((seed, None))
        path.write_bytes(mutate(content, seed))
        signal.alarm(SECONDS_PER_FILE)
        try:
            read_all(path)
        except BaseException:
            pipe.send((seed, traceback.format_exc()))
        signal.alarm(0)
    pipe.send(("done", None))


def run_batch(path: Path, content: bytes, seeds: list[str]) -> list[tuple[str, str]]:
    """Return the seeds that failed, with the reason."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(path, content, seeds, sending))
    process.start()
    sending.close()
    failures, last = [], ""
    while True:
        try:
            last, failure = receiving.recv()
        except EOFError:
            break
        if failure is not None:
            failures.append((last, failure))
    process.join()
    if process.exitcode != 0 or last != "done":
        name = signal.Signals(-process.exitcode).name if process.exitcode < 0 else str(process.exitcode)
        failures.append((last, f"the process ended with {name}"))
    return failures


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_give_an_error_of_this_project(tmp_path, name):
    suffix, write = FORMATS[name]
    path = tmp_path / f"whole{suffix}"
    write(path)
    read_all(path)
    content, started, tried = path.read_bytes(), time.monotonic(), 0
    failures: list[tuple[str, str]] = []
    while time.monotonic() - started < SECONDS and len(failures) < 5:
        seeds = [f"{name} {index}" for index in range(tried, tried + BATCH)]
        tried += BATCH
        failures += run_batch(tmp_path / f"damaged{suffix}", content, seeds)
    listed = "\n".join(f"{seed!r}: {failure}" for seed, failure in failures)
    assert not failures, f"{tried} damaged files; these failed:\n{listed}"
