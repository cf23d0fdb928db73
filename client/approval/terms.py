"""Terms of an approval: everything that one approval covers. A run with other terms asks again."""

import hashlib
import json
import time
from typing import Any, Self

import pydantic

__all__ = ["Proposal", "Terms", "digest_of"]

_TERM_NAMES = {
    "run_id": "run",
    "coordinator": "coordinator",
    "package": "version",
    "settings": "settings",
    "fold": "fold",
    "roster": "sites",
    "columns": "columns",
    "data": "section data",
    "cohort": "blocks",
    "caps": "own limits",
}


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Terms(_Record):
    """Terms of one run.

    The weights of round 1 are covered without a field: they follow from `settings`, `package` and the agreement.

    Attributes:
        run_id: name of the run. A run of another name with equal terms asks again, because it releases as much again.
        coordinator: fingerprint of the authority that this site trusts, `AB:CD:...`.
        package: version of the software, at both sides.
        settings: SHA-256 of the settings of the run.
        fold: test fold; -1 trains on every patient.
        roster: names of the sites, as the coordinator lists them, in alphabetical order.
        columns: digest of the names of the site's own columns, and of its encoder.
        data: digest of the section `data` of `site.yaml`, without its root.
        cohort: digest of the site's blocks; "" while they are not drawn.
        caps: digest of `limits`, `disclosure` and `privacy` of `site.yaml`.
    """

    run_id: str
    coordinator: str
    package: str
    settings: str
    fold: int
    roster: tuple[str, ...]
    columns: str
    data: str
    cohort: str
    caps: str

    def digest(self) -> str:
        """Return the SHA-256 (hex) over all terms."""
        return digest_of(self.model_dump(mode="json"))

    def short_digest(self) -> str:
        """Return the first 16 digits of `digest`, by which an operator names the terms."""
        return self.digest()[:16]

    def before_blocks(self) -> Self:
        """Return the same terms as they were before the blocks were drawn."""
        return self.model_copy(update={"cohort": ""})

    def changes_since(self, earlier: "Terms") -> list[str]:
        """Name the terms that differ from earlier ones, in words for the operator."""
        return [word for name, word in _TERM_NAMES.items() if getattr(self, name) != getattr(earlier, name)]


class Proposal(_Record):
    """A run that waits for the operator, with all that the operator is shown. Its size is bounded.

    Attributes:
        terms: of the run.
        settings: as received, canonical JSON; at most 64 KiB, which the parser of the settings has checked.
        columns: number of the site's columns by kind.
        caps: `limits`, `disclosure` and `privacy` of `site.yaml`.
        asked: time of the request, seconds since 1970 by this machine's clock; for people only.
    """

    terms: Terms
    settings: str
    columns: dict[str, int]
    caps: dict[str, Any]
    asked: float

    @classmethod
    def of(cls, terms: Terms, settings: str, columns: dict[str, int], caps: dict[str, Any]) -> Self:
        """Build the proposal of a request that arrives now."""
        return cls(terms=terms, settings=settings, columns=columns, caps=caps, asked=time.time())


def digest_of(values: Any) -> str:
    """Return the SHA-256 (hex) over values in canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
