from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import Agent, User
from jitaccess.identity.services import set_agent_enabled
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.models import RoleBinding
from jitaccess.store.clock import now
from requests_app.lifecycle import EndReason
from requests_app.models import AccessRequest, Decision, Grant
from requests_app.services import end_grant, give_back, release_grant, revoke_grant
from requests_app.tasks import end_due_grants, end_grants_of_disabled, lapse_requests
from tests.cast import OPERATOR, Cast
from tests.clocks import Clock
from tests.requests_app.ledger import gains, refused

pytestmark = pytest.mark.django_db


def ended(grant: Grant) -> tuple[str, bool, bool]:
    """Why it ended, whether its binding was ended early, and whether it is over."""
    grant.refresh_from_db()
    binding = RoleBinding.objects.get(origin_id=grant.pk)
    return grant.end_reason, binding.ended_at is not None, grant.ended_at is not None


def test_released_by_its_holder_it_ends_at_once(cast: Cast) -> None:
    grant = cast.grant()
    assert cast.verdict("git_commit").allowed
    with gains("grant.released"):
        release_grant(grant_id=grant.pk, principal=cast.principal())
    assert cast.verdict("git_commit").code == "revoked"
    assert ended(grant) == ("released", True, True)
    with refused("grant.ended", "was released by demo-agent at"):
        release_grant(grant_id=grant.pk, principal=cast.principal())


def test_whoever_counts_as_the_requester_gives_it_back_in_their_own_name(cast: Cast) -> None:
    grant = cast.grant()
    for other in (cast.anna, cast.carl):
        with refused("grant.unknown"):
            give_back(grant_id=grant.pk, user=other)
    with gains("grant.released"):
        give_back(grant_id=grant.pk, user=cast.olga, source="127.0.0.1")
    assert ended(grant) == (EndReason.RELEASED, True, True)
    entry = Entry.objects.get(event="grant.released")
    assert (entry.user, entry.agent, entry.source) == (cast.olga.pk, None, "127.0.0.1")
    with refused("grant.ended"):
        give_back(grant_id=grant.pk, user=cast.olga)


def test_a_foreign_grant_cannot_be_released(cast: Cast) -> None:
    grant = cast.grant()
    other = Agent.objects.create(name="other", owner=cast.olga, team=cast.team)
    for principal in (cast.principal(other), cast.principal(user=cast.olga)):
        with refused("grant.unknown"):
            release_grant(grant_id=grant.pk, principal=principal)
    assert cast.verdict("git_commit").allowed


@pytest.mark.parametrize("who", ["anna", "bert", "olga", "admin"])
def test_an_approver_the_owner_or_an_admin_revokes_at_once(cast: Cast, who: str) -> None:
    grant = cast.grant()
    with gains("grant.revoked"):
        revoke_grant(grant_id=grant.pk, user=getattr(cast, who), note="enough\0", source="127.0.0.1")
    assert cast.verdict("git_commit").code == "revoked"
    assert ended(grant) == ("revoked", True, True)
    assert (grant.ended_by_name, grant.end_note) == (who, "enough\\u{0}")
    entry = Entry.objects.get(event="grant.revoked")
    assert (entry.user_name, entry.request, entry.grant, entry.source) == (who, grant.request_id, grant.pk, "127.0.0.1")


def test_others_cannot_revoke(cast: Cast) -> None:
    grant = cast.grant()
    with refused("grant.unknown"):
        revoke_grant(grant_id=grant.pk, user=cast.carl)
    with refused("grant.unknown"):
        revoke_grant(grant_id=uuid7(), user=cast.admin)
    cast.team.members.add(cast.carl)
    with refused("grant.not_yours"):
        revoke_grant(grant_id=grant.pk, user=cast.carl)
    assert cast.verdict("git_commit").allowed


def test_what_the_clock_has_ended_cannot_be_ended_otherwise(cast: Cast, clock: Clock) -> None:
    grant = cast.grant(seconds=60)
    clock.shift(61)
    with refused("grant.ended", "expired at"):
        release_grant(grant_id=grant.pk, principal=cast.principal())
    with refused("grant.ended", "expired at"):
        revoke_grant(grant_id=grant.pk, user=cast.anna)


def test_what_is_live_cannot_be_called_expired(cast: Cast) -> None:
    grant = cast.grant()
    with refused("grant.ended", "is live"):
        end_grant(grant_id=grant.pk, reason=EndReason.EXPIRED, actor=Actor.system("expiry"), by="")
    assert cast.verdict("git_commit").allowed


def test_a_very_long_name_can_release_too(cast: Cast) -> None:
    user = User.objects.create_user(username="u" * 150)
    cast.agent.users.add(user)
    cast.team.members.add(user)
    principal = cast.principal(user=user)
    grant = cast.grant(principal=principal)
    assert release_grant(grant_id=grant.pk, principal=principal).ended_by_name.endswith("…")


def test_an_agent_that_is_disabled_is_refused_at_once_and_its_grants_end_in_the_sweep(cast: Cast) -> None:
    grant, other = cast.grant(), cast.grant("git_add", principal=cast.principal(user=cast.olga))
    set_agent_enabled(agent=cast.agent, enabled=False, operator=OPERATOR)
    assert cast.verdict("git_commit").code == "locked_down"
    with gains("grant.subject_disabled", "grant.subject_disabled"):
        assert end_grants_of_disabled() == 2
    with gains():
        assert end_grants_of_disabled() == 0
    set_agent_enabled(agent=cast.agent, enabled=True, operator=OPERATOR)
    assert cast.verdict("git_commit").code == "revoked", "enabled again, it does not come back"
    assert ended(grant) == ended(other) == ("subject_disabled", True, True)


def test_so_do_those_of_a_user_who_is_gone_and_of_an_agent_whose_owner_is(cast: Cast) -> None:
    for_olga, alone = cast.grant(principal=cast.principal(user=cast.olga)), cast.grant("git_add")
    User.objects.filter(pk=cast.olga.pk).update(is_active=False)
    assert cast.verdict("git_add").code == "locked_down", "nobody answers for this agent any more"
    with gains("grant.subject_disabled", "grant.subject_disabled"):
        assert end_grants_of_disabled() == 2
    assert ended(for_olga)[0] == ended(alone)[0] == "subject_disabled"
    User.objects.filter(pk=cast.olga.pk).update(is_active=True)
    assert cast.verdict("git_add").code == "revoked", "back again, their grants are not"


def test_an_expiry_is_written_down_once(cast: Cast, clock: Clock) -> None:
    grant, live = cast.grant(seconds=60), cast.grant("git_add", seconds=600)
    with gains():
        assert end_due_grants() == 0
    clock.shift(90)
    with gains("grant.expired"):
        assert end_due_grants() == 1
    with gains():
        assert end_due_grants() == 0
    assert ended(grant) == ("expired", False, True)
    assert grant.ended_at == grant.expires_at, "when it was over, not when the sweep came by"
    assert ended(live) == ("", False, False)
    entry = Entry.objects.get(event="grant.expired")
    assert (entry.user_name, entry.grant) == ("system:expiry", grant.pk)


def test_a_request_lapses_once(cast: Cast, clock: Clock) -> None:
    request = cast.submit()
    with gains():
        assert lapse_requests() == 0
    clock.shift(3601)
    late = cast.submit("git_add")
    with gains("request.expired"):
        assert lapse_requests() == 1
    with gains():
        assert lapse_requests() == 0
    request.refresh_from_db()
    late.refresh_from_db()
    assert (request.status, late.status) == ("expired", "pending")


def test_one_bad_row_does_not_stop_a_sweep(
    cast: Cast, clock: Clock, postgresql: bool, caplog: pytest.LogCaptureFixture
) -> None:
    grants = [cast.grant(tool, seconds=60) for tool in ("git_commit", "git_add", "git_reset")]
    bad = grants[0].pk
    with connection.cursor() as cursor:
        if postgresql:
            cursor.execute(
                "CREATE FUNCTION jit_test_fault() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'a fault of this test'; END $$"
            )
            cursor.execute(
                f"CREATE TRIGGER jit_test_fault BEFORE UPDATE ON jit_requests_grant FOR EACH ROW "
                f"WHEN (NEW.id = '{bad}') EXECUTE FUNCTION jit_test_fault()"
            )
        else:
            cursor.execute(
                f"CREATE TRIGGER jit_test_fault BEFORE UPDATE ON jit_requests_grant WHEN NEW.id = '{bad.hex}' "
                "BEGIN SELECT RAISE(ABORT, 'a fault of this test'); END"
            )
    clock.shift(90)
    with gains("grant.expired", "grant.expired"):
        assert end_due_grants() == 2
    assert [ended(grant)[0] for grant in grants] == ["", "expired", "expired"]
    assert str(bad) in caplog.text
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER jit_test_fault" + (" ON jit_requests_grant" if postgresql else ""))
    with gains("grant.expired"):
        assert end_due_grants() == 1


REQUEST, GRANT, DECISION = "jit_requests_accessrequest", "jit_requests_grant", "jit_requests_decision"


@pytest.mark.parametrize(
    "statement",
    [
        *(
            f"UPDATE {REQUEST} SET {change}"
            for change in ("seconds = 1", "items = '[]'", "reason = 'x'", "groups = '[]'")
        ),
        *(f"UPDATE {REQUEST} SET {change}" for change in ("digest = 'x'", "principal_key = 'x'", "policy_name = 'x'")),
        f"UPDATE {REQUEST} SET status = 'pending', closed_at = NULL",
        f"UPDATE {REQUEST} SET status = 'denied'",
        f"UPDATE {REQUEST} SET closed_by_name = 'mallory'",
        f"DELETE FROM {REQUEST}",
        f"UPDATE {GRANT} SET ended_at = NULL, end_reason = ''",
        f"UPDATE {GRANT} SET end_reason = 'expired'",
        f"UPDATE {GRANT} SET expires_at = '2099-01-01 00:00:00'",
        f"UPDATE {GRANT} SET user_id = (SELECT id FROM jit_identity_user WHERE username = 'carl')",
        f"DELETE FROM {GRANT}",
        *(
            f"UPDATE {DECISION} SET {change}"
            for change in ("verdict = 'deny'", "reason = 'x'", "channel = 'x'", "digest = 'x'")
        ),
        f"UPDATE {DECISION} SET user_id = (SELECT id FROM jit_identity_user WHERE username = 'carl')",
        f"DELETE FROM {DECISION}",
    ],
)
def test_the_database_keeps_what_was_asked_decided_and_ended(cast: Cast, statement: str) -> None:
    release_grant(grant_id=cast.grant().pk, principal=cast.principal())
    rows = [list(model.objects.values()) for model in (AccessRequest, Grant, Decision)]
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert [list(model.objects.values()) for model in (AccessRequest, Grant, Decision)] == rows


@pytest.mark.parametrize("table", [REQUEST, GRANT, DECISION])
def test_nor_can_they_be_emptied_or_replaced(cast: Cast, postgresql: bool, table: str) -> None:
    cast.grant()
    statement = f"TRUNCATE {table} CASCADE" if postgresql else f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}"
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert Grant.objects.count() == Decision.objects.count() == AccessRequest.objects.count() == 1


def refused_by_the_database(statement: str) -> None:
    rows = [list(model.objects.order_by("pk").values()) for model in (AccessRequest, Grant, Decision)]
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert [list(model.objects.order_by("pk").values()) for model in (AccessRequest, Grant, Decision)] == rows


def test_a_pending_request_cannot_be_rewritten_either(cast: Cast) -> None:
    cast.submit()
    for change in ("seconds = 14400", "pending_until = '2099-01-01 00:00:00'", "user_id = agent_id"):
        refused_by_the_database(f"UPDATE {REQUEST} SET {change}")


def test_how_it_ended_is_written_with_the_end_only(cast: Cast) -> None:
    cast.submit("git_add")
    cast.grant()
    for change in ("closed_by_name = 'anna'", "closing_note = 'x'", "closed_at = created_at"):
        refused_by_the_database(f"UPDATE {REQUEST} SET {change} WHERE status = 'pending'")
    for change in ("ended_by_name = 'anna'", "end_note = 'x'"):
        refused_by_the_database(f"UPDATE {GRANT} SET {change}")


def test_a_live_grant_is_not_prolonged_by_hand(cast: Cast) -> None:
    cast.grant()
    refused_by_the_database(f"UPDATE {GRANT} SET expires_at = '2099-01-01 00:00:00'")


def _replacing(model: Any, **changed: str) -> str:
    """INSERT OR REPLACE of a row by a copy of itself, with SQL expressions for some columns."""
    table = model._meta.db_table
    columns = [field.column for field in model._meta.concrete_fields] + [name for name in changed if name == "rowid"]
    values = ", ".join(changed.get(name, f'"{name}"') for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    return f"INSERT OR REPLACE INTO {table} ({names}) SELECT {values} FROM {table}"


def test_replacing_is_refused_on_a_connection_that_never_heard_of_us(cast: Cast, postgresql: bool) -> None:
    """recursive_triggers is off in other programs: then REPLACE deletes without firing DELETE triggers."""
    cast.grant("git_add")
    fresh = f"'{uuid7().hex}'"
    if postgresql:  # the nearest thing
        for table in (REQUEST, GRANT, DECISION):
            refused_by_the_database(
                f"INSERT INTO {table} SELECT * FROM {table} ON CONFLICT (id) DO UPDATE SET id = '{uuid7()}'"
            )
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA recursive_triggers=OFF")
        try:
            for model in (AccessRequest, Grant, Decision):
                refused_by_the_database(_replacing(model))
                refused_by_the_database(_replacing(model, id=fresh, rowid="rowid"))
            refused_by_the_database(_replacing(Grant, id=fresh, expires_at="'2099-01-01 00:00:00'"))
            refused_by_the_database(_replacing(Decision, id=fresh, verdict="'deny'"))
            cast.submit("git_commit")
            refused_by_the_database(f"{_replacing(AccessRequest, id=fresh)} WHERE status = 'pending'")
            refused_by_the_database(
                f"UPDATE OR REPLACE {REQUEST} SET rowid = (SELECT min(rowid) FROM {REQUEST}) WHERE status = 'pending'"
            )
        finally:
            cursor.execute("PRAGMA recursive_triggers=ON")


def test_the_database_refuses_rows_that_no_code_should_make(cast: Cast) -> None:
    grant = cast.grant()
    values = Grant.objects.filter(pk=grant.pk).values().get()
    with pytest.raises(DatabaseError), transaction.atomic():
        Grant.objects.create(**(values | {"id": uuid7()}))
    with pytest.raises(DatabaseError), transaction.atomic():
        Grant.objects.filter(pk=grant.pk).update(ended_at=now())
    with pytest.raises(DatabaseError), transaction.atomic():
        Grant.objects.filter(pk=grant.pk).update(expires_at=grant.starts_at - timedelta(seconds=1))
    decision = Decision.objects.values().get()
    with pytest.raises(DatabaseError), transaction.atomic():
        Decision.objects.create(**(decision | {"id": uuid7()}))
