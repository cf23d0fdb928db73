"""Two sites and a coordinator as real processes, over TLS, for two rounds: the whole path once."""

import pytest
from fixtures.deployment import Deployment
from fixtures.federation import tiny

from memamba_core.training.checkpoint import load_checkpoint

TWO = tiny(
    "data.synthetic.num_patients=24",
    "data.synthetic.num_sites=2",
    "partition.num_sites=2",
    "agreement.gene_groups=kind",
    "model.experts=[genomics]",
)


@pytest.mark.ci_slow
@pytest.mark.timeout(240)
def test_two_sites_train_a_model_over_the_network(tmp_path):
    federation = Deployment(tmp_path, TWO).build()
    try:
        federation.start_sites()
        said = federation.server("run", "name=first", "fold=0", *federation.experiment)
    finally:
        federation.close()
    assert "round 2 of 2 done: 2 of 2 sites" in said
    summary = federation.summary("first")
    assert (summary["num_rounds"], summary["failures"], summary["left_out"]) == (2, [], {})
    assert set(summary["sites"]) == {"site-01", "site-02"}
    folder = federation.federation / "runs" / "first"
    assert load_checkpoint(folder).server_round == 2
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4
    for site in ("site-01", "site-02"):
        kept = federation.site(site) / "state" / "runs" / "first"
        assert load_checkpoint(kept).weights.keys() == load_checkpoint(folder).weights.keys()
    assert not (folder.parents[1] / "state" / "status.json").exists()
