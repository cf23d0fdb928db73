"""Attacks of a hostile coordinator on the settings of a run: past `limits.settings`, past the limits, into memory."""

import dataclasses
import json
import time
import tracemalloc

import numpy as np
import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from fixtures.requests import facts_request
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client.app import build_client_app
from client.session import RefusedError
from client.worker import SiteWorker
from memamba_core.config.site import LimitsConfig
from memamba_core.data.agreement import Agreement
from memamba_core.errors import AgreementError
from memamba_core.training.checkpoint import initial_model, weights_of
from memamba_core.wire.protocol import (
    PROTOCOL_VERSION,
    AgreementRequest,
    EvaluateRequest,
    Refusal,
    StatisticsRequest,
    TrainRequest,
    package_version,
)
from server.federation.handshake import perform_handshake

SETTINGS = tiny(*GENES_ONLY, "federation.num_rounds=2")


@pytest.fixture(scope="module")
def federation():
    return Federation(SETTINGS)


@pytest.fixture(scope="module")
def agreement(federation):
    return perform_handshake(federation.grid(), federation.run(), federation.cohort.signatures).agreement


@pytest.fixture
def site(federation, tmp_path):
    one = federation.cohort.sites["site-01"]
    return dataclasses.replace(one, config=one.config.model_copy(update={"state": tmp_path / "state"}))


@pytest.fixture
def worker(site):
    return SiteWorker(site)


def limited(site, **limits):
    """The site with other limits."""
    limits = LimitsConfig.model_validate(site.config.limits.model_dump() | limits)
    return dataclasses.replace(site, config=site.config.model_copy(update={"limits": limits}))


class Coordinator:
    """Coordinator that sends any requests; the honest values are the defaults."""

    def __init__(self, experiment, agreement, run_id="attack", fold=0):
        self.experiment, self.agreed, self.run_id, self.fold = experiment, agreement, run_id, fold

    @property
    def _base(self):
        return {"run_id": self.run_id, "config_digest": self.experiment.digest(), "fold": self.fold}

    @property
    def _weights(self):
        return weights_of(initial_model(self.experiment, self.agreed))

    def facts(self, worker, settings=None):
        return worker.facts(
            facts_request(self.experiment, **self._base, settings=settings or self.experiment.to_json())
        )

    def statistics(self, worker, columns, *, count_events=True, scale_features=False):
        return worker.statistics(
            StatisticsRequest(
                gene_columns=columns, scale_features=scale_features, count_events=count_events, **self._base
            )
        )

    def agree(self, worker, **changes):
        self.agreed = dataclasses.replace(self.agreed, **changes)
        return worker.agreement(
            AgreementRequest(
                agreement=self.agreed.to_json(),
                scaling=dict(self.agreed.scaling()),
                agreement_digest=self.agreed.digest(),
                **self._base,
            )
        )

    def train(self, worker, server_round=1, **changes):
        return worker.train(
            TrainRequest(
                weights=changes.pop("weights", None) or self._weights,
                server_round=server_round,
                agreement_digest=self.agreed.digest(),
                **self._base,
                **changes,
            )
        )

    def evaluate(self, worker):
        return worker.evaluate(
            EvaluateRequest(weights=self._weights, agreement_digest=self.agreed.digest(), **self._base)
        )


@pytest.fixture
def coordinator(federation, agreement):
    return Coordinator(federation.config.experiment, agreement)


def refused(call, *arguments, **changes):
    with pytest.raises(RefusedError) as caught:
        call(*arguments, **changes)
    return caught.value.refusal


# Past `limits.settings`, by what travels outside the settings


@pytest.mark.parametrize("mu", [0.5, -1.0, float("nan"), 1e30])
def test_a_proximal_term_that_the_settings_do_not_have_is_refused(worker, coordinator, mu):
    coordinator.facts(worker)
    coordinator.agree(worker)
    assert refused(coordinator.train, worker, proximal_mu=mu) is Refusal.CONFIG


@pytest.mark.parametrize("server_round", [-1, 0, 3, 10**9])
def test_a_round_that_the_settings_do_not_have_is_refused(worker, coordinator, server_round):
    coordinator.facts(worker)
    coordinator.agree(worker)
    assert refused(coordinator.train, worker, server_round=server_round) is Refusal.MESSAGE
    assert coordinator.train(worker, server_round=2).weights


@pytest.mark.parametrize(
    "changes",
    [
        {"time_bin_edges": (12.0, 24.0)},
        {"time_bin_edges": tuple(float(i) for i in range(1, 64))},
        {"time_bin_edges": (12.0, 12.001, 24.0)},
        {"time_bin_edges": (12.0, 24.0, 6000.0)},
    ],
    ids=["fewer bins", "more bins", "off the grid", "beyond the grid"],
)
def test_time_bins_that_the_settings_do_not_have_are_refused(worker, coordinator, changes):
    coordinator.facts(worker)
    assert refused(coordinator.agree, worker, **changes) is Refusal.CONFIG


def test_a_scale_below_the_floor_of_the_settings_is_refused(worker, coordinator):
    coordinator.facts(worker)
    tiny_scale = np.full(len(coordinator.agreed.gene_columns), 1e-9)
    assert refused(coordinator.agree, worker, gene_scale=tiny_scale) is Refusal.CONFIG


def test_gene_groups_that_the_settings_do_not_have_are_refused(worker, federation, agreement):
    kinds = federation.config.experiment.agreement.model_copy(update={"gene_groups": "kind"})
    coordinator = Coordinator(federation.config.experiment.model_copy(update={"agreement": kinds}), agreement)
    coordinator.facts(worker)
    assert refused(coordinator.agree, worker) is Refusal.CONFIG


@pytest.mark.parametrize(
    ("settings", "columns", "count_events", "scale_features"),
    [
        ({"time_bins": "public"}, False, True, False),
        ({"gene_scaling": "public"}, True, False, False),
        ({"feature_scaling": "none"}, False, False, True),
        ({}, False, False, True),  # `auto`, and the site has bags of patches
    ],
)
def test_statistics_that_the_settings_do_not_need_are_refused(
    worker, federation, agreement, settings, columns, count_events, scale_features
):
    config = federation.config.experiment.agreement.model_copy(update=settings)
    coordinator = Coordinator(federation.config.experiment.model_copy(update={"agreement": config}), agreement)
    coordinator.facts(worker)
    names = agreement.gene_columns if columns else ()
    changes = {"count_events": count_events, "scale_features": scale_features}
    assert refused(coordinator.statistics, worker, names, **changes) is Refusal.CONFIG
    assert coordinator.statistics(worker, (), count_events=False).events == {}


# Past the limits


def test_an_agreement_does_not_outlive_the_settings_that_it_was_checked_with(site, federation, agreement):
    """The run is opened again with a larger model, and called up after another run."""
    small = Coordinator(federation.config.experiment, agreement)
    model = federation.config.experiment.model.model_copy(update={"d_model": 64, "group_hidden": 64})
    large = Coordinator(federation.config.experiment.model_copy(update={"model": model}), agreement)
    worker = SiteWorker(limited(site, max_parameters=5_000))
    small.facts(worker)
    small.agree(worker)
    large.facts(worker)
    assert refused(large.agree, worker) is Refusal.POLICY
    Coordinator(federation.config.experiment, agreement, run_id="another").facts(worker)
    assert refused(large.train, worker) is Refusal.AGREEMENT
    assert refused(large.train, SiteWorker(worker.site)) is Refusal.AGREEMENT


# Into memory and time


def test_statistics_of_one_column_a_million_times_are_refused(worker, coordinator):
    coordinator.facts(worker)
    columns = (coordinator.agreed.gene_columns[0],) * 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError) as caught:
            coordinator.statistics(worker, columns)
        assert tracemalloc.get_traced_memory()[1] < 2e8
    finally:
        tracemalloc.stop()
    assert caught.value.refusal is Refusal.AGREEMENT_FIELD


def test_an_agreement_on_one_column_many_times_is_refused(coordinator):
    names = json.loads(coordinator.agreed.to_json())
    names["gene_columns"] = names["gene_columns"][:1] * len(names["gene_columns"])
    with pytest.raises(AgreementError, match="names a column twice"):
        Agreement.from_json(json.dumps(names), coordinator.agreed.scaling())


def test_a_model_of_very_many_groups_is_refused_before_it_is_counted(worker, coordinator):
    coordinator.facts(worker)
    started = time.monotonic()
    groups = {f"{i}": (0,) for i in range(50_000)}
    assert refused(coordinator.agree, worker, gene_groups=groups) is Refusal.POLICY
    assert time.monotonic() - started < 5


# What leaves


def test_no_reason_of_a_refusal_leaves(site, coordinator):
    """Every reason names the coordinator's own value, which must not come back either."""
    app = build_client_app(lambda _: SiteWorker(limited(site, settings=("model.d_model<=2",))))
    settings = coordinator.experiment.to_json()
    for text in (settings, settings.replace('"seed":0', '"seed":"SECRET"'), settings[:-1] + ',"SECRET":1}', "SECRET"):
        fields = {"protocol": PROTOCOL_VERSION, "package": package_version(), "run-id": "SECRET", "fold": 0}
        fields |= {"settings": text, "config-digest": coordinator.experiment.digest()}
        message = Message(RecordDict({"fields": ConfigRecord(fields)}), 1, "query.facts")
        message.metadata.__dict__["_message_id"] = "m"
        reply = app(message=message, context=Context(1, 1, {}, RecordDict(), {}))
        assert reply.has_error()
        assert (reply.error.code, reply.error.reason) in {(r.code, r.text) for r in Refusal}
