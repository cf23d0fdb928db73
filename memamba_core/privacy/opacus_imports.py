"""Import the names of Opacus that this project uses, in one place, because Opacus is an optional requirement.

Raises:
    MissingBackendError: on import, where Opacus is not installed.
"""

import logging

from memamba_core.errors import MissingBackendError

__all__ = ["DPOptimizer", "Domain", "PRVAccountant"]

_handlers = list(logging.root.handlers)
try:
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import Domain
    from opacus.optimizers import DPOptimizer
except ImportError:
    raise MissingBackendError("differential privacy needs Opacus; pip install 'memamba-federated[privacy]'") from None
for _handler in [h for h in logging.root.handlers if h not in _handlers]:
    logging.root.removeHandler(_handler)  # importing Opacus makes every program print its log
