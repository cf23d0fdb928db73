"""A hospital's program with one thing wrong, started in place of `flower-client`: `odd_site.py WHAT run site.yaml ...`.

It is the installed client; what is changed is a name in it, before its command line is read.
"""

import importlib.metadata
import sys
import time
import types
from pathlib import Path

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


def is_held() -> None:
    """Training lasts until a file `release` lies beside site.yaml; `training` says that it has begun."""
    import client.local

    folder, real = Path(sys.argv[3]).parent, client.local.train

    def train(*arguments: object, **options: object) -> object:
        (folder / "training").touch()
        while not (folder / "release").exists():
            time.sleep(0.01)
        return real(*arguments, **options)

    client.local.train = train


def lies() -> None:
    """Past the checks of its own program: another lie in each round, and words of its own at the end."""
    from flwr.app import Error, Message
    from hostile_answers import ESCAPE, LIES

    import client.executor

    def answer(executor: client.executor.Executor, task: client.executor.Task) -> None:
        request, phase = task.message, task.message.metadata.message_type
        reply = executor._app(request, task.context)
        if phase == "train":
            number = request.content.config_records["fields"]["server-round"] - 1
            change, _ = list(LIES.values())[number]
            reply = Message(change(reply.content), reply_to=request)
        elif phase == "evaluate":
            reply = Message(Error(code=199, reason=f"{ESCAPE}{PATIENT} died"), reply_to=request)
        task.answer(reply)

    client.executor.Executor._answer = answer


def lies_of_its_size() -> None:
    """Declares a billion patients."""
    import client.local

    real = client.local.SiteWorker.facts

    def facts(worker: object, request: object) -> object:
        return real(worker, request).model_copy(update={"num_patients": 10**9, "size_band": 10**9})

    client.local.SiteWorker.facts = facts


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
