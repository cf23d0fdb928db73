"""The door for arrays that describe patients: what passes here needs no more checks."""

import numpy as np
from jaxtyping import Bool, Float, Shaped

__all__ = ["check_patients"]


def check_patients(
    time_months: Float[np.ndarray, " n"],
    event: Bool[np.ndarray, " n"],
    **predictions: Shaped[np.ndarray, "n ..."],
) -> None:
    """Refuse arrays that do not describe patients; behind this door types and lengths are taken for granted.

    Args:
        time_months: months from diagnosis to the event or to the last visit.
        event: True: it happened at that time. False: censored then.
        predictions: by name, one row per patient each.

    Raises:
        ValueError: `event` is not boolean, lengths differ, or a value is not finite.
    """
    if event.dtype != np.bool_:
        raise ValueError(
            f"event has dtype {event.dtype}; give booleans, True where the event happened "
            "(numbers are refused because some tables code censoring as 1)"
        )
    for name, values in {"time_months": time_months, **predictions}.items():
        if len(values) != len(event):
            raise ValueError(f"{name} has {len(values)} entries and event {len(event)}; give one of each per patient")
        num_bad = int(np.count_nonzero(~np.isfinite(values)))
        if num_bad:
            raise ValueError(f"{name} has {num_bad} values that are not finite; such patients cannot be ranked")
