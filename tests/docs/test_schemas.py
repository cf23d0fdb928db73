"""JSON Schemas of results: the committed ones are those of the code, and real files obey them."""

import json

import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from fixtures.simulation import FAST, run
from jsonschema import Draft202012Validator

from server.results import write_results
from server.schemas import schema_texts
from simulation.schemas import all_models, main

TEXTS = schema_texts(all_models())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    federation = Federation(tiny(*GENES_ONLY, "federation.num_rounds=1"))
    write_results(folder, federation.run(), federation.train())
    return folder


def test_the_committed_schemas_are_those_of_the_code(repository, tmp_path):
    main([str(tmp_path)])
    committed = repository / "docs" / "reference" / "schemas"
    assert {path.name for path in committed.iterdir()} == set(TEXTS)
    for path in tmp_path.iterdir():
        assert path.read_text() == TEXTS[path.name]


@pytest.mark.parametrize("name", TEXTS)
def test_the_committed_schema_is_that_of_the_code(repository, name):
    path = repository / "docs" / "reference" / "schemas" / name
    assert path.read_text(encoding="utf-8") == TEXTS[name], "run `python -m simulation.schemas`"


def fields(schema):
    """Yield every field of a schema, nested ones too, with its name."""
    for part in (schema, *schema.get("$defs", {}).values()):
        yield from part.get("properties", {}).items()


@pytest.mark.parametrize("name", TEXTS)
def test_every_field_has_a_meaning(name):
    if name in ("run_manifest.schema.json", "deployment_manifest.schema.json"):
        return  # settings are described where they are composed
    assert [field for field, about in fields(json.loads(TEXTS[name])) if not about.get("description")] == []


def obey(name, path):
    """Hold a JSON file, or each line of a file of JSON lines, to a schema."""
    validator = Draft202012Validator(json.loads(TEXTS[f"{name}.schema.json"]))
    text = path.read_text(encoding="utf-8")
    parts = text.splitlines() if path.suffix == ".jsonl" else [text]
    assert parts
    for part in parts:
        validator.validate(json.loads(part))


def test_files_of_a_run_obey_their_schemas(results):
    obey("deployment_summary", results / "summary.json")
    obey("model", results / "model.json")
    obey("metrics_line", results / "metrics.jsonl")


def test_files_of_a_simulation_obey_their_schemas(tmp_path, monkeypatch):
    monkeypatch.setattr("simulation.run.draw_figures", lambda *_: None)
    folder = run(tmp_path / "out", *FAST, "compare=true").folder
    obey("simulation_summary", folder / "summary.json")
    obey("fold_outcome", folder / "fold-0" / "outcome.json")
    obey("model", folder / "model.json")
    obey("metrics_line", folder / "metrics.jsonl")
    obey("run_manifest", folder / "settings.json")
