"""Sessions: the settings of a run that a site received and the agreement it accepted, kept across restarts."""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pydantic

from memamba_core.config.compose import installed_experiment
from memamba_core.config.experiment import Experiment
from memamba_core.data.agreement import Agreement
from memamba_core.data.dataset import PatientDataset
from memamba_core.errors import ConfigError, MemambaError, PolicyError
from memamba_core.io.atomic import write_atomically
from memamba_core.privacy.plan import PrivacyPlan, plan_of
from memamba_core.wire.protocol import PROTOCOL_VERSION, FactsRequest, Refusal, package_version

from .site import Site

__all__ = ["RUN_ID", "Admission", "RefusedError", "Session", "SessionStore", "refuse_other_version"]

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Valid name of a run: the name becomes a folder of the state volume, and stands in logs."""


class RefusedError(MemambaError):
    """The site refuses a request: `refusal` is sent to the coordinator, the text goes to the site's log only."""

    def __init__(self, refusal: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.refusal = refusal


class Admission(Protocol):
    """Approval of runs by the site's operator: `client.approval.admission`, or none in a simulation."""

    def check(self, request: FactsRequest) -> None:
        """Let a run pass.

        Args:
            request: that opened the run, or opens it now.

        Raises:
            RefusedError: the operator has not approved the run.
        """
        ...


def refuse_other_version(protocol: object, package: object) -> None:
    """Check that coordinator and site have the same version.

    Args:
        protocol: number in the coordinator's request.
        package: version in the coordinator's request.

    Raises:
        RefusedError: the versions differ; the text names both.
    """
    if (protocol, package) != (PROTOCOL_VERSION, package_version()):
        raise RefusedError(
            Refusal.VERSION,
            f"the coordinator runs version {package}, protocol {protocol}; this site {package_version()}, protocol "
            f"{PROTOCOL_VERSION}. Install the coordinator's version",
        )


@dataclass(frozen=True)
class Session:
    """One run at one site.

    Attributes:
        request: that opened the run: run id, settings, fold.
        experiment: the settings of the run, as received.
        plan: noisy steps of each round; None without differential privacy.
        agreement: time bins, genes and scaling of the federation; None until they are agreed.
        datasets: patients scaled by that agreement, by part (`train`, `holdout`, `test`) and `Site.selection`.
    """

    request: FactsRequest
    experiment: Experiment
    plan: PrivacyPlan | None = None
    agreement: Agreement | None = None
    datasets: dict[tuple[str, str], PatientDataset] = field(default_factory=dict)


class SessionStore:
    """Store of a site's sessions, on its state volume if it has one, so that a restarted site continues its runs.

    One session is in memory, with its scaled patients: a coordinator has one run at a time, and a client runs for
    months.

    Args:
        site: patients and policy.
        admission: checked before a run is opened and at each later request of the run; None lets every run pass.
    """

    def __init__(self, site: Site, admission: Admission | None = None) -> None:
        self._site = site
        self._admission = admission
        self._session: Session | None = None

    def open(self, request: FactsRequest) -> Session:
        """Parse the run's settings, check them against this site's policy, and store them.

        An earlier agreement of the run is deleted: it was checked with the settings of then. The handshake sends one.

        Raises:
            RefusedError: the version differs, the settings are invalid, the site's policy does not allow them, or the
                site's operator has not approved the run.
        """
        session = self._begin(request)
        self._check_unused(request)
        self._admit(session)
        try:
            self._site.open_cohort()
        except PolicyError as error:
            raise RefusedError(Refusal.POLICY, str(error)) from None
        self._admit(session)  # again: binds an approval that was given before the draw to the blocks of the draw
        self._session = session
        if (folder := self.folder(request.run_id)) is not None:
            (folder / "agreement.json").unlink(missing_ok=True)
        self._write(request.run_id, "facts.json", request.model_dump_json())
        return session

    def get(self, run_id: str, config_digest: str, fold: int, agreement_digest: str | None = None) -> Session:
        """Return the session of a run that was opened at this site.

        Args:
            run_id: as in the request that opened the run.
            config_digest: must equal that of the opening request.
            fold: must equal that of the opening request.
            agreement_digest: must be that of the session's agreement; None before there is one.

        Raises:
            RefusedError: the run is unknown, settings, fold or agreement differ, or the approval of the run no longer
                holds.
        """
        session = self._session
        if session is None or session.request.run_id != run_id:
            session = self._recall(run_id)
        if session is None:
            raise RefusedError(Refusal.AGREEMENT, "this run was not opened at this site, or its state was lost")
        self._session = session
        if session.request.config_digest != config_digest or session.request.fold != fold:
            raise RefusedError(Refusal.CONFIG, "the run was opened at this site with other settings or another fold")
        self._admit(session)
        held = session.agreement.digest() if session.agreement is not None else None
        if agreement_digest is not None and held != agreement_digest:
            raise RefusedError(
                Refusal.AGREEMENT, f"the site holds agreement {held}; the request names {agreement_digest}"
            )
        return session

    def agree(self, session: Session, agreement: Agreement) -> Session:
        """Store an agreement, and return the session with it."""
        run_id = session.request.run_id
        session = replace(session, agreement=agreement, datasets={})
        self._session = session
        scaling = {name: array.tolist() for name, array in agreement.scaling().items()}
        self._write(run_id, "agreement.json", json.dumps({"agreement": agreement.to_json(), "scaling": scaling}))
        return session

    def folder(self, run_id: str) -> Path | None:
        """Return the run's folder on the state volume; None for a site that keeps state in memory."""
        state = self._site.config.state
        return None if state is None else state / "runs" / run_id

    def _admit(self, session: Session) -> None:
        if self._admission is not None:
            self._admission.check(session.request)

    def _begin(self, request: FactsRequest) -> Session:
        refuse_other_version(request.protocol, request.package)
        if not RUN_ID.fullmatch(request.run_id):  # the id becomes the name of a folder of the state volume
            raise RefusedError(
                Refusal.MESSAGE,
                "the run id is invalid; expected a letter or digit, then up to 99 of letters, digits, '-', '_', '.'",
            )
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
            self._site.check_policy(experiment, installed_experiment())
        except PolicyError as error:
            raise RefusedError(Refusal.POLICY, str(error)) from None
        return Session(request, experiment, plan_of(experiment))

    def _check_unused(self, request: FactsRequest) -> None:
        """Check that a strict site has not opened another run by this name: the name is that of the kept model.

        Raises:
            RefusedError: the name was used with another request.
        """
        folder = self.folder(request.run_id)
        if self._site.strict and folder is not None and (folder / "facts.json").is_file():
            opened = (folder / "facts.json").read_text(encoding="utf-8")
            if opened != request.model_dump_json():
                raise RefusedError(
                    Refusal.CONFIG, "a run of this name was opened with another request; a new run needs a new name"
                )

    def _recall(self, run_id: str) -> Session | None:
        """Load the session of a run that this site opened before a restart, or before another run."""
        folder = self.folder(run_id) if RUN_ID.fullmatch(run_id) else None
        if folder is None or not (folder / "facts.json").is_file():
            return None
        facts = (folder / "facts.json").read_text(encoding="utf-8")
        try:
            request = FactsRequest.model_validate_json(facts)
        except pydantic.ValidationError:
            raise RefusedError(
                Refusal.VERSION,
                f"{folder / 'facts.json'} was not written by version {package_version()}, and a run continues "
                "only with the version that began it. Begin a new run, or install that version",
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
