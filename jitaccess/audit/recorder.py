"""The only writer of the ledger. Call it inside the transaction of the change it records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.discreet import is_about
from jitaccess.kernel.ids import uuid7_hex
from jitaccess.kernel.strictjson import JsonView
from jitaccess.kernel.text import visible
from jitaccess.store import byhand
from jitaccess.store.metrics import LEDGER_ENTRIES

# The values of an entry's columns in their order, as both databases take them: UUIDs are 32 hexadecimal digits.
Row = tuple[str | int | None, ...]
_FIELDS = Entry._meta.concrete_fields
_AT, _EVENT = ([field.attname for field in _FIELDS].index(name) for name in ("at", "event"))
_TYPES = {"UUIDField": "uuid", "DateTimeField": "timestamptz", "BigIntegerField": "bigint"}
_QUOTED = tuple(field.get_internal_type() not in _TYPES for field in _FIELDS)
COLUMNS = [f'"{field.column}"' for field in _FIELDS]
_SERVER, _TOOL = 64, 200  # characters of their names
_INTO = f"INSERT INTO {Entry._meta.db_table} ({', '.join(COLUMNS)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who did it, in plain values. `system` is a named part of jitaccess itself ("system:expiry")."""

    agent: UUID | None = None
    agent_name: str = ""
    user: UUID | None = None
    user_name: str = ""
    client: str = ""
    source: str = ""

    @classmethod
    def system(cls, name: str) -> Actor:
        return cls(user_name=f"system:{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One entry to be. `at` None means the database's clock at the insert."""

    event: Event
    actor: Actor
    outcome: Outcome = Outcome.NONE
    at: datetime | None = None
    request: UUID | None = None
    grant: UUID | None = None
    call: UUID | None = None
    server: UUID | None = None
    server_name: str = ""
    tool: str = ""
    tool_pin: str = ""
    bindings: Sequence[UUID] = ()
    policy_version: int | None = None
    instance: UUID | None = None
    data: Mapping[str, JsonView] = field(default_factory=dict)


def record(facts: Facts) -> UUID:
    """Append one entry; returns its uid. Refuses to run outside a transaction: a change and its entry are one."""
    is_about(call=facts.call, grant=facts.grant, request=facts.request)
    return record_many([facts])[0]


def record_many(many: Iterable[Facts]) -> list[UUID]:
    """Append entries in one statement; returns their uids in the same order."""
    rows = [_row(facts) for facts in many]
    write_rows(rows)
    return [UUID(str(row[0])) for row in rows]


def write_rows(rows: Sequence[Row]) -> None:
    """Append rows that `row` made, in one statement. Inside a transaction, as `record`."""
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("The ledger is written inside the transaction of what it records.")
    if not rows:
        return
    if byhand.on_sqlite():
        byhand.execute_each(INSERT_EACH, _timed(rows))
    else:
        byhand.execute(INSERT_FRESH, as_arrays(rows))
    count_rows(rows)


def as_arrays(rows: Sequence[Row]) -> list[str]:
    """The columns of rows, as `FRESH` takes them (PostgreSQL)."""
    return [
        byhand.array(values, quoted=quoted) for values, quoted in zip(zip(*rows, strict=True), _QUOTED, strict=True)
    ]


def count_rows(rows: Sequence[Row]) -> None:
    """For the metrics, once the transaction has committed."""
    events = Counter(str(row[_EVENT]) for row in rows)
    transaction.on_commit(lambda: count_events(events), robust=True)


def count_events(events: Mapping[str, int]) -> None:
    """The same for entries that are committed."""
    for event, count in events.items():
        LEDGER_ENTRIES.labels(event).inc(count)


def row(
    *,
    event: Event,
    outcome: Outcome,
    about: Row,
    at: str | None = None,
    tool_pin: str = "",
    bindings: tuple[UUID, ...] = (),
    policy_version: int | None = None,
    instance: str | None = None,
    data: str = "{}",
) -> Row:
    """One entry. `about` is of the function of this name, `at` of `moment`, `data` is canonical JSON; ids are
    hexadecimal.
    """
    return (
        uuid7_hex(), at, str(event), str(outcome), *about, tool_pin, uids(bindings) if bindings else "[]",
        policy_version, instance, data,
    )  # fmt: skip


def about(actor: Row, what: Row, *, grant: UUID | None, call: UUID | None, request: UUID | None = None) -> Row:
    """What the entries about one thing have in common: whose doing it is, and of what. `actor` is of `actor_columns`,
    `what` of `what_columns`.
    """
    return (
        *actor,
        None if request is None else request.hex,
        None if grant is None else grant.hex,
        None if call is None else call.hex,
        *what,
    )


@lru_cache(4096)
def actor_columns(actor: Actor) -> Row:
    """agent, agent_name, user, user_name, client, source."""
    return (
        actor.agent.hex if actor.agent else None,
        visible(actor.agent_name, limit=150),
        actor.user.hex if actor.user else None,
        visible(actor.user_name, limit=150),
        visible(actor.client, limit=200),
        visible(actor.source, limit=64),
    )


def what_columns(server: UUID | None, server_name: str, tool: str) -> Row:
    """server, server_name, tool."""
    # Cut first: what a stranger makes up may be megabytes, and must not be what is remembered. By number: a UUID is
    # hashed and compared in Python.
    return _what_columns(None if server is None else server.int, server_name[: _SERVER + 1], tool[: _TOOL + 1])


@lru_cache(4096)
def _what_columns(server: int | None, server_name: str, tool: str) -> Row:
    return None if server is None else f"{server:032x}", visible(server_name, limit=_SERVER), visible(tool, limit=_TOOL)


@lru_cache(4096)
def uids(bindings: tuple[UUID, ...]) -> str:
    return canonical([str(uid) for uid in bindings]).decode()


def moment(at: datetime) -> str:
    """In UTC, as both databases read it and SQLite keeps it."""
    text = at.astimezone(UTC).replace(tzinfo=None).isoformat(" ")
    return text if byhand.on_sqlite() else f"{text}+00"


def _timed(rows: Sequence[Row]) -> Sequence[Row]:
    """With the clock, read once, where there is no time yet."""
    if all(row[_AT] for row in rows):
        return rows
    ((clock,),) = byhand.execute("SELECT jit_now()").rows
    return [row if row[_AT] else (*row[:_AT], clock, *row[_AT + 1 :]) for row in rows]


def _row(facts: Facts) -> Row:
    return row(
        event=facts.event,
        outcome=facts.outcome,
        about=about(
            actor_columns(facts.actor),
            what_columns(facts.server, facts.server_name, facts.tool),
            grant=facts.grant,
            call=facts.call,
            request=facts.request,
        ),
        at=moment(facts.at) if facts.at else None,
        tool_pin=facts.tool_pin,
        bindings=tuple(facts.bindings),
        policy_version=facts.policy_version,
        instance=facts.instance.hex if facts.instance else None,
        data=canonical(dict(facts.data)).decode(),
    )


_CASTS = [f"${at}::{_TYPES.get(field.get_internal_type(), 'text')}[]" for at, field in enumerate(_FIELDS, 1)]


def insert_fresh(*, at: str) -> str:
    """For PostgreSQL: from one array for each column, $1 and on. What follows may join `fresh`. `at` is the time."""
    chosen = [at if name == '"at"' else f"fresh.{name}" for name in COLUMNS]
    return (
        f"{_INTO} SELECT {', '.join(chosen)} "  # noqa: S608 - names of our own
        f"FROM unnest({', '.join(_CASTS)}) AS fresh ({', '.join(COLUMNS)})"
    )


INSERT_FRESH = insert_fresh(at='coalesce(fresh."at", (SELECT jit_now()))')
# For SQLite: a row at a time. OR FAIL: what fails takes its transaction with it anyway, and so SQLite needs no journal
# for every statement.
INSERT_EACH = f"{_INTO.replace('INSERT', 'INSERT OR FAIL')} VALUES ({', '.join('?' for _ in COLUMNS)})"  # noqa: S608
