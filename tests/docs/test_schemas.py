"""JSON Schemas of the coordinator's files: the committed ones are those of the code, and real files obey them."""

import json

import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from jsonschema import Draft202012Validator

from server.results import write_results
from server.schemas import published_models, schema_texts

TEXTS = schema_texts(published_models())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    federation = Federation(tiny(*GENES_ONLY, "federation.num_rounds=1"))
    write_results(folder, federation.run(), federation.train())
    return folder


@pytest.mark.parametrize("name", TEXTS)
def test_the_committed_schema_is_that_of_the_code(repository, name):
    path = repository / "docs" / "reference" / "schemas" / name
    assert path.read_text(encoding="utf-8") == TEXTS[name], f"write the text of server.schemas.schema_texts to {path}"


def fields(schema):
    """Yield every field of a schema, nested ones too, with its name."""
    for part in (schema, *schema.get("$defs", {}).values()):
        yield from part.get("properties", {}).items()


@pytest.mark.parametrize("name", TEXTS)
def test_every_field_has_a_meaning(name):
    assert [field for field, about in fields(json.loads(TEXTS[name])) if not about.get("description")] == []


def test_files_of_a_run_obey_their_schemas(results):
    files = {
        "deployment_summary": [results / "summary.json"],
        "model": [results / "model.json"],
    }
    for name, paths in files.items():
        validator = Draft202012Validator(json.loads(TEXTS[f"{name}.schema.json"]))
        for path in paths:
            validator.validate(json.loads(path.read_text(encoding="utf-8")))
    lines = (results / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines
    for line in lines:
        Draft202012Validator(json.loads(TEXTS["metrics_line.schema.json"])).validate(json.loads(line))
