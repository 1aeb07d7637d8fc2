"""The real side: one database, set up once and taken back after each run; its clock, which stands still until told."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from unittest import mock
from uuid import UUID

import pytest
from django.db import connection

from jitaccess.audit import recorder
from jitaccess.gateway.recording.batch import admit_batch
from jitaccess.gateway.recording.clock_guard import ClockGuard
from jitaccess.gateway.recording.facts import Intent
from jitaccess.identity.models import AccessToken, User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.engine.arguments import arguments_digest
from jitaccess.policy.engine.decide import Verdict, Who, decide
from jitaccess.policy.engine.rules import Snapshot, Subject
from jitaccess.policy.models import Requestable, Role
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import save_role
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store.clock import as_utc, define_on_sqlite
from requests_app import sweeps, tasks
from tests.cast import OPERATOR, TOOLS, Cast, person
from tests.requests_app.machine.documents import POLICIES, policy_text, role_text
from tests.requests_app.machine.model import LIMITS, Model

ARGUMENTS: dict[str, dict[str, Any]] = {"a": {"message": "one", "all": True}, "b": {"message": "two", "all": True}}
SWEEPS = (
    tasks.end_due_grants,
    tasks.end_grants_of_disabled,
    tasks.end_used_up_grants,
    sweeps.end_grants_of_removed,
    sweeps.activate_grants,
    tasks.lapse_requests,
    sweeps.invalidate_requests,
    sweeps.tell_about_requests,
)
_TOLD = " OR ".join(
    f"event LIKE '{start}%'" for start in ("request.", "grant.", "decision.", "lock.", "delegation.", "call.authorized")
)
_READ_AFTER_EACH = {
    "requests": "SELECT id, status, closed_at, pending_until FROM jit_requests_accessrequest",
    "grants": "SELECT id, request_id, user_id, starts_at, expires_at, latest, ended_at, end_reason, activated_at "
    "FROM jit_requests_grant",
    "bindings": "SELECT id, origin_id, user_id, starts_at, expires_at, ended_at, max_uses, left_, role_version, tools, "
    "arguments FROM (SELECT held.*, used.left AS left_ FROM jit_policy_rolebinding held "
    "LEFT JOIN jit_policy_bindinguse used ON used.binding_id = held.id WHERE held.origin = 'grant') rights",
    "decisions": "SELECT request_id, stage, user_id, on_behalf_of_id, verdict, live FROM jit_requests_decision",
    "told": f"SELECT event, request, count(*) FROM jit_audit_entry WHERE {_TOLD} GROUP BY event, request",
}
# A commit, as far as it can be seen: deferred triggers fire, and the next change is another version.
_COMMIT = "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED; SELECT set_config('jitaccess.bumped', '', true)"
_FROZEN = (
    "CREATE OR REPLACE FUNCTION jit_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
    "$$SELECT current_setting('jitaccess.moment')::timestamptz$$"
)


class LedgerDownError(Exception):
    """The ledger takes no entry."""


class _Steady(ClockGuard):
    """Jumps of the clock are what is tried here; that SQLite's are noticed, other tests show."""

    def refuses(self) -> bool:
        return False


@dataclass(slots=True)
class Stage:
    cast: Cast
    people: dict[str, User]
    role: Role
    principals: dict[str | None, Principal]
    began: datetime
    moment: datetime
    store: SnapshotStore = field(default_factory=SnapshotStore)
    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    # -- the clock ------------------------------------------------------------------------------------------------

    def at(self, moment: datetime) -> None:
        self.moment = moment
        _MOMENT[:] = [moment]
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('jitaccess.moment', %s, true)", [moment.isoformat()])

    def begin(self) -> Model:
        """At the beginning of a run: nothing is cached, and the model knows what there is."""
        self.at(self.began + timedelta(days=1))  # what the cast has began long ago: the clock may go back
        self.store = SnapshotStore()
        for person_ in self.people.values():
            person_.is_active = True
        tools = {
            name: {"access": str(TOOLS[name]), "pin": tool.digest, "digest": tool.digest, "present": True}
            for name, tool in self.cast.tools.items()
        }
        model = Model(self.moment, {name: user.pk for name, user in self.people.items()}, tools)
        model.rules, model.roles = POLICIES[0], [(["git_commit"], [])]
        return model

    def commit(self) -> None:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(_COMMIT)

    # -- doing ----------------------------------------------------------------------------------------------------

    def call(self, user: str | None, tool: str, arguments: dict[str, Any]) -> Verdict | None:
        """What the gateway does with a call; None when it refuses."""
        intent = Intent(
            self.principals[user],
            self.cast.server.pk,
            "git",
            tool,
            arguments_digest(arguments),
            dict(arguments),
            given=arguments,
        )
        self.look(user)
        (answer,) = admit_batch(
            [intent], store=self.store, instance=_INSTANCE, guard=_GUARD, lease_until=lambda: float("inf")
        )
        return answer.verdict if answer.allowed else None

    def look(self, *users: str | None) -> Snapshot:
        subjects = [Subject(agent=self.cast.agent.pk, user=self.people[user].pk if user else None) for user in users]
        return self.store.look(*subjects)[0]

    def verdict(self, snapshot: Snapshot, user: str | None, tool: str, arguments: str | None) -> Verdict:
        who = Who(self.cast.agent.pk, self.people[user].pk if user else None)
        given = ARGUMENTS[arguments] if arguments else None
        return decide(
            snapshot, who=who, server=self.cast.server.pk, tool=tool, at=self.moment, arguments=given,
            digest=DIGESTS[arguments] if arguments else "",
        )  # fmt: skip

    # -- reading --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Commit, as far as it can be seen, and read all that is read below. At once: this is done after each step."""
        if connection.vendor != "postgresql":
            self.rows = {name: _rows(sql) for name, sql in _READ_AFTER_EACH.items()}
            return
        with connection.cursor() as cursor:
            cursor.execute("; ".join([_COMMIT, *_READ_AFTER_EACH.values()]))
            results = [cursor.fetchall() if cursor.description else []]
            while cursor.nextset():
                results.append(cursor.fetchall() if cursor.description else [])
        self.rows = dict(zip(_READ_AFTER_EACH, results[-len(_READ_AFTER_EACH) :], strict=True))

    def requests(self) -> dict[Any, tuple[Any, ...]]:
        return {pk: tuple(rest) for pk, *rest in self.rows["requests"]}

    def grants(self) -> dict[Any, tuple[Any, ...]]:
        return {pk: tuple(rest) for pk, *rest in self.rows["grants"]}

    def bindings(self) -> list[tuple[Any, ...]]:
        """Each with the id of its grant, whose it is, its window, how many calls, and what it gives."""
        return self.rows["bindings"]

    def decisions(self) -> list[tuple[Any, ...]]:
        return self.rows["decisions"]

    def told(self) -> Counter[tuple[str, Any]]:
        return Counter({(event, request): count for event, request, count in self.rows["told"]})


def _rows(sql: str) -> list[tuple[Any, ...]]:
    """By hand: Django would take longer to write the query than the database to answer it."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        columns = [column[0] for column in cursor.description]
        return [tuple(map(_read, columns, row)) for row in cursor.fetchall()]


def _read(column: str, value: Any) -> Any:
    if value is None or column not in _KEYS:
        return as_utc(value) if value and column in _TIMES else value
    return UUID(value)


_KEYS = {"id", "request_id", "user_id", "origin_id", "on_behalf_of_id", "request"}
_TIMES = {"closed_at", "pending_until", "starts_at", "expires_at", "latest", "ended_at", "activated_at"}
_INSTANCE, _GUARD = uuid7(), _Steady()
_MOMENT: list[datetime] = []  # on SQLite, where jit_now() is a function of ours
DIGESTS = {name: arguments_digest(value) for name, value in ARGUMENTS.items()}


def set_the_stage(cast: Cast, began: datetime) -> Stage:
    """The cast, and dora; two principals with tokens: the agent alone, and on behalf of bert; a role to be asked for."""
    people = {name: getattr(cast, name) for name in ("admin", "olga", "anna", "bert", "carl")} | {
        "dora": person("dora")
    }
    cast.reviewers.members.add(people["dora"])
    cast.agent.users.add(cast.bert)
    cast.requestable.delete()
    for access, (most, total, uses) in LIMITS.items():
        if access != "role":
            Requestable.objects.create(
                server=cast.server, access=access, max_minutes=most, max_total_minutes=total, max_uses=uses,
                policy=cast.policy,
            )  # fmt: skip
    cast.policy = save_policy(document=policy_text(0), operator=OPERATOR, policy=cast.policy)
    role = save_role(document=role_text(0, 1), operator=OPERATOR)
    principals = {}
    for user in (None, cast.bert):
        token = AccessToken.objects.create(
            agent=cast.agent, user=user, hash=uuid7().hex * 2, issued_by=cast.admin, issued_by_name="admin",
            created_at=began, expires_at=began + timedelta(days=400),
        )  # fmt: skip
        principals[user.username if user else None] = cast.principal(user=user, token_hash=token.hash)
    return Stage(cast, people, role, principals, began, began)


@contextmanager
def standing_still(moment: datetime) -> Iterator[None]:
    """jit_now() is what the stage says; as it was afterwards (on PostgreSQL with the transaction)."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('jitaccess.moment', %s, true)", [moment.isoformat()])
            cursor.execute(_FROZEN)
        yield
        return
    connection.ensure_connection()
    _MOMENT[:] = [moment]
    connection.connection.create_function("jit_now", 0, lambda: _MOMENT[0].strftime("%Y-%m-%d %H:%M:%S.%f"))
    try:
        yield
    finally:
        define_on_sqlite(connection=connection)


@contextmanager
def without_ledger(after: int) -> Iterator[None]:
    """Entries cannot be written any more, from the one after `after` more on."""
    real, made = recorder._row, []

    def row(facts: Any) -> Any:
        made.append(facts)
        if len(made) > after:
            raise LedgerDownError
        return real(facts)

    with mock.patch.object(recorder, "_row", row):
        yield


@contextmanager
def no_errors_logged() -> Iterator[None]:
    """A sweep goes on after an error, which it logs; here there is none to go on after."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = found.append  # type: ignore[method-assign]
    logger = logging.getLogger("requests_app")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if found:
        pytest.fail("\n".join(handler.format(record) for record in found))
