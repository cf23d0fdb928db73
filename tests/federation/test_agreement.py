"""Agreement over the wire: requests to the sites, and the warnings of a run whose data do not suffice."""

from fixtures.federation import GENES_ONLY, Federation, tiny

from server.federation.handshake import perform_handshake


def test_public_time_bins_ask_no_counts_of_the_sites():
    federation = Federation(tiny(*GENES_ONLY, "agreement.time_bins=public"))
    seen = []

    def watch(message, reply):
        if message.metadata.message_type == "query.statistics":
            seen.append((message.content["fields"]["count-events"], "events" in reply.content.array_records))
        return reply

    federation.faults = dict.fromkeys(federation.sites, watch)
    handshake = perform_handshake(federation.grid(), federation.run(), federation.cohort.signatures)
    assert handshake.agreement.time_bin_edges == federation.config.experiment.agreement.public_edges
    assert handshake.warnings == ()
    assert seen
    assert not any(asked for asked, _ in seen)


def test_too_few_distinct_edges_fall_back_to_the_public_ones_and_the_run_says_so():
    federation = Federation(tiny(*GENES_ONLY, "agreement.grid_step_months=1000"))
    handshake = perform_handshake(federation.grid(), federation.run(), federation.cohort.signatures)
    assert handshake.agreement.time_bin_edges == federation.config.experiment.agreement.public_edges
    assert any("fewer than 3 distinct time-bin edges on a grid of" in w for w in handshake.warnings)
    result = federation.train()
    assert result.warnings == handshake.warnings


def test_each_step_of_the_agreement_waits_as_long_as_the_settings_say(monkeypatch):
    federation = Federation(tiny(*GENES_ONLY, "federation.agreement_timeout_s=77"))
    grid, waited = federation.grid(), []
    exchange = grid.send_and_receive

    def listen(messages, *, timeout):
        waited.append(timeout)
        return exchange(messages, timeout=timeout)

    monkeypatch.setattr(grid, "send_and_receive", listen)
    perform_handshake(grid, federation.run(), federation.cohort.signatures)
    assert waited == [77.0] * 3  # facts, statistics, agreement
