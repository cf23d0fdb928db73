"""Sums of a site against the size band that it declared: no count, and no sum of counts, may pass its end."""

import numpy as np
import pytest

from memamba_core.config.agreement import AgreementConfig
from memamba_core.errors import RejectedReplyError
from memamba_core.wire.protocol import StatisticsReply
from server.federation.validation import check_sums

MOST = 49
CONFIG = AgreementConfig(time_bins="event_quantiles")


def moments(width, count=0.0):
    return {"count": np.full(width, float(count)), "mean": np.zeros(width), "m2": np.zeros(width)}


def check(events, censored, *, genes=0.0, rows=0.0):
    """Check a reply with these numbers of patients, spread over the first cells of the time grid."""
    cells = {name: np.zeros(CONFIG.grid_num_cells, np.int64) for name in ("event", "censored")}
    for name, num in (("event", events), ("censored", censored)):
        cells[name][:3] = [num // 2, num - num // 2, 0]
    reply = StatisticsReply(genes=moments(2, genes), features=moments(1, rows), events=cells)
    check_sums(reply, 2, 1, MOST, CONFIG, count_events=True)


@pytest.mark.parametrize(("events", "censored"), [(0, 0), (MOST, 0), (0, MOST), (25, 24)])
def test_counts_within_the_band_pass(events, censored):
    check(events, censored, genes=MOST)


@pytest.mark.parametrize(("events", "censored"), [(25, 25), (MOST, 1), (1, MOST), (MOST, MOST)])
def test_events_and_censored_together_may_not_pass_the_band(events, censored):
    """Each count alone is within the band."""
    with pytest.raises(RejectedReplyError, match=str(MOST)):
        check(events, censored)


@pytest.mark.parametrize("counts", [{"events": 50}, {"censored": 50}, {"genes": 50.0}, {"rows": 50e6}])
def test_one_count_over_the_band_is_rejected(counts):
    with pytest.raises(RejectedReplyError, match=str(MOST)):
        check(**({"events": 0, "censored": 0} | counts))
