"""Exception tree of this project: every error that is raised on purpose.

::

    MemambaError
    ├── ConfigError (ValueError)            a setting that a person wrote cannot be used
    ├── PolicyError (ValueError)            a run asks for something that the site does not allow
    ├── DataError (ValueError)              a site's file does not match its site.yaml
    │   └── NoPatientsError                 no patient is left after joining the tables
    ├── AgreementError (ValueError)         sites (or a site and the coordinator) do not agree
    ├── ProtocolError (ValueError)          a message does not have the agreed form
    ├── RejectedReplyError (ValueError)     a site's reply is well-formed and cannot be used
    ├── CheckpointError (ValueError)        a saved model or journal cannot be used
    ├── TamperedLogError (ValueError)       an append-only log was edited, cut or replaced
    ├── BudgetError (RuntimeError)          a step would spend more privacy than the site allows
    ├── NoComparablePairError (ValueError)  a concordance index has nothing to compare
    ├── MissingBackendError (ImportError)   a requested backend is not installed
    ├── FolderBusyError (RuntimeError)      another `flower-server run` is using the coordinator's folder
    └── FederationError (RuntimeError)      the federation stopped early; it can be resumed

Messages state the value found, the value expected and the remedy. They are shown to the person who runs the program on
that machine. Another site receives a fixed text by `memamba_core.wire.protocol.Refusal` and never one of these
messages, because a message may name a file, a column or a patient.
"""

__all__ = [
    "AgreementError",
    "BudgetError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FederationError",
    "FolderBusyError",
    "MemambaError",
    "MissingBackendError",
    "NoComparablePairError",
    "NoPatientsError",
    "PolicyError",
    "ProtocolError",
    "RejectedReplyError",
    "TamperedLogError",
]


class MemambaError(Exception):
    """Base of all errors raised on purpose by this project."""


class ConfigError(MemambaError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class PolicyError(MemambaError, ValueError):
    """A run asks for something that the site's own `site.yaml` does not allow."""


class DataError(MemambaError, ValueError):
    """A file at a site does not match its description."""


class NoPatientsError(DataError):
    """The tables were read, but no patient is left after joining them."""


class AgreementError(MemambaError, ValueError):
    """Sites declare different units, encoders or columns, or hold a different agreement."""


class ProtocolError(MemambaError, ValueError):
    """A message has an unknown or missing field, or comes from another version."""


class RejectedReplyError(MemambaError, ValueError):
    """A site's reply has the agreed form, but its values cannot be aggregated: not finite, too many, of wrong shape."""


class CheckpointError(MemambaError, ValueError):
    """A checkpoint or journal is damaged, or belongs to another model or experiment."""


class TamperedLogError(MemambaError, ValueError):
    """An append-only log was edited, cut, or replaced by an older one."""


class BudgetError(MemambaError, RuntimeError):
    """A step would spend more privacy than the site allows, or a round was already charged."""


class NoComparablePairError(MemambaError, ValueError):
    """No two patients can be compared: no patient had an event before another patient's last visit."""


class MissingBackendError(MemambaError, ImportError):
    """A backend was requested by name, and its package is not installed."""


class FolderBusyError(MemambaError, RuntimeError):
    """A run is in progress in the coordinator's folder, which holds one run at a time."""


class FederationError(MemambaError, RuntimeError):
    """The federation stopped early, for example because too few sites replied; it can be resumed."""
