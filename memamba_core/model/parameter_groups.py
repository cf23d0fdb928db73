"""Which expert a parameter belongs to: the first component of its name.

A patient exercises some groups and not others (`MEMamba.groups_of`), and so does a site: an average over
sites must know which of them had anything to say about a parameter.
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
"""All there are. A model has those that it needs."""


def parameter_group(name: str) -> str:
    """The group of the parameter that `state_dict` calls `name`.

    Raises:
        ValueError: no parameter of this model has such a name.
    """
    group = name.partition(".")[0]
    if group not in PARAMETER_GROUPS:
        raise ValueError(f"parameter {name!r} is in no group; groups are {', '.join(PARAMETER_GROUPS)}")
    return group
