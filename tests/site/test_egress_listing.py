"""Listing of the egress log."""

from client.egress_listing import egress_listing
from memamba_core.privacy.egress import EgressLog, describe_refusal


def test_equal_refusals_in_a_row_have_one_line_and_their_number(tmp_path):
    log = EgressLog(tmp_path)
    for code in (115, 115, 115, 116, 115):
        log.append(describe_refusal(code, "a text", run_id="luad", phase="facts", server_round=0))
    heading, *lines = egress_listing(log.read(), None)
    assert heading.endswith("content")
    assert len(lines) == 3
    assert "115: a text (3 times, last 20" in lines[0]
    assert lines[1].endswith("116: a text")
    assert lines[2].endswith("115: a text")
