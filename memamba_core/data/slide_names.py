"""Bring the name of a slide into one spelling, from any list or folder."""

__all__ = ["slide_name"]

KNOWN_EXTENSIONS = frozenset().union(
    {"svs", "tif", "tiff", "ndpi", "mrxs", "scn", "bif", "vms", "vmu", "svslide", "czi", "isyntax", "dcm"},
    {"zarr", "png", "jpg", "jpeg"},
    {"h5", "hdf5", "pt"},
)
"""Extensions of slide scanners, of images and of feature files."""


def slide_name(text: str) -> str:
    """Return the name of a slide without folder and without known extensions.

    Only known extensions are removed, because names hold dots: `TCGA-2F-A9KO-01Z-00-DX1.195576CF-....svs` ends in
    `.svs`, and the identifier before this extension is part of the name. All known extensions are removed
    (`slide.svs.h5` is `slide`).
    """
    name = text.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]
    while True:
        stem, _, extension = name.rpartition(".")
        if not stem or extension.lower() not in KNOWN_EXTENSIONS:
            return name
        name = stem
