"""Time limit of a site's executor: none for private rounds, which would be cut off where a slow patient is."""

from types import SimpleNamespace

import pytest

from client import service
from memamba_core.config.site import DeclaredBands, SiteConfig, SitePrivacy


@pytest.mark.parametrize("private", [True, False])
def test_a_private_round_has_no_limit_of_its_own(private, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(service, "Executor", lambda *arguments: built.append(arguments))
    monkeypatch.setattr(service, "SiteKeys", lambda _folder: SimpleNamespace(load_secret=lambda: "secret"))
    monkeypatch.setattr(service, "NodeTasks", lambda *_arguments: None)
    monkeypatch.setattr(service, "open_site", lambda _config: None)
    monkeypatch.setattr(service, "open_gate", lambda *_arguments: None)
    monkeypatch.setattr(service, "SiteWorker", lambda _site, **_options: None)
    bands = DeclaredBands(patients=100, pathology=0, genomics=100)
    config = SiteConfig.model_validate(
        {
            "name": "a",
            "data": {"root": tmp_path, "clinical": {"file": "c.csv"}, "genomics": {"file": "g.csv"}},
            "state": tmp_path,
            "approve": "automatic",
            "coordinator": {"address": "localhost:1"},
            "limits": {"minutes_per_round": 5},
            "privacy": SitePrivacy(bands=bands) if private else None,
        }
    )
    service._build_executor(config, ("127.0.0.1", 1), None, tmp_path / "site.yaml")
    assert built[0][4] == (None if private else 300)
