"""What this process counts, for /metrics. Labels have few values: never an agent, a tool or an id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import InterfaceError, InternalError, OperationalError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

CALLS = Counter(
    "jitaccess_calls", "Tool calls as they were decided.", ["outcome", "reason"], registry=REGISTRY
)  # becomes jitaccess_calls_total
BATCH_SIZE = Histogram(
    "jitaccess_admission_batch_size", "Calls in one batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)  # fmt: skip
BATCH_SECONDS = Histogram(
    "jitaccess_admission_batch_seconds", "Deciding and recording one batch.", buckets=FAST, registry=REGISTRY
)
SNAPSHOT_SECONDS = Histogram(
    "jitaccess_snapshot_load_seconds", "Bringing policy in memory up to date.", ["how"], buckets=FAST,
    registry=REGISTRY,
)  # fmt: skip
LEDGER_ENTRIES = Counter(
    "jitaccess_ledger_entries", "Entries this process put on record, by what happened.", ["event"], registry=REGISTRY
)
PROVISION_ATTEMPTS = Counter(
    "jitaccess_provision_attempts", "Tries to give or take access on targets.", ["doing", "outcome"], registry=REGISTRY
)
PROVISION_ALARMS = Counter(
    "jitaccess_provision_alarms", "Times that access could not be taken away on a target, and people were called.",
    registry=REGISTRY,
)  # fmt: skip
LIMITED = Counter(
    "jitaccess_limited", "Requests of agents that were refused because of a limit.", ["limit"], registry=REGISTRY
)
UPSTREAM_OPEN = Gauge(
    "jitaccess_upstream_open", "Connections to a server that fail at once for a while, because it failed in a row.",
    ["server"], registry=REGISTRY,
)  # fmt: skip
DATABASE_ERRORS = Counter(
    "jitaccess_database_errors", "Statements that failed because of the database, not of what they say.",
    ["kind"], registry=REGISTRY,
)  # fmt: skip


def count_errors(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """An execute wrapper (Django, "Database instrumentation")."""
    try:
        return execute(sql, params, many, context)
    except (OperationalError, InterfaceError, InternalError) as error:
        DATABASE_ERRORS.labels(type(error).__name__).inc()
        raise


def watch_connection(*, connection: Any, **_: object) -> None:
    """Count the errors of a new connection (Django's connection_created)."""
    if count_errors not in connection.execute_wrappers:
        connection.execute_wrappers.append(count_errors)
