"""One spelling for a slide, whatever list or folder it was found in."""

__all__ = ["slide_name"]

KNOWN_EXTENSIONS = frozenset().union(
    {"svs", "tif", "tiff", "ndpi", "mrxs", "scn", "bif", "vms", "vmu", "svslide", "czi", "isyntax", "dcm"},
    {"zarr", "png", "jpg", "jpeg"},
    {"h5", "hdf5", "pt"},
)
"""Of slide scanners, of images and of feature files."""


def slide_name(text: str) -> str:
    """The slide's name without folder and without known extensions.

    Only known extensions are cut, because names hold dots: `TCGA-2F-A9KO-01Z-00-DX1.195576CF-....svs` ends in
    `.svs`, and the identifier before it is part of the name. They are cut until none is left (`slide.svs.h5`
    is `slide`).
    """
    name = text.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]
    while True:
        stem, _, extension = name.rpartition(".")
        if not stem or extension.lower() not in KNOWN_EXTENSIONS:
            return name
        name = stem
