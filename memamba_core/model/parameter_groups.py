"""Parameter groups: the expert of a parameter is the first component of its name.

A patient trains some groups and not others (`MEMamba.groups_of`), and so does a site. An average over sites must know
which sites trained a parameter.
"""

from typing import Final

__all__ = ["PARAMETER_GROUPS", "parameter_group"]

PARAMETER_GROUPS: Final = (
    "pathology",
    "genomics",
    "synergistic",
    "head",
    "absent_pathology",
    "absent_genomics",
    "absent_synergistic",
)
"""All groups; a model has some of them."""


def parameter_group(name: str) -> str:
    """Return the group of the parameter that `state_dict` calls `name`.

    Raises:
        ValueError: no parameter of this model has such a name.
    """
    group = name.partition(".")[0]
    if group not in PARAMETER_GROUPS:
        raise ValueError(f"parameter {name!r} is in no group; expected one of {', '.join(PARAMETER_GROUPS)}")
    return group
