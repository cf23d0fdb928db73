"""Gate in front of a run: no request is answered from data before the site's operator has approved the run.

The gate knows the names of the site's columns and its `site.yaml`; it reads no value of a patient, and its answers
depend on nothing else.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from client.logs import support_log
from client.session import Admission, RefusedError
from client.site import Site
from memamba_core.config.site import CoordinatorAddress
from memamba_core.errors import ConfigError
from memamba_core.wire.protocol import FactsRequest, Refusal

from .declared import BlocksDigest, caps_of, count_columns, digest_of_columns, digest_of_data
from .store import ApprovalStore
from .terms import Proposal, Terms, digest_of

__all__ = ["MAX_ROSTER", "ApprovalGate", "authority_fingerprint", "open_gate"]

MAX_ROSTER = 1000
"""Most sites of a run."""
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def authority_fingerprint(coordinator: CoordinatorAddress) -> str:
    """Return the SHA-256 fingerprint of the authority that this site trusts, `AB:CD:...`, by which approvals name it.

    Raises:
        ConfigError: the file is absent, or does not hold exactly one certificate.
    """
    try:
        (certificate,) = x509.load_pem_x509_certificates(coordinator.ca.read_bytes())
    except (OSError, ValueError):
        raise ConfigError(
            f"{coordinator.ca}: no such file, or it does not hold exactly one certificate. Approvals name the "
            "coordinator by it: copy ca.crt from the coordinator's kit to this path. In containers it is mounted into "
            "the executor as well"
        ) from None
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def open_gate(site: Site, site_file: Path = Path("site.yaml")) -> Admission | None:
    """Open the gate of a site; None where `site.yaml` lets every run pass, or names no coordinator.

    Args:
        site: the site; its tables have been read.
        site_file: as the operator types it, for the log.

    Raises:
        ConfigError: the authority's certificate cannot be read, or there is no state folder.
        TamperedLogError: the key of the approvals is missing.
    """
    config = site.config
    if config.coordinator is None or config.approve in (None, "automatic"):
        return None
    return ApprovalGate(site, authority_fingerprint(config.coordinator), BlocksDigest(site), site_file)


class ApprovalGate(Admission):
    """Gate of one site and one coordinator.

    Args:
        site: the site.
        fingerprint: of the coordinator's authority.
        blocks: returns the digest of the site's blocks.
        site_file: as `open_gate`.
    """

    def __init__(self, site: Site, fingerprint: str, blocks: Callable[[], str], site_file: Path) -> None:
        config = site.config
        if config.state is None:
            raise ConfigError("approve needs state, the writable folder that holds the approvals; add `state: state`")
        self._fingerprint = fingerprint
        self._site = site
        self._blocks = blocks
        self._site_file = site_file
        self._listed = {(run.coordinator, run.settings) for run in config.listed_runs}
        self._data, self._caps = digest_of_data(config), caps_of(config)
        self._store = ApprovalStore(config.state)
        self._reported = ("", "")

    def check(self, request: FactsRequest) -> None:
        """Let a request of a run pass, or refuse it.

        Args:
            request: that opened the run, or opens it now. Version, run id and settings have been checked.

        Raises:
            RefusedError: the run waits for the operator (115), was refused (116), or its roster is malformed (102).
        """
        terms = self._terms(request)
        verdict = self._store.standing(terms)
        if verdict == "refused":
            self._report(terms, verdict, "run %s was refused by this site's operator", terms.run_id)
            raise RefusedError(Refusal.DECLINED, "the operator refused this run: `flower-client runs` shows it")
        if verdict == "approved":
            self._report(terms, verdict, "run %s is approved", terms.run_id)
            return
        if (self._fingerprint, request.config_digest) in self._listed:
            self._report(terms, "listed", "run %s has settings of listed_runs", terms.run_id)
            return
        proposal = Proposal.of(terms, request.settings, count_columns(self._site), self._caps)
        if not self._store.propose(proposal):
            raise RefusedError(Refusal.PENDING, "another run waits for approval; this one is shown after it")
        file = shlex.quote(str(self._site_file))
        self._report(
            terms,
            "waits",
            "run %s waits for approval. Nothing is read for it. To see it and decide: flower-client approve %s %s",
            terms.run_id,
            file,
            terms.run_id,
        )
        raise RefusedError(Refusal.PENDING, "the operator has not decided yet: `flower-client approve`")

    def _terms(self, request: FactsRequest) -> Terms:
        roster = request.roster
        if (
            len(roster) > MAX_ROSTER
            or len(set(roster)) < len(roster)
            or not all(_SITE.fullmatch(name) for name in roster)
        ):
            raise RefusedError(
                Refusal.MESSAGE, f"the roster is malformed; expected at most {MAX_ROSTER} names of sites, each once"
            )
        return Terms(
            run_id=request.run_id,
            coordinator=self._fingerprint,
            package=request.package,
            settings=request.config_digest,
            fold=request.fold,
            roster=tuple(sorted(roster)),
            columns=digest_of_columns(self._site),
            data=self._data,
            cohort=self._blocks(),
            caps=digest_of(self._caps),
        )

    def _report(self, terms: Terms, what: str, text: str, *values: str) -> None:
        """Log a text once, not at every request: a coordinator asks again every few seconds."""
        if self._reported != (terms.digest(), what):
            self._reported = (terms.digest(), what)
            support_log.info(text, *values)
