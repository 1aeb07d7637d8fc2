"""The policy version: raised by the database itself whenever something changes that a decision could depend on."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import update_last_login
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from jitaccess.catalog.models import Server, Tool
from jitaccess.identity.models import Agent, Team
from jitaccess.identity.services import issue_token
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.compiler import compile_snapshot, head
from jitaccess.policy.locks import lock
from jitaccess.policy.models import Requestable, RoleBinding, RoleVersion, ServerAccess
from jitaccess.policy.services import bind_role, save_role
from jitaccess.policy.snapshots import SnapshotStore
from requests_app.services import release_grant
from tests.cast import OPERATOR, READ_ONLY, Cast, person
from tests.clocks import Clock

pytestmark = pytest.mark.django_db(transaction=True)

Change = Callable[[Cast], object]


def _new_binding(cast: Cast) -> RoleBinding:
    return bind_role(role=cast.read_only, agent=cast.agent, operator=OPERATOR)


REQUESTED = READ_ONLY.replace("read-only", "asked") + "  request: {max_duration: 1h, approval: x}\n"
CHANGES: dict[str, Change] = {
    "user made": lambda cast: person("dora"),
    "user renamed": lambda cast: type(cast.anna).objects.filter(pk=cast.anna.pk).update(username="anne"),
    "user inactive": lambda cast: type(cast.anna).objects.filter(pk=cast.anna.pk).update(is_active=False),
    "user deleted": lambda cast: cast.carl.delete(),
    "team joined": lambda cast: cast.team.members.add(cast.carl),
    "team left": lambda cast: cast.team.members.remove(cast.anna),
    "agent made": lambda cast: Agent.objects.create(name="other", owner=cast.olga, team=cast.team),
    "agent disabled": lambda cast: Agent.objects.update(enabled=False),
    "agent's user added": lambda cast: cast.agent.users.add(cast.anna),
    "agent deleted": lambda cast: cast.agent.delete(),
    "agent labelled": lambda cast: Agent.objects.update(labels='{"tier": "gold"}'),
    "team renamed": lambda cast: Team.objects.filter(pk=cast.team.pk).update(name="renamed"),
    "server labelled": lambda cast: Server.objects.update(labels='{"env": "prod"}'),
    "server's calls limited": lambda cast: Server.objects.update(call_seconds=5),
    "server's repeats limited": lambda cast: Server.objects.update(repeat_limit=5),
    "server told who calls": lambda cast: Server.objects.update(identity_header=True),
    "tool labelled": lambda cast: Tool.objects.update(labels='{"data": "pii"}'),
    "lock made": lambda cast: lock(kind="agent", target=cast.agent.pk, reason="odd", operator=OPERATOR),
    "role that may be asked for": lambda cast: save_role(document=REQUESTED, operator=OPERATOR),
    "server made": lambda cast: Server.objects.create(slug="other"),
    "server disabled": lambda cast: Server.objects.update(enabled=False),
    "server deleted": lambda cast: cast.server.delete(),
    "tool made": lambda cast: Tool.objects.create(server=cast.server, name="x", definition="{}", digest="x"),
    "tool classified": lambda cast: Tool.objects.filter(name="git_log").update(access="write"),
    "tool deleted": lambda cast: Tool.objects.filter(name="git_log").delete(),
    "role headed": lambda cast: type(cast.read_only).objects.update(head=0),
    "role version made": lambda cast: RoleVersion.objects.create(
        role=cast.read_only, version=2, document=READ_ONLY, saved_by="x", saved_at=cast.agent.created_at
    ),
    "binding made": _new_binding,
    "binding ended": lambda cast: RoleBinding.objects.update(ended_at=cast.agent.created_at),
    "binding deleted": lambda cast: RoleBinding.objects.all().delete(),
    "server opened": lambda cast: ServerAccess.objects.update(every_team=True),
    "server access deleted": lambda cast: cast.access.delete(),
    "server access to a team": lambda cast: cast.access.teams.add(Team.objects.create(name="others")),
    "server access of a team ended": lambda cast: cast.access.teams.clear(),
    "requestable made": lambda cast: Requestable.objects.create(
        server=cast.server, tools="git_*", max_minutes=5, policy=cast.policy
    ),
    "requestable changed": lambda cast: Requestable.objects.update(max_minutes=5),
    "requestable deleted": lambda cast: cast.requestable.delete(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_change_that_matters_raises_the_version(cast: Cast, change: Change) -> None:
    before = head().version
    change(cast)
    assert head().version > before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jit_identity_user SET is_active = is_active WHERE username = 'anna'",
        "UPDATE jit_identity_agent SET enabled = enabled",
        "UPDATE jit_catalog_tool SET access = 'write' WHERE name = 'git_log'",
        "UPDATE jit_policy_rolebinding SET ended_at = starts_at",
        "DELETE FROM jit_policy_rolebinding",
        "DELETE FROM jit_policy_serveraccess_teams",
        "DELETE FROM jit_identity_team_members",
        "INSERT INTO jit_identity_agent_users (agent_id, user_id) SELECT jit_identity_agent.id, jit_identity_user.id "
        "FROM jit_identity_agent, jit_identity_user",
    ],
)
def test_so_does_sql_that_passes_by_this_product(cast: Cast, statement: str) -> None:
    before = head().version
    with connection.cursor() as cursor:
        cursor.execute(statement)
        assert cursor.rowcount > 0
    assert head().version > before


def test_what_no_decision_depends_on_leaves_the_version_alone(cast: Cast, clock: Clock) -> None:
    grant = cast.grant("git_commit", seconds=60)
    before = head().version
    update_last_login(None, cast.anna)
    issue_token(agent=cast.agent, ttl=60, operator=OPERATOR)
    cast.submit("git_add")
    clock.shift(120)
    assert not cast.verdict("git_commit").allowed, "the grant has expired, without a write"
    assert head().version == before
    assert grant.ended_at is None


def test_an_early_end_raises_the_version(cast: Cast) -> None:
    grant = cast.grant("git_commit")
    before = head().version
    release_grant(grant_id=grant.pk, principal=cast.principal())
    assert head().version > before


def test_a_change_that_is_rolled_back_does_not(cast: Cast) -> None:
    class Undo(Exception):
        pass

    before = head().version
    with pytest.raises(Undo), transaction.atomic():
        _new_binding(cast)
        raise Undo
    assert head().version == before
    with transaction.atomic():
        with pytest.raises(Undo), transaction.atomic():
            _new_binding(cast)
            raise Undo
        cast.agent.users.add(cast.anna)
    assert head().version > before, "the savepoint that was undone must not swallow the change after it"


def test_one_transaction_raises_it_once_on_postgresql(cast: Cast, postgresql: bool) -> None:
    before = head().version
    with transaction.atomic():
        for user in (cast.anna, cast.bert, cast.carl):
            cast.agent.users.add(user)
        _new_binding(cast)
    if postgresql:
        assert head().version == before + 1
    else:  # once a row: SQLite has no deferred triggers, and one writer at a time
        assert head().version == before + 4


@pytest.mark.postgresql_only
def test_what_a_row_changed_is_written_down_without_reading_what_the_others_did(cast: Cast) -> None:
    """Else a transaction of 30,000 rows takes minutes to commit."""
    one, rows = _new_binding(cast), 300
    values = {field.attname: getattr(one, field.attname) for field in RoleBinding._meta.concrete_fields}
    with transaction.atomic(), connection.cursor() as cursor:
        RoleBinding.objects.bulk_create(RoleBinding(**values | {"id": uuid7()}) for _ in range(rows))
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(
            "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0), n_tup_ins FROM pg_stat_xact_user_tables "
            "WHERE relname = 'jit_policy_policychange'"
        )
        read, written = cursor.fetchone()
    assert written >= rows
    assert read < 10 * rows


def test_checks_forced_in_the_middle_of_a_transaction_swallow_nothing(cast: Cast) -> None:
    before = head().version
    with transaction.atomic():
        cast.agent.users.add(cast.anna)
        connection.check_constraints()  # fires the deferred triggers now
        _new_binding(cast)
    assert head().version > before


def test_every_table_that_the_compiler_reads_has_triggers(cast: Cast, postgresql: bool) -> None:
    cast.grant("git_commit")
    with CaptureQueriesContext(connection) as queries:
        compile_snapshot()
    read = {table for query in queries for table in re.findall(r'(?:FROM|JOIN) "(\w+)"', query["sql"])}
    assert "jit_policy_rolebinding" in read
    catalogue = (
        "SELECT c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE t.tgname LIKE '%%_bump'"
        if postgresql
        else "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger' AND name LIKE '%%_bump_%%' "
        "GROUP BY tbl_name HAVING count(*) = 3"
    )
    with connection.cursor() as cursor:
        cursor.execute(catalogue, [])
        watched = {row[0] for row in cursor.fetchall()}
    # Uses are asked for at each decision: counting them never raises the version.
    assert read - watched <= {"jit_policy_policyversion", "jit_policy_bindinguse"}


def test_the_store_reads_again_only_for_a_newer_version(cast: Cast) -> None:
    store = SnapshotStore()
    first = store.current
    assert store.catch_up(head()) is first
    _new_binding(cast)
    assert store.current is first, "it is told of newer versions, it does not look for them"
    second = store.catch_up(head())
    assert second.version == head().version > first.version


def test_the_snapshot_remembers_an_ended_grant_for_a_day(cast: Cast, clock: Clock) -> None:
    cast.grant("git_commit", seconds=60)
    clock.shift(3600)
    assert cast.verdict("git_commit").code == "expired"
    clock.shift(timedelta(hours=24).total_seconds())
    assert cast.verdict("git_commit").code == "no_binding"
