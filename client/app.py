"""Flower's ClientApp of a site: messages in, answers or fixed refusals out."""

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from memamba_core.config.site import load_site_config
from memamba_core.errors import AgreementError, ConfigError, DataError, ProtocolError, TamperedLogError
from memamba_core.io.process_setup import set_up_process
from memamba_core.wire.flower_records import from_records, to_records
from memamba_core.wire.message import WireMessage
from memamba_core.wire.protocol import (
    AgreementRequest,
    EvaluateRequest,
    FactsRequest,
    Phase,
    Refusal,
    StatisticsRequest,
    TrainRequest,
)

from .approval.admission import open_gate
from .session import RefusedError, refuse_other_version
from .site import open_site
from .worker import SiteWorker

__all__ = ["app", "build_client_app"]

_log = logging.getLogger(__name__)
Request = TypeVar("Request", bound=WireMessage)


def build_client_app(worker_for: Callable[[Context], SiteWorker]) -> ClientApp:
    """Build a ClientApp that answers every phase of the protocol.

    Args:
        worker_for: returns the site's worker for Flower's context of a node.
    """
    client_app = ClientApp()

    def answer(
        request_class: type[Request], work: Callable[[SiteWorker, Request], WireMessage]
    ) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            try:
                payload = from_records(message.content)
                if request_class is FactsRequest:  # checked first, because another version may have another form
                    refuse_other_version(payload.fields.get("protocol"), payload.fields.get("package"))
                request = request_class.from_payload(payload)
                return Message(to_records(work(worker_for(context), request)), reply_to=message)
            except Exception as error:  # only a fixed text leaves; the reason stays in the site's log
                return _refuse(error, message)

        return handle

    client_app.query(Phase.FACTS.value)(answer(FactsRequest, SiteWorker.facts))
    client_app.query(Phase.STATISTICS.value)(answer(StatisticsRequest, SiteWorker.statistics))
    client_app.query(Phase.AGREEMENT.value)(answer(AgreementRequest, SiteWorker.agreement))
    client_app.train()(answer(TrainRequest, SiteWorker.train))
    client_app.evaluate()(answer(EvaluateRequest, SiteWorker.evaluate))
    return client_app


_REFUSALS: tuple[tuple[type[Exception], Refusal], ...] = (
    (ProtocolError, Refusal.MESSAGE),
    (DataError, Refusal.DATA),
    (AgreementError, Refusal.AGREEMENT_FIELD),
    (ConfigError, Refusal.CONFIG),
    (TamperedLogError, Refusal.BUDGET),
)


def _refuse(error: Exception, message: Message) -> Message:
    """Build an error reply with a fixed text; the full reason goes to the site's log."""
    if isinstance(error, RefusedError):
        refusal = error.refusal
    else:
        refusal = next((r for kind, r in _REFUSALS if isinstance(error, kind)), Refusal.INTERNAL)
    if refusal is Refusal.INTERNAL:
        _log.exception("%s: %s", message.metadata.message_type, refusal.text)
    elif refusal is Refusal.PENDING:  # asked again every few seconds
        _log.debug("%s refused (%s): %s", message.metadata.message_type, refusal.text, error)
    else:
        _log.error("%s refused (%s): %s", message.metadata.message_type, refusal.text, error)
    return Message(Error(code=refusal.code, reason=refusal.text), reply_to=message)


@cache
def _worker_of_folder(site_yaml: Path) -> SiteWorker:
    set_up_process()  # the process may be Flower's own (`flwr run .`)
    config = load_site_config(site_yaml)
    torch.set_num_threads(config.threads)
    site = open_site(config)
    return SiteWorker(site, admission=open_gate(site, site_yaml))


def _worker_from_context(context: Context) -> SiteWorker:
    """Return the worker of this node's site: `site` of the node config, or the n-th folder of the run config's `sites`.

    Flower's own simulation (`flwr run .`), which numbers its nodes, uses `sites`.
    """
    if "site" in context.node_config:
        return _worker_of_folder(Path(str(context.node_config["site"])).resolve())
    sites, number = str(context.run_config.get("sites", "")), context.node_config.get("partition-id")
    if not sites or number is None:
        raise ConfigError(
            "the node config names no site. Start the node with --node-config 'site=\"/path/site.yaml\"', or the run "
            "with --run-config 'sites=\"FOLDER\"' and a folder of flower-simulate export-sites"
        )
    folders = sorted(path.parent for path in Path(sites).glob("*/site.yaml"))
    if int(number) >= len(folders):
        raise ConfigError(
            f"{sites} holds {len(folders)} sites; this is node {number}, from 0. Start at most {len(folders)} nodes"
        )
    return _worker_of_folder(folders[int(number)] / "site.yaml")


app = build_client_app(_worker_from_context)
