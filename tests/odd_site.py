"""A hospital's program with one thing wrong, started in place of `flower-client`: `odd_site.py WHAT ARGUMENT...`.

It is the installed client; what is changed is a name in it, before its command line is read.
"""

import importlib.metadata
import sys
import time
import types

PATIENT = "TCGA-2F-A9KO"
OLD_VERSION = "0.0.9"
TRAINING_S = 25.0


def raises_with_a_patient() -> None:
    """Training fails, and the error names a patient, as errors of libraries do."""
    import client.local

    def train(*_arguments: object, **_options: object) -> None:
        raise KeyError(f"no slide of {PATIENT} in /data/{PATIENT}.svs")

    client.local.train = train


def is_slow() -> None:
    """Training takes long."""
    import client.local

    real = client.local.train

    def train(*arguments: object, **options: object) -> object:
        end = time.monotonic() + TRAINING_S
        while time.monotonic() < end:
            time.sleep(0.01)
        return real(*arguments, **options)

    client.local.train = train


def is_early() -> None:
    """The machine's clock is a minute ahead."""
    import client.network

    client.network.time = types.SimpleNamespace(time=lambda: time.time() + 60)


def is_old() -> None:
    """Another version of this software is installed."""
    real = importlib.metadata.version
    importlib.metadata.version = lambda name: OLD_VERSION if name == "memamba-federated" else real(name)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    from client.cli import main

    main(sys.argv[2:])
