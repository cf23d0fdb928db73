"""Read one file of patch features: its facts without its data, its rows in slide order, or a sample of its rows.

From the bottom up: `causes` (why a file cannot be read), `content` (facts, checks and rows of an open file), `hdf5`,
`torch_files` and `numpy_files` (one format each), `reading` (the functions for everybody), and `sampling` (what the
doctor looks at in every file).
"""

from .content import PatchFileFacts
from .reading import PATCH_SUFFIXES, inspect_patch_file, read_patches, slide_order
from .sampling import PatchFileSample, sample_patch_file

__all__ = [
    "PATCH_SUFFIXES",
    "PatchFileFacts",
    "PatchFileSample",
    "inspect_patch_file",
    "read_patches",
    "sample_patch_file",
    "slide_order",
]
