"""A run at a site: the settings it was sent and the agreement it accepted, kept across restarts."""

import json
import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pydantic

from memamba_core.config.compose import compose_experiment
from memamba_core.config.experiment import Experiment
from memamba_core.data.agreement import Agreement
from memamba_core.data.dataset import PatientDataset
from memamba_core.errors import ConfigError, MemambaError, PolicyError
from memamba_core.io.atomic import write_atomically
from memamba_core.privacy.plan import PrivacyPlan, plan_of
from memamba_core.wire.protocol import PROTOCOL_VERSION, FactsRequest, Refusal, package_version

from .site import Site

__all__ = ["RUN_ID", "RefusedError", "Session", "SessionStore", "refuse_other_version"]

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""What a run may be called: the name becomes a folder of the state volume, and stands in logs."""


@cache
def _installed_defaults() -> Experiment:
    """Compose the installed settings; it takes a tenth of a second, and a simulation has many sites in one process."""
    return compose_experiment()


class RefusedError(MemambaError):
    """The site does not answer a request. `refusal` is what the coordinator is told, the text is for the site's log."""

    def __init__(self, refusal: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.refusal = refusal


def refuse_other_version(protocol: object, package: object) -> None:
    """A run is between equal versions.

    Args:
        protocol: number that the coordinator names.
        package: version that it names.

    Raises:
        RefusedError: this site has another one; both are in the text.
    """
    if (protocol, package) != (PROTOCOL_VERSION, package_version()):
        raise RefusedError(
            Refusal.VERSION,
            f"the coordinator runs version {package}, protocol {protocol}; this site {package_version()}, protocol "
            f"{PROTOCOL_VERSION}: install the coordinator's version",
        )


@dataclass(frozen=True)
class Session:
    """One run at one site.

    Attributes:
        request: what opened it: run id, config, fold.
        experiment: the settings in it.
        plan: the noisy steps of each round; None without differential privacy.
        agreement: bins, genes and scaling of the federation, once they are there.
        datasets: patients scaled by that agreement, by part (`train`, `holdout`, `test`).
    """

    request: FactsRequest
    experiment: Experiment
    plan: PrivacyPlan | None = None
    agreement: Agreement | None = None
    datasets: dict[str, PatientDataset] = field(default_factory=dict)


class SessionStore:
    """The sessions of a site: on its state volume where it has one, so that a restarted site goes on.

    In memory is one, with its scaled patients: a coordinator has one run at a time, and a site stays for months.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._session: Session | None = None

    def open(self, request: FactsRequest) -> Session:
        """Parse the run's settings, hold them against this site's policy, and keep them.

        Raises:
            RefusedError: other version, settings or policy.
        """
        session = self._begin(request)
        self._session = session
        self._write(request.run_id, "facts.json", request.model_dump_json())
        return session

    def get(self, run_id: str, config_digest: str, fold: int, agreement_digest: str | None = None) -> Session:
        """The session of a run that was opened here.

        Args:
            run_id: as in the request that opened it.
            config_digest: must be the one it was opened with.
            fold: likewise.
            agreement_digest: must be of the agreement it holds; None before there is one.

        Raises:
            RefusedError: unknown run, or other settings, fold or agreement.
        """
        session = self._session
        if session is None or session.request.run_id != run_id:
            session = self._recall(run_id)
        if session is None:
            raise RefusedError(Refusal.AGREEMENT, "this run was not opened here, or the site forgot it")
        self._session = session
        if session.request.config_digest != config_digest or session.request.fold != fold:
            raise RefusedError(Refusal.CONFIG, "the run was opened here with other settings or another fold")
        held = session.agreement.digest() if session.agreement is not None else None
        if agreement_digest is not None and held != agreement_digest:
            raise RefusedError(Refusal.AGREEMENT, f"the site holds agreement {held}, asked for {agreement_digest}")
        return session

    def agree(self, session: Session, agreement: Agreement) -> Session:
        """The session with an agreement, kept."""
        run_id = session.request.run_id
        session = replace(session, agreement=agreement, datasets={})
        self._session = session
        scaling = {name: array.tolist() for name, array in agreement.scaling().items()}
        self._write(run_id, "agreement.json", json.dumps({"agreement": agreement.to_json(), "scaling": scaling}))
        return session

    def folder(self, run_id: str) -> Path | None:
        """The run's folder on the state volume; None where the site keeps state in memory."""
        state = self._site.config.state
        return None if state is None else state / "runs" / run_id

    def _begin(self, request: FactsRequest) -> Session:
        refuse_other_version(request.protocol, request.package)
        if not RUN_ID.fullmatch(request.run_id):  # it names a folder of the state volume
            raise RefusedError(Refusal.MESSAGE, "the run id has other characters than letters, digits, '-', '_', '.'")
        try:
            experiment = Experiment.from_json(request.settings)
        except ConfigError as error:
            raise RefusedError(Refusal.SETTINGS, str(error)) from None
        if experiment.digest() != request.config_digest:
            raise RefusedError(
                Refusal.CONFIG,
                f"the settings have digest {experiment.digest()}; the request has {request.config_digest}",
            )
        try:
            self._site.check_policy(experiment, _installed_defaults())
        except PolicyError as error:
            raise RefusedError(Refusal.POLICY, str(error)) from None
        return Session(request, experiment, plan_of(experiment))

    def _recall(self, run_id: str) -> Session | None:
        """The session of a run that this site opened before it was restarted, or before another run."""
        folder = self.folder(run_id) if RUN_ID.fullmatch(run_id) else None
        if folder is None or not (folder / "facts.json").is_file():
            return None
        facts = (folder / "facts.json").read_text(encoding="utf-8")
        try:
            request = FactsRequest.model_validate_json(facts)
        except pydantic.ValidationError:
            raise RefusedError(
                Refusal.VERSION,
                f"{folder / 'facts.json'} was not written by version {package_version()}: a run continues with the "
                "version that began it; begin a new run, or install that version",
            ) from None
        session = self._begin(request)
        if (folder / "agreement.json").is_file():
            kept = json.loads((folder / "agreement.json").read_text(encoding="utf-8"))
            scaling = {name: np.asarray(values, dtype=np.float64) for name, values in kept["scaling"].items()}
            session = replace(session, agreement=Agreement.from_json(kept["agreement"], scaling))
        return session

    def _write(self, run_id: str, name: str, text: str) -> None:
        folder = self.folder(run_id)
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
