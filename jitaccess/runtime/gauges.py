"""What is asked of the database when somebody scrapes: at most once a second, and for at most a second."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from django.db import Error, connection, transaction
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from jitaccess.audit import bundles
from jitaccess.audit.models import Checkpoint, Entry, Unsequenced
from jitaccess.gateway.core import Gateway
from jitaccess.notify.models import Delivery
from jitaccess.policy.compiler import head
from jitaccess.store.clock import now
from requests_app import selectors
from requests_app.provisioning import service as provisioning

log = logging.getLogger(__name__)

KEPT_SECONDS = 1.0
# Of the ledger's queue no more are counted: this many and more is one answer.
MANY = 100_000

Values = dict[str, float]
_MEANINGS = {
    "pending_requests": "Requests that wait for a decision.",
    "live_grants": "Grants in force.",
    "ledger_unsequenced": "Entries that have no place in the order yet.",
    "ledger_unsequenced_age_seconds": "How long the oldest of them waits.",
    "ledger_checkpoint_age_seconds": "Since the last signed head; absent when none was ever signed.",
    "deliveries_pending": "Notices that are owed.",
    "deliveries_failing": "Of these, those that failed at least once.",
    "provisions_due": "Entitlements to be given or taken on targets now.",
    "provision_revokes_stuck": "Of these, what could not be taken away; it is tried for ever.",
    "policy_version_lag": "Versions by which this gateway's policy in memory is behind; calls never are.",
    "open_streams": "Event streams of agents, open in this gateway.",
    "open_pages": "Pages that are told of changes, open in this web process.",
    "upstream_children": "Child processes of MCP servers in this gateway.",
    "calls_in_flight": "Requests of agents being answered by this gateway.",
    "database_up": "Whether the database answered for this scrape.",
}


def of_installation() -> Values:
    """What every process would answer alike."""
    moment = now()
    values: Values = {key: float(count) for key, count in (selectors.how_many() | provisioning.how_many()).items()}
    bundled, first = bundles.waiting()
    values["ledger_unsequenced"] = float(Unsequenced.objects.all()[:MANY].count() + bundled)
    # Uids are in the order of time.
    oldest = Unsequenced.objects.order_by("pk").values_list("pk", flat=True).first()
    since = Entry.objects.filter(pk=oldest).values_list("at", flat=True).first() if oldest else None
    values["ledger_unsequenced_age_seconds"] = max(_age(at, moment) if at else 0.0 for at in (since, first))
    signed = Checkpoint.objects.values_list("at", flat=True).first()
    if signed is not None:
        values["ledger_checkpoint_age_seconds"] = _age(signed, moment)
    owed = Delivery.objects.filter(sent_at=None)
    values["deliveries_pending"] = float(owed.count())
    values["deliveries_failing"] = float(owed.exclude(error="").count())
    return values


def of_gateway(gateway: Gateway) -> Callable[[], Values]:
    """What this gateway knows of itself, and how far behind it is."""

    def read() -> Values:
        version = gateway.store.version
        return {"policy_version_lag": max(0.0, float(head().version - version)) if version is not None else 0.0}

    return read


class Gauges(Collector):
    """`read` asks the database, in the thread that scrapes; `own` asks nobody."""

    def __init__(self, read: Iterable[Callable[[], Values]], own: Callable[[], Values] = dict) -> None:
        self._read, self._own = tuple(read), own
        self._lock = threading.Lock()
        self._values: Values = {}
        self._until = 0.0

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            if time.monotonic() > self._until:
                self._values = self._ask()
                self._until = time.monotonic() + KEPT_SECONDS
            values = self._values | self._own()
        for name, value in values.items():
            yield GaugeMetricFamily(f"jitaccess_{name}", _MEANINGS[name], value=value)

    def _ask(self) -> Values:
        values: Values = {"database_up": 1.0}
        try:
            with transaction.atomic() if connection.vendor == "postgresql" else _nothing():
                if connection.vendor == "postgresql":
                    with connection.cursor() as cursor:
                        cursor.execute("SET LOCAL statement_timeout = '1s'")
                for read in self._read:
                    values |= read()
        except Error as error:
            log.warning("some metrics are missing, because the database did not answer: %s", error)
            values["database_up"] = 0.0
        return values


class _nothing:  # noqa: N801 - SQLite reads without a transaction, which would take the write lock
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def _age(since: datetime, until: datetime) -> float:
    return max(0.0, (until - since).total_seconds())
