"""Bring the name of a slide into one spelling, from any list or folder."""

from memamba_core.data.identifiers.canonical import canonical

__all__ = ["listed_slide", "slide_name"]

NO_SLIDE = frozenset({"-", "na", "n/a", "nan", "null", "none", "<na>", "#n/a"})
"""Texts of a column of slides, in lower case, that stand for no slide."""

KNOWN_EXTENSIONS = frozenset().union(
    # OpenSlide, and what STAMP, CLAM and TRIDENT read through it or through CuCIM
    {"svs", "tif", "tiff", "ndpi", "mrxs", "scn", "bif", "vms", "vmu", "svslide", "czi", "dcm", "dicom", "zvi"},
    # Bio-Formats, for whole slides; `ome` alone is what remains of `.ome.tiff` after a tool has cut one extension
    {"ome", "btf", "tf2", "tf8", "ptif", "ptiff", "qptiff", "vsi", "ets", "afi", "ndpis", "lif", "nd2", "ims", "lsm"},
    {"oir", "oib", "oif", "jp2", "jpx", "j2k", "flex", "xdce", "zarr", "zip"},
    # formats of scanner makers that other readers know: Philips, KFBio, Sqray, Unic, Motic, PreciPoint, and others
    {"isyntax", "i2syntax", "kfb", "kfbf", "sdpc", "dyqx", "tmap", "tron", "mds", "mdsx", "vmic", "gtif", "dzi", "szi"},
    {"png", "jpg", "jpeg", "bmp", "webp"},
    # feature files
    {"h5", "hdf5", "hdf", "pt", "pth", "npy", "npz"},
)
"""Extensions of slide scanners, of images and of feature files, in lower case."""


def listed_slide(text: str) -> str:
    """Return the name of a slide in a list (`slide_name`), '' for a mark that there is none, such as `NA`."""
    return "" if canonical(text).casefold() in NO_SLIDE else slide_name(text)


def slide_name(text: str) -> str:
    """Return the name of a slide without folder and without known extensions, as an identifier (`canonical`).

    Only known extensions are removed, because names hold dots: `TCGA-2F-A9KO-01Z-00-DX1.195576CF-....svs` ends in
    `.svs`, and the identifier before this extension is part of the name. All known extensions are removed, in any case
    (`slide.ome.tiff`, `slide.SVS.h5` and `slide` are one name).
    """
    name = canonical(canonical(text).replace("\\", "/").rstrip("/").rpartition("/")[2])
    while True:
        stem, _, extension = name.rpartition(".")
        if not stem or extension.lower() not in KNOWN_EXTENSIONS:
            return name
        name = stem.rstrip()
