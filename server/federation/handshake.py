"""Handshake before round 1: declarations of the sites, their statistics, the agreement.

The handshake ends with one agreement whose digest every site has confirmed.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.serverapp import Grid

from memamba_core.config.coordinator import APPROVAL_WAIT_S
from memamba_core.config.experiment import Experiment
from memamba_core.data.agreement import Agreement
from memamba_core.data.genomics.signatures import find_signature_doubts
from memamba_core.data.genomics.table import continuous_columns
from memamba_core.data.statistics import ColumnMoments, merge_moments
from memamba_core.errors import FederationError, RejectedReplyError
from memamba_core.wire.protocol import (
    PROTOCOL_VERSION,
    AgreementReply,
    AgreementRequest,
    FactsReply,
    FactsRequest,
    Phase,
    StatisticsReply,
    StatisticsRequest,
    package_version,
)

from .agreement import build_agreement, check_declarations, choose_time_bins, common_gene_columns, scales_features
from .approval import OnApproval, ask_until_approved
from .exchange import SiteFailure, ask, quote
from .lost_columns import find_lost_columns
from .outliers import find_outlying_sites
from .scale_differences import find_scale_differences
from .validation import check_facts, check_sums, max_patients

__all__ = ["Handshake", "Run", "perform_handshake"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Identity of a run, as the sites see it.

    Attributes:
        run_id: name of the run; letters, digits, `-`, `_`, `.`.
        experiment: settings of all sites, sent as JSON.
        fold: test fold; -1 trains on every patient.
        overrides: settings as typed, for the summary only.
        roster: names of the sites that are asked to take part; empty where they are known by their answers only.
        approval_wait_s: longest wait for the operators of the sites to approve the run, in seconds; not sent.
    """

    run_id: str
    experiment: Experiment
    fold: int = -1
    overrides: tuple[str, ...] = ()
    roster: tuple[str, ...] = ()
    approval_wait_s: float = APPROVAL_WAIT_S


@dataclass(frozen=True)
class Handshake:
    """Result of the handshake: the sites that take part, by name.

    Attributes:
        nodes: Flower's node id of each site.
        facts: declarations of each site.
        agreement: agreement that all of them hold.
        failures: sites that were asked and do not take part.
        warnings: sentences for the person who reads the run.
    """

    nodes: dict[str, int]
    facts: dict[str, FactsReply]
    agreement: Agreement
    failures: dict[str, SiteFailure]
    warnings: tuple[str, ...]


def perform_handshake(
    grid: Grid,
    run: Run,
    signatures: Mapping[str, tuple[str, ...]] | None,
    agreed: Agreement | None = None,
    enrolled: Mapping[str, int] | None = None,
    on_approval: OnApproval | None = None,
) -> Handshake:
    """Ask the sites for facts and statistics, build the agreement, and have every site accept it.

    Args:
        grid: Flower's Grid.
        run: experiment, fold and names.
        signatures: gene groups, symbol lists by name; needed where the experiment groups genes by signatures.
        agreed: agreement of an interrupted run, which is sent again; None builds a new one.
        enrolled: Flower's node id of each site, known by its key; None asks every connected node for its name.
        on_approval: called with the sites whose operators have not approved the run yet, whenever they change.

    Raises:
        FederationError: too few sites answer or accept the agreement, no site has a training patient, or two nodes have
            the same name.
        AgreementError: declarations differ; the text names the sites on either side.
    """
    timeout = run.experiment.federation.agreement_timeout_s
    if run.experiment.privacy.name == "none":
        _log.warning(
            "privacy=none: this coordinator sees the weights of each site without noise, and anyone who gets the model "
            "can infer which patients it was trained on (docs/explanation/privacy.md)"
        )
    declared = (
        _ask_connected(grid, run, timeout, on_approval)
        if enrolled is None
        else _ask_enrolled(grid, run, timeout, enrolled, on_approval)
    )
    nodes, facts, failures = declared
    check_declarations(list(facts.values()))
    warnings: tuple[str, ...] = ()
    if agreed is None:
        agreed, lost, warnings = _make_agreement(grid, run, nodes, facts, signatures, timeout)
        failures |= lost
    requests = {
        site: AgreementRequest(
            run_id=run.run_id,
            config_digest=run.experiment.digest(),
            fold=run.fold,
            agreement=agreed.to_json(),
            agreement_digest=agreed.digest(),
            scaling=dict(agreed.scaling()),
        )
        for site in facts
        if site not in failures
    }
    answers = ask(grid, Phase.AGREEMENT, requests, nodes, AgreementReply, timeout_s=timeout)
    failures |= answers.failures
    for site, reply in answers.replies.items():
        if reply.agreement_digest != agreed.digest():
            failures[site] = SiteFailure(0, "confirmed another agreement than the one that was sent")
    for site, failure in failures.items():
        _log.warning("%s does not take part: %s", site, failure.text)
    present = [site for site in facts if site not in failures]
    if not present:
        raise FederationError(f"no site accepted the agreement. {_list_failures(failures)}")
    if not any(facts[site].size_band for site in present):
        raise FederationError(
            f"no site has a patient to train on: all patients are in test fold {run.fold}. Choose another fold, or "
            "fold=-1, which keeps no patient for testing"
            if run.fold >= 0
            else "no site has a patient to train on. Check the tables with `flower-client doctor`"
        )
    return Handshake(
        {site: nodes[site] for site in present}, {site: facts[site] for site in present}, agreed, failures, warnings
    )


Declared = tuple[dict[str, int], dict[str, FactsReply], dict[str, SiteFailure]]


def _ask_enrolled(
    grid: Grid, run: Run, timeout: float, enrolled: Mapping[str, int], on_approval: OnApproval | None
) -> Declared:
    """Ask the sites of the roster. The key identifies a site; a site that declares another name does not take part."""
    facts, failures = _ask_facts(grid, run, timeout, enrolled, on_approval)
    for name, reply in tuple(facts.items()):
        if reply.site != name:
            del facts[name]
            failures[name] = SiteFailure(
                0, f"its name is {quote(reply.site)}; expected {name}. Correct name in its site.yaml"
            )
    if not facts:
        raise FederationError(
            "no site gave a usable answer. "
            + _list_failures(failures)
            + ". The log of a site names the reason; settings "
            "that a site refuses need a new run"
        )
    return dict(enrolled), facts, failures


def _ask_connected(grid: Grid, run: Run, timeout: float, on_approval: OnApproval | None) -> Declared:
    """Ask every connected node for its declarations, which name the site."""
    by_node = {f"node {node}": node for node in sorted(grid.get_node_ids())}
    answers, failures = _ask_facts(grid, run, timeout, by_node, on_approval)
    if not by_node:
        raise FederationError("no site answered: no node is connected")
    if not answers:
        raise FederationError("no site answered. " + _list_failures(failures))
    nodes: dict[str, int] = {}
    facts: dict[str, FactsReply] = {}
    for label, reply in answers.items():
        if reply.site in facts:
            raise FederationError(
                f"two nodes ({nodes[reply.site]} and {by_node[label]}) are named {quote(reply.site)}; expected one. "
                "Set another name in one site.yaml"
            )
        nodes[reply.site], facts[reply.site] = by_node[label], reply
    return nodes, {site: facts[site] for site in sorted(facts)}, failures


def _ask_facts(
    grid: Grid,
    run: Run,
    timeout: float,
    nodes: Mapping[str, int],
    on_approval: OnApproval | None,
) -> tuple[dict[str, FactsReply], dict[str, SiteFailure]]:
    """Return the declarations of each node, and the reasons why the other nodes gave no usable ones."""
    request = FactsRequest(
        protocol=PROTOCOL_VERSION,
        package=package_version(),
        run_id=run.run_id,
        settings=run.experiment.to_json(),
        config_digest=run.experiment.digest(),
        fold=run.fold,
        roster=run.roster,
    )
    replies, failures = ask_until_approved(
        lambda labels: ask(grid, Phase.FACTS, dict.fromkeys(labels, request), nodes, FactsReply, timeout_s=timeout),
        list(nodes),
        run.approval_wait_s,
        on_approval,
    )
    refused: dict[str, SiteFailure] = {}
    for label, reply in replies.items():
        try:
            check_facts(reply, run.experiment.federation)
        except RejectedReplyError as error:
            refused[label] = SiteFailure(0, str(error))
    return {label: r for label, r in replies.items() if label not in refused}, failures | refused


def _make_agreement(
    grid: Grid,
    run: Run,
    nodes: Mapping[str, int],
    facts: Mapping[str, FactsReply],
    signatures: Mapping[str, tuple[str, ...]] | None,
    timeout: float,
) -> tuple[Agreement, dict[str, SiteFailure], tuple[str, ...]]:
    config = run.experiment.agreement
    columns = common_gene_columns(list(facts.values()))
    deployed = any(fact.boundary == "deployment" for fact in facts.values())
    summed = columns if config.gene_scaling == "statistics" else ()
    if deployed:  # each site answers alone
        summed = tuple(continuous_columns(summed))
    scale_features = scales_features(config, list(facts.values()))
    count = config.time_bins == "event_quantiles" and not deployed
    requests = {
        site: StatisticsRequest(
            run_id=run.run_id,
            config_digest=run.experiment.digest(),
            fold=run.fold,
            gene_columns=summed if fact.gene_columns else (),
            scale_features=scale_features,
            count_events=count,
        )
        for site, fact in facts.items()
        if fact.size_band and (summed or scale_features or count)
    }
    answers = ask(grid, Phase.STATISTICS, requests, nodes, StatisticsReply, timeout_s=timeout)
    failures = dict(answers.failures)
    width = max((fact.feature_width for fact in facts.values()), default=0)
    features, counts = [], np.zeros(config.grid_num_cells, dtype=np.int64)
    genes: dict[str, ColumnMoments] = {}
    warnings = find_lost_columns(list(facts.values()))
    for site, reply in answers.replies.items():
        fact = facts[site]
        num_genes = len(summed) if fact.gene_columns else 0
        num_features = fact.feature_width if scale_features else 0
        most = max_patients(fact, run.experiment.federation)
        try:
            check_sums(reply, num_genes, num_features, most, config, count_events=count)
        except RejectedReplyError as error:
            failures[site] = SiteFailure(0, str(error))
            continue
        if num_genes:
            genes[site] = ColumnMoments(**reply.genes)
        if scale_features and fact.feature_width:
            features.append(ColumnMoments(**reply.features))
        if count:
            counts += reply.events["event"]
    kept = {site: reply for site, reply in answers.replies.items() if site not in failures}
    warnings += find_scale_differences(genes, summed)
    edges: tuple[float, ...] | None = config.public_edges
    if config.time_bins == "event_quantiles" and deployed:
        _log.info(
            "time bins: the public edges %s months apply; counts of events do not leave a site that answers alone",
            list(config.public_edges),
        )
    if count:
        warnings += find_outlying_sites(kept, facts)
        edges = choose_time_bins(config, counts)
        if edges is None:
            warnings.append(
                f"{int(counts.sum())} disclosed events give fewer than {config.num_bins - 1} distinct time-bin "
                f"edges on a grid of {config.grid_step_months:g} months (agreement.grid_step_months; a finer one gives "
                f"more); the public edges {list(config.public_edges)} months apply"
            )
            _log.warning(warnings[-1])
    if signatures and config.gene_groups == "signatures":
        warnings += [str(doubt) for doubt in find_signature_doubts("the signatures", signatures, columns)]
    agreement = build_agreement(
        config,
        list(facts.values()),
        gene_columns=columns,
        summed=summed,
        genes=merge_moments(list(genes.values()), len(summed)),
        features=merge_moments(features, width) if scale_features else None,
        time_bin_edges=edges or config.public_edges,
        signatures=signatures,
    )
    return agreement, failures, tuple(warnings)


def _list_failures(failures: Mapping[str, SiteFailure]) -> str:
    listed: Sequence[str] = [f"{site}: {failure.text}" for site, failure in failures.items()]
    return "; ".join(listed[:10]) + ("; ..." if len(listed) > 10 else "")
