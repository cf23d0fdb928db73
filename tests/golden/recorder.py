"""Record small runs bit by bit, and compare a later tree with the record.

A refactoring must not change a number. `python tests/golden/recorder.py write` runs every case of `CASES` through the
command line and stores, per case, the SHA-256 of each parameter file and the whole `summary.json` (or `audit.json`).
`python tests/golden/recorder.py check` runs the cases again and compares. Weights must have the same bits where
processor and torch are those of the record; elsewhere the check says so and compares summaries only.

The record is `recorded.json`. Its `tests` entry holds the number of collected tests per marker; a tree may have more
of them, never fewer.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("recorded.json")
TOLERANCE = 1e-6
MARKERS = ("", "slow", "ci_slow", "gpu", "containers", "hosts", "real_data")
"""The empty marker counts the fast set."""

TINY = {
    "data.synthetic.num_patients": "48",
    "data.synthetic.num_sites": "4",
    "data.synthetic.patches": "[2,4]",
    "data.synthetic.feature_width": "5",
    "data.synthetic.num_genes": "12",
    "partition": "iid",
    "partition.num_sites": "4",
    "model.d_model": "4",
    "model.d_state": "2",
    "model.group_hidden": "4",
    "model.scan_backend": "reference",
    "training.max_patches": "2",
    "federation.num_rounds": "2",
    "device": "cpu",
    "threads": "1",
}
GENES_ONLY = {
    "data.synthetic.missing_slides": "0",
    "data.synthetic.missing_genes": "0",
    "model.experts": "[genomics]",
}
PRIVATE = {"privacy": "dp_sgd", "privacy.steps_per_round": "2", "privacy.sampling_rate": "0.5"}
TWO_SITES = {"data.synthetic.num_sites": "2", "partition.num_sites": "2"}

CASES: dict[str, Callable[[Path], dict[str, Any]]] = {}


def overrides(*changes: Mapping[str, str]) -> list[str]:
    """Merge settings, the last one of a name wins, into command-line words."""
    merged = dict(TINY)
    for change in changes:
        merged |= change
    return [f"{name}={value}" for name, value in merged.items()]


def environment() -> dict[str, str]:
    """Return an environment in which numbers repeat: this tree first, no hash randomisation, one thread."""
    own = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    return {**os.environ, **own}


def call(*words: str, folder: Path, code: int = 0) -> str:
    """Run `python WORDS` in `folder` and return its standard output; fail unless it exits with `code`."""
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{words} exited with {done.returncode}: {done.stdout}\n{done.stderr}"
    return done.stdout


def simulate(folder: Path, *changes: Mapping[str, str], command: tuple[str, ...] = ("-m", "simulation")) -> Path:
    """Run one simulation and return its output folder."""
    call(*command, *overrides(*changes), f"output_dir={folder / 'out'}", folder=folder)
    return folder / "out"


def read(output: Path) -> dict[str, Any]:
    """Return digests of all parameter files of an output folder, and its summary."""
    digests = {
        str(path.relative_to(output)): hashlib.sha256(_tensors(path)).hexdigest()
        for path in sorted(output.rglob("*.safetensors"))
    }
    summary = next(path for name in ("summary.json", "audit.json") if (path := output / name).is_file())
    return {"weights": digests, "summary": json.loads(summary.read_text(encoding="utf-8"))}


def _tensors(path: Path) -> bytes:
    """Return the bytes of all tensors by name, without the header, whose metadata may change."""
    from safetensors.numpy import load_file

    return b"".join(name.encode() + array.tobytes() for name, array in sorted(load_file(path).items()))


def _simulation(name: str, *changes: Mapping[str, str]) -> None:
    CASES[name] = lambda folder: read(simulate(folder, *changes))


def _private(name: str, *changes: Mapping[str, str], words: tuple[str, ...] = ()) -> None:
    command = (str(Path(__file__).with_name("fixed_noise.py")), *words)
    CASES[name] = lambda folder: read(simulate(folder, *changes, command=command))


_simulation("fedavg, missing modalities, all methods, two folds", {"compare": "true", "folds": "[0,1]"})
_simulation("fedprox", {"strategy": "fedprox", "federation.local_epochs": "2"})
_simulation("fedavgm", {"strategy": "fedavgm"})
_simulation("fedadam", {"strategy": "fedadam"})
_simulation("fedyogi", {"strategy": "fedyogi"})
_simulation("fedmedian", {"strategy": "fedmedian"})
_simulation("fedtrimmedavg", {"strategy": "fedtrimmedavg"})
_simulation("krum", GENES_ONLY, {"strategy": "krum"})
_simulation(
    "slides, compiled scan, adamw, curves",
    {
        "model": "pathology",
        "model.scan_backend": "auto",
        "data.synthetic.patches": "[40,80]",
        "training.max_patches": "60",
        "federation": "adamw",
        "federation.curve_holdout": "0.2",
        "training.batch_size": "4",
    },
)
_simulation(
    "worker processes, short wire, whole sites held out",
    {"workers": "2", "federation.wire": "bfloat16_delta", "fold_source": "site_grouped", "num_folds": "2"},
)
_simulation(
    "order of patches, dirichlet",
    {
        "data.synthetic.risk": "order",
        "data.synthetic.patches": "[48,96]",
        "partition": "dirichlet",
        "partition.alpha": "0.5",
    },
)
_private("differential privacy, fixed noise", GENES_ONLY, TWO_SITES, PRIVATE)
_private(
    "differential privacy, all parameters, fedprox",
    TWO_SITES,
    PRIVATE,
    {"privacy.trained": "all", "strategy": "fedprox"},
)
_private(
    "audits",
    GENES_ONLY,
    TWO_SITES,
    PRIVATE,
    {"attacks.num_models": "8", "attacks.num_canaries": "100", "attacks.round_sizes": "[1,4]"},
    words=("audit",),
)


def _case(name: str) -> Callable[[Callable[[Path], dict[str, Any]]], None]:
    def register(run: Callable[[Path], dict[str, Any]]) -> None:
        CASES[name] = run

    return register


@_case("resume after an interruption")
def _resume(folder: Path) -> dict[str, Any]:
    for attempt in range(5):  # on a busy machine a run of half a second may end before the signal arrives
        output = folder / f"out-{attempt}"
        if _interrupt_after_a_round(output, overrides({"federation.num_rounds": "30"})):
            break
    else:
        raise AssertionError("no run could be interrupted")
    call("-m", "simulation", f"resume={output}", "threads=1", "device=cpu", folder=folder)
    return read(output)


def _interrupt_after_a_round(output: Path, settings: list[str]) -> bool:
    """Begin a run and interrupt it once a round is in its journal; return whether it ended early."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simulation", *settings, f"output_dir={output}"],
        cwd=output.parent,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not any(output.glob("fold-0/journal/round-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    return process.wait() == 130 and not (output / "summary.json").exists()


@_case("deployment on loopback")
def _deployment(folder: Path) -> dict[str, Any]:
    federation = folder / "federation"
    port, loopback = _free_ports()
    settings = overrides(GENES_ONLY, TWO_SITES, {"agreement.gene_groups": "kind"})
    call("-m", "simulation", *_EXPORT, *settings, f"output_dir={folder / 'sites'}", folder=folder)
    listen = ("--listen-host=127.0.0.1", f"--port={port}", f"--loopback-port={loopback}")
    call("-m", "server", "init", str(federation), "--address=127.0.0.1", *listen, folder=folder)
    names = sorted(path.name for path in (folder / "sites").iterdir() if path.is_dir())
    for name in names:
        site = folder / "sites" / name
        call("-m", "client", "keygen", str(site / "keys"), folder=folder)
        call("-m", "server", "enroll", name, str(site / "keys" / "node.pub"), "--dir", str(federation), folder=folder)
        _edit_site(site / "site.yaml", f"127.0.0.1:{port}", federation / "pki" / "ca.crt")
    experiment = [s for s in settings if re.match(r"(model|training|federation|agreement)\b", s)]
    run = ("-m", "server", "run", "--dir", str(federation), "name=golden", "fold=0", *experiment)
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(_running("-m", "client", "run", str(folder / "sites" / name / "site.yaml")))
        call(*run, folder=folder)
    return read(federation / "runs" / "golden")


_EXPORT = ("export-sites",)


def _edit_site(path: Path, address: str, ca: Path) -> None:
    import yaml

    site = yaml.safe_load(path.read_text(encoding="utf-8"))
    site["coordinator"] = {"address": address, "ca": str(ca)}
    site["disclosure"] = {"min_patients": 1, "min_events": 0, "min_pairs": 1, "min_round_patients": 1}
    site["threads"] = 1
    site["approve"] = "automatic"
    path.write_text(yaml.safe_dump(site), encoding="utf-8")


def _free_ports() -> tuple[int, int]:
    import socket

    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


@contextlib.contextmanager
def _running(*words: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, *words],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def count_tests() -> dict[str, int]:
    """Return the number of collected tests per marker."""
    return {marker or "fast": _collected(marker) for marker in MARKERS}


def _collected(marker: str) -> int:
    select = ["-m", marker] if marker else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", *select],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"(?m)^(?:(\d+)/)?(\d+) tests? collected", done.stdout)
    assert found, f"pytest could not collect {marker or 'the fast set'}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return int(found[1] or found[2])


def machine() -> dict[str, str]:
    """Return what the last bits of a weight depend on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    model = re.search(r"(?m)^model name\s*: (.*)$", text)
    return {"processor": model[1] if model else "unknown", "torch": version("torch"), "numpy": version("numpy")}


IGNORED = re.compile(
    r"(^|\.)(seconds|versions|command|overrides|digests|settings|agreement_digest|bytes_per_round|bytes_sent|bytes_received|code)(\.|$)"
)
"""Times, versions, settings and digests over settings; sizes of messages, which hold settings as text."""
LOOSE = re.compile(r"(^|\.)(auc|brier|integrated_brier)")
"""Computed by another library than in the record: equal to `TOLERANCE`."""
RENAMED: dict[str, str] = {"epsilon_in_two_hospitals": "epsilon_in_two_sites"}
"""Name of a summary's key in the record -> its name today."""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each dotted path of a JSON value with the leaf that lies there."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{RENAMED.get(key, key)}" if path else RENAMED.get(key, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}.{index}")
    elif not IGNORED.search(path):
        yield path, value


def differences(name: str, wanted: dict[str, Any], got: dict[str, Any], *, bits: bool) -> list[str]:
    """Return one sentence for each difference between a recorded case and the same case today."""
    found = []
    if bits and sorted(wanted["weights"].values()) != sorted(got["weights"].values()):
        found.append(f"{name}: weights differ: recorded {wanted['weights']}, got {got['weights']}")
    today = dict(leaves(got["summary"]))
    for path, value in leaves(wanted["summary"]):
        if path not in today:
            if value is not None:
                found.append(f"{name}: {path} is missing; recorded {value!r}")
        elif isinstance(value, float) and isinstance(today[path], int | float):
            close = math.isclose(value, today[path], rel_tol=0, abs_tol=TOLERANCE)
            if not (close if LOOSE.search(path) or not bits else value == today[path]):
                found.append(f"{name}: {path} is {today[path]!r}; recorded {value!r}")
        elif not isinstance(value, str) and value != today[path]:
            found.append(f"{name}: {path} is {today[path]!r}; recorded {value!r}")
    return found


def record(names: list[str]) -> dict[str, Any]:
    """Run cases and return what they gave."""
    cases = {}
    for name in names:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="recorder-") as folder:
            cases[name] = CASES[name](Path(folder))
        print(f"{time.perf_counter() - started:6.1f} s  {name}", flush=True)
    return cases


def main() -> int:
    """Write or check the record; return 1 if something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("write", "check"))
    parser.add_argument("-k", default="", help="only cases whose name contains this text")
    parser.add_argument("--no-tests", action="store_true", help="do not count tests")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore it
    names = [name for name in CASES if arguments.k in name]
    if arguments.action == "write":
        before = json.loads(RECORD.read_text(encoding="utf-8")) if arguments.k else {"cases": {}}
        cases = before["cases"] | record(names)
        made = {"machine": machine(), "tests": before.get("tests") or count_tests(), "cases": cases}
        RECORD.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    wanted = json.loads(RECORD.read_text(encoding="utf-8"))
    bits = wanted["machine"] == machine()
    if not bits:
        print(f"recorded on {wanted['machine']}, this is {machine()}: weights are not compared bit by bit")
    found = []
    if not arguments.no_tests:
        today = count_tests()
        found += [f"{m}: {today[m]} tests; recorded {n}" for m, n in wanted["tests"].items() if today[m] < n]
        print("tests:", today)
    today_cases = record([name for name in names if name in wanted["cases"]])
    for name, case in today_cases.items():
        found += differences(name, wanted["cases"][name], case, bits=bits)
    print("\n".join(found) if found else "the same")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
