"""A slide has one name, whatever folder and extension stand around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.data.identifiers.slide_names import slide_name


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\"), min_size=1))
def test_a_slide_has_one_name_with_and_without_folder_and_extension(text):
    name = slide_name(text)
    assert slide_name(name) == name
    for extension in (".svs", ".h5", ".pt", ".TIFF", ".svs.h5"):
        assert slide_name(f"/data/slides/{name}{extension}") == name
        assert slide_name(f" C:\\slides\\{name}{extension} ") == name


def test_only_known_extensions_are_cut():
    name = "TCGA-2F-A9KO-01Z-00-DX1.195576CF-B739-4BD9-B15B-4A70AE287D3E"
    assert slide_name(name) == name
    assert slide_name(f"{name}.svs") == name
    assert slide_name("case.v2.final") == "case.v2.final"
    assert slide_name(".svs") == ".svs"
    assert slide_name("  ") == ""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("D:\\Scans 2023\\Fall 1 HE.VSI", "Fall 1 HE"),
        ("Fall 1 HE.qptiff", "Fall 1 HE"),
        ("case_0.ome.tiff", "case_0"),
        ("case_0.OME.TIF", "case_0"),
        ("case_0.ome.zarr", "case_0"),
        ("case_0.ome.h5", "case_0"),  # a tool that cut one extension
        ("case_0.ome.zarr.zip", "case_0"),
        ("case_0.svs.h5", "case_0"),
        ("/a/b.svs/case_0.sdpc", "case_0"),
        ("case_0.kfb", "case_0"),
        ("case_0.tmap", "case_0"),
        ("case_0.isyntax", "case_0"),
        ("case_0.i2syntax", "case_0"),
        ("case_0.npy", "case_0"),
        ("case_0/", "case_0"),  # a folder of DICOM files
        ("B2023.1234.1 HE.mrxs", "B2023.1234.1 HE"),
        ("12.5", "12.5"),
        ("case.v2.final", "case.v2.final"),
        ("Mu\u0308ller.svs", "Müller"),
        ("\ufeffcase_0.svs\u00a0", "case_0"),
        ("case_0 .svs", "case_0"),
    ],
)
def test_names_as_scanners_and_tools_write_them(text, name):
    assert slide_name(text) == name
    assert slide_name(name) == name
