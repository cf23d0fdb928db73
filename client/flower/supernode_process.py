"""Process of the SuperNode: `python -P -m client.flower.supernode_process ARGUMENT...`, for `flower-supernode`.

Run Flower's stock SuperNode with one change. While a coordinator stands still, its system accepts connections and no
TLS handshake succeeds. Flower takes such a time-out for a wrong certificate: it drops the finished reply and stops
trying. Here a time-out is retried. Only `client/connection.py` starts this process. It uses private names of flwr
1.42.0; `tests/site/test_flower_contract.py` checks them.
"""

import httpx
from flwr.supercore.retry import RetryInvoker
from flwr.supernode import fleet_http_connection

__all__ = ["retry_timeouts"]


def retry_timeouts() -> None:
    """Make the SuperNode of this process retry every request that timed out."""
    make_stock = vars(fleet_http_connection)["make_simple_http_retry_invoker"]
    vars(fleet_http_connection)["make_simple_http_retry_invoker"] = lambda: _patient(make_stock())


def _patient(invoker: RetryInvoker) -> RetryInvoker:
    should_give_up = invoker.should_giveup
    assert should_give_up is not None
    invoker.should_giveup = lambda error: not isinstance(error, httpx.TimeoutException) and should_give_up(error)
    return invoker


def main() -> None:
    """Run the SuperNode with the arguments of this process."""
    from flwr.supernode.cli.flower_supernode import flower_supernode

    retry_timeouts()
    flower_supernode()


if __name__ == "__main__":
    main()
