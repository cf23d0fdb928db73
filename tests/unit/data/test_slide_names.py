"""A slide has one name, whatever folder and extension stand around it."""

from hypothesis import given
from hypothesis import strategies as st

from memamba_core.data.slide_names import slide_name


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
