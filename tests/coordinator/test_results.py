"""Records that other programs read: lines of `metrics.jsonl` and `summary.json` of a run over the network."""

import json
from dataclasses import replace

import pydantic
import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny

from memamba_core.wire.protocol import Refusal
from server.federation.journal import RoundRecord
from server.federation.outcome import Failed, SiteMetrics, Trained
from server.results import round_lines, write_results, write_rounds
from server.summary import DeploymentSummary, FailedLine, MetricsLine, TrainedLine

ROUND = RoundRecord(
    server_round=2,
    sites={
        "county": Trained(
            trained={"head": 30}, train_loss=0.5, incoming=SiteMetrics(num_patients=12), update_norm=0.25
        ),
        "mercy": Failed(failure=Refusal.DATA.text, code=Refusal.DATA.code),
    },
    seconds=1.0,
    bytes_sent=1,
    bytes_received=1,
)


def test_lines_of_metrics_keep_their_keys(tmp_path):
    """Other programs read these lines: keys and their order are a contract."""
    write_rounds(tmp_path / "metrics.jsonl", 1, [ROUND])
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"fold": 1, "round": 2, "site": "county", "trained": {"head": 30}, "train_loss": 0.5, "incoming": '
        '{"num_patients": 12, "num_events": null, "loss_sum": null, "concordant": null, "discordant": null, '
        '"tied_risk": null}, "update_norm": 0.25}\n'
        f'{{"fold": 1, "round": 2, "site": "mercy", "failure": "{Refusal.DATA.text}", "code": {Refusal.DATA.code}}}\n'
    )


def test_lines_are_read_back_as_the_class_that_was_written(tmp_path):
    write_rounds(tmp_path / "metrics.jsonl", 1, [ROUND])
    adapter = pydantic.TypeAdapter(MetricsLine)
    back = [adapter.validate_json(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [type(line) for line in back] == [TrainedLine, FailedLine]
    assert back == round_lines(1, [ROUND])


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_numbers_that_json_cannot_hold_are_refused(loss):
    with pytest.raises(pydantic.ValidationError):
        Trained(trained={"head": 1}, train_loss=loss, incoming=SiteMetrics())


def test_the_summary_is_read_back_as_written(tmp_path):
    federation = Federation(tiny(*GENES_ONLY, "federation.num_rounds=1"))
    summary = write_results(tmp_path, federation.run(), federation.train())
    text = (tmp_path / "summary.json").read_text()
    assert DeploymentSummary.model_validate_json(text) == summary
    assert list(json.loads(text)) == list(DeploymentSummary.model_fields)
    assert summary.num_sites == len(federation.sites)
    assert summary.closing_evaluation.sites.keys() == {*federation.sites}


@pytest.mark.parametrize(("num_pairs", "reason"), [(19, "19 comparable pairs; wanted at least 20"), (20, None)])
def test_a_c_index_of_few_pairs_is_not_given(tmp_path, num_pairs, reason):
    federation = Federation(tiny(*GENES_ONLY, "federation.num_rounds=1"))
    result = federation.train()
    evaluation = replace(result.evaluation, c_index_histogram=1.0, c_index_within_site=0.9, num_pairs=num_pairs)
    summary = write_results(tmp_path, federation.run(), replace(result, evaluation=evaluation))
    assert (summary.c_index_histogram, summary.c_index_within_site) == ((None, None) if reason else (1.0, 0.9))
    assert (reason or "") in (summary.without_c_index or "")
    assert (summary.without_c_index is None) is (reason is None)
