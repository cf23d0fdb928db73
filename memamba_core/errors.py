"""All exceptions of this project.

::

    MemambaError
    ├── ConfigError (ValueError)            a setting is not usable
    ├── PolicyError (ValueError)            a run asks for something that the site does not allow
    ├── DataError (ValueError)              a site's file differs from its description in site.yaml
    │   └── NoPatientsError                 no patient is left after joining the tables
    ├── AgreementError (ValueError)         sites, or a site and the coordinator, do not agree
    ├── ProtocolError (ValueError)          a message does not have the agreed form
    ├── RejectedReplyError (ValueError)     a site's reply is well-formed and cannot be used
    ├── CheckpointError (ValueError)        a saved model or journal cannot be used
    │   └── ForeignJournalError             a journal belongs to another experiment or fold
    ├── TamperedLogError (ValueError)       an append-only log was edited, cut or replaced
    ├── BudgetError (RuntimeError)          a step would spend more privacy than the site allows
    ├── NoComparablePairError (ValueError)  a concordance index has no pair to compare
    ├── MissingBackendError (ImportError)   a backend that the settings name is not installed
    ├── FolderBusyError (RuntimeError)      another `flower-server run` uses the coordinator's folder
    ├── FederationError (RuntimeError)      the federation cannot continue; it can be resumed
    ├── SuperLinkLostError (ConnectionError)  the coordinator's SuperLink does not answer
    ├── RetiredKeyError (RuntimeError)      the SuperLink's database refuses a key that was removed once
    ├── UnreachableError (ConnectionError)  the site's SuperNode does not answer
    └── client.session.RefusedError         a site refuses a request

`client.session.RefusedError` is defined at the site, because it holds a `Refusal` of `memamba_core.wire`, a layer above
this module. Four exceptions are control flow of one process and not errors: `client.interrupts.StopRequested`,
`client.interrupts.TaskLost` and `client.interrupts.TimeOver` cancel the work of the main thread, and
`memamba_core.training.time_limit.TimeUp` ends the work on one patient. They derive from `BaseException`, so that no
`except Exception` of a library swallows them. `server.flower.allowance.TooLargeError` ends the reading of one answer,
inside a call of Flower that takes any exception for the end.

A message names the received value, the expected value and the remedy. The program shows the message to the person who
runs it. A message may name a file, a column or a patient; therefore no message is sent to the other side, which gets
the fixed text of a `memamba_core.wire.protocol.Refusal` instead.
"""

__all__ = [
    "AgreementError",
    "BudgetError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FederationError",
    "FolderBusyError",
    "ForeignJournalError",
    "MemambaError",
    "MissingBackendError",
    "NoComparablePairError",
    "NoPatientsError",
    "PolicyError",
    "ProtocolError",
    "RejectedReplyError",
    "RetiredKeyError",
    "SuperLinkLostError",
    "TamperedLogError",
    "UnreachableError",
]


class MemambaError(Exception):
    """Base of all errors that this project raises on purpose."""


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


class ForeignJournalError(CheckpointError):
    """A journal is whole, but belongs to another experiment or fold."""


class TamperedLogError(MemambaError, ValueError):
    """An append-only log was edited, cut, or replaced by an older one."""


class BudgetError(MemambaError, RuntimeError):
    """A step would spend more privacy than the site allows, or a round was already charged."""


class NoComparablePairError(MemambaError, ValueError):
    """No two patients can be compared: none had an event before another one's last visit."""


class MissingBackendError(MemambaError, ImportError):
    """The settings name a backend whose package is not installed."""


class FolderBusyError(MemambaError, RuntimeError):
    """A run is in progress in the coordinator's folder, which allows one run at a time."""


class FederationError(MemambaError, RuntimeError):
    """The federation stopped early, for example for too few replies; it can be resumed."""


class SuperLinkLostError(MemambaError, ConnectionError):
    """The coordinator's SuperLink does not answer, refuses, or has ended the run."""


class RetiredKeyError(MemambaError, RuntimeError):
    """The SuperLink's database holds a key as removed and never registers it again; a new database does."""


class UnreachableError(MemambaError, ConnectionError):
    """The site's SuperNode does not answer, or refuses. The text may stand in the support log."""
