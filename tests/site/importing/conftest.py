import pytest
from fixtures.importing import Importer


@pytest.fixture
def importer(tmp_path, capsys):
    return Importer(tmp_path, capsys)
