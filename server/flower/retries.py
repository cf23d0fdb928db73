"""Requests of this process to its SuperLink: retries while the SuperLink is restarted or stands still, readable errors.

Written for flwr 1.42.0.
"""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import httpx
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.run import RunNotRunningException

from memamba_core.errors import SuperLinkLostError
from memamba_core.io.awake_clock import AwakeClock

__all__ = ["readable_errors", "superlink_retry_policy"]

_RETRY_S = 900.0
_LONGEST_TRY_S = 40.0  # a request times out after 30 s


def superlink_retry_policy(ended: threading.Event | None = None) -> RetryInvoker:
    """Retry connection errors and HTTP status 500, 502, 503 and 504 for 15 minutes; do not retry a refusal.

    The time for which this process stands still does not count.

    Args:
        ended: set when the SuperLink has ended for good; then nothing is retried.
    """
    return RetryInvoker(
        _waits,
        (httpx.TransportError, httpx.HTTPStatusError),
        max_tries=None,
        max_time=None,
        should_giveup=lambda error: (
            (isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in (500, 502, 503, 504))
            or (ended is not None and ended.is_set())
        ),
    )


def _waits() -> Generator[float, None, None]:
    """Yield the waits between tries, in seconds; begun at the first failure."""
    clock = AwakeClock(_LONGEST_TRY_S)
    for wait in exponential(base_delay=0.25, max_delay=2):
        if clock.now() > _RETRY_S:
            return
        yield wait


@contextmanager
def readable_errors() -> Iterator[None]:
    """Raise HTTP errors between this process and its SuperLink as `SuperLinkLostError`."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise SuperLinkLostError(f"it answered with HTTP status {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise SuperLinkLostError(f"no connection ({type(error).__name__})") from error
    except RunNotRunningException as error:
        raise SuperLinkLostError("it has given up the run") from error
