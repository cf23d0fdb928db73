"""Check of arrays that describe patients; arrays that pass need no further checks."""

import numpy as np
from jaxtyping import Bool, Float, Shaped

__all__ = ["check_patients"]


def check_patients(
    time_months: Float[np.ndarray, " n"],
    event: Bool[np.ndarray, " n"],
    **predictions: Shaped[np.ndarray, "n ..."],
) -> None:
    """Refuse arrays that do not describe patients, so that callers can rely on types and lengths.

    Args:
        time_months: months from diagnosis to the event or to the last visit.
        event: True: the event happened at that time. False: the patient was censored then.
        predictions: by name, one row per patient each.

    Raises:
        ValueError: `event` is not boolean, lengths differ, or a value is not finite.
    """
    if event.dtype != np.bool_:
        raise ValueError(
            f"event has dtype {event.dtype}; expected bool, True where the event happened. "
            "Convert it yourself: numbers are refused because some tables code censoring as 1."
        )
    for name, values in {"time_months": time_months, **predictions}.items():
        if len(values) != len(event):
            raise ValueError(
                f"{name} has {len(values)} entries; expected {len(event)}, as event has. Give one of each per patient."
            )
        num_bad = int(np.count_nonzero(~np.isfinite(values)))
        if num_bad:
            raise ValueError(
                f"{name} has {num_bad} values that are not finite; expected none. Leave such patients out."
            )
