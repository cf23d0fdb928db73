"""Paths and other text reach the settings as typed, whatever signs of Hydra's grammar they hold."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config.compose import compose_simulation, expand_sweep
from memamba_core.config.text_settings import quote_texts
from memamba_core.errors import ConfigError

ODD = ("Ergebnisse (neu)", "Über=1,2", "lr=0.1", "a{b}c", "a[1]", "[x", "}", "it's", 'a"b', "a\\", "a\\'", "C:\\Neu\\x")
MORE = ("~home", "ä ö", "a#b", "a$b", "a;b&c", "!x", "x)", "1e3", "true", "null (neu)", "a\nb", " lead", "trail ")


def read(override):
    return OverridesParser.create().parse_override(override).value()


@pytest.mark.parametrize("key", ["output_dir", "data.root", "++data.clinical.file", "device"])
@pytest.mark.parametrize("text", [*ODD, *MORE])
def test_text_arrives_as_typed(text, key):
    (override,) = quote_texts([f"{key}={text}"])
    assert str(read(override)) == text


@given(st.text(st.characters(exclude_characters="$", exclude_categories=["Cs"]), min_size=1))
def test_any_text_arrives_as_typed(text):
    if text[0] not in "'\"" and text != "null":
        (override,) = quote_texts([f"data.root={text}"])
        assert str(read(override)) == text


def test_other_overrides_stay():
    words = [
        "seed=1",
        "model=genomics",
        "data.root='a b'",
        "output_dir=null",
        "resume=${oc.env:X}",
        "folds=[0,1]",
        "~x",
    ]
    assert quote_texts(words) == words


def test_odd_paths_are_composed():
    root, output = "/Köln (neu)/a=1,2", "Ergebnisse {neu}"
    tables = ["data.clinical={file:c.csv}", "data.genomics={file:g.csv}", "data.name=x", "data.synthetic=null"]
    config = compose_simulation([f"data.root={root}", f"output_dir={output}", *tables])
    assert (str(config.data.root), str(config.output_dir)) == (root, output)


def test_in_a_sweep_text_that_hydra_reads_may_have_several_values():
    runs = expand_sweep(["data.root=/a,/b", "data.splits=(neu)", "output_dir=a,b"])
    assert [swept for swept, _ in runs] == [{"data.root": "/a"}, {"data.root": "/b"}]


@pytest.mark.parametrize("override", ["seed=(1", "training.batch_size=8 (neu)"])
def test_other_settings_that_cannot_be_read_say_how_to_quote(override):
    with pytest.raises(ConfigError) as caught:
        compose_simulation([override])
    key = override.partition("=")[0]
    assert f"""for the shell and for the setting: '{key}="TEXT"'""" in str(caught.value)


@pytest.mark.parametrize("name", ["Köln NSCLC 2024", "a/b"])
def test_the_name_of_a_cohort_is_checked_at_once(name):
    with pytest.raises(ConfigError, match=r"data\.name: got .* at most 64 letters, digits"):
        compose_simulation([f"data.name={name}"])
