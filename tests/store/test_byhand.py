"""Statements by hand: the same texts go in and out, and one that fails leaves the others usable."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction

from jitaccess.policy.models import PolicyVersion
from jitaccess.store import byhand
from jitaccess.store.models import ClockJump

NASTY = ["", 'a"b', "back\\slash", "{}", "NULL", "comma, brace}", "ü ✓ \u2028", "'; DROP TABLE x; --", "\\"]


@pytest.mark.pure
def test_an_array_literal_says_null_only_where_nothing_was_given() -> None:
    assert byhand.array(["a", None, 7], quoted=False) == "{a,NULL,7}"
    assert byhand.array(["NULL", ""], quoted=True) == '{"NULL",""}'
    assert byhand.array([""], quoted=True) == '{""}'
    assert byhand.array([], quoted=True) == byhand.array([], quoted=False) == "{}"


@pytest.mark.django_db(transaction=True)
def test_texts_come_back_as_they_went_in(postgresql: bool) -> None:
    with transaction.atomic(), byhand.round_trip():
        if postgresql:
            found = byhand.execute("SELECT unnest($1::text[])", (byhand.array(NASTY, quoted=True),))
        else:
            found = byhand.execute("VALUES " + ", ".join("(?)" for _ in NASTY), NASTY)
    assert [text for (text,) in found.rows] == NASTY
    assert found.count == len(NASTY)


@pytest.mark.django_db(transaction=True)
def test_what_fails_takes_its_transaction_with_it_and_nothing_else(postgresql: bool) -> None:
    table = ClockJump._meta.db_table
    count, missing = f"SELECT count(*) FROM {table}", "INSERT INTO jit_store_clockjump (id) VALUES (NULL)"
    version = f"UPDATE {PolicyVersion._meta.db_table} SET stamp = 'by hand'"
    for _ in range(3):
        with pytest.raises(IntegrityError), transaction.atomic(), byhand.round_trip():
            byhand.execute(version)
            byhand.execute(missing)
            byhand.execute(count)
            if postgresql:
                byhand.commit()
        assert not PolicyVersion.objects.filter(stamp="by hand").exists()
        with transaction.atomic():
            assert byhand.execute(count).rows == [("0" if postgresql else 0,)]
    with pytest.raises(DatabaseError), transaction.atomic():
        byhand.execute("no such statement")
    with transaction.atomic(), byhand.round_trip():
        changed = byhand.execute(version)
        if postgresql:
            byhand.commit()
    assert changed.count == 1
    assert PolicyVersion.objects.get().stamp == "by hand"


@pytest.mark.django_db(transaction=True)
def test_djangos_own_statements_see_what_was_written_by_hand_and_undo_it() -> None:
    with transaction.atomic():
        byhand.execute(f"UPDATE {PolicyVersion._meta.db_table} SET stamp = 'inside'")
        assert PolicyVersion.objects.get().stamp == "inside"
        transaction.set_rollback(True)
    assert PolicyVersion.objects.get().stamp != "inside"
    assert not connection.in_atomic_block


@pytest.mark.django_db(transaction=True)
def test_an_error_of_a_session_that_is_gone_is_told_from_one_of_a_statement(postgresql: bool) -> None:
    with pytest.raises(DatabaseError) as wrong, transaction.atomic():
        byhand.execute("no such statement")
    assert not byhand.is_lost(wrong.value)
    if postgresql:
        raw = connection.connection
        with type(raw).connect(**connection.get_connection_params(), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [raw.info.backend_pid])
        with pytest.raises(OperationalError) as gone, transaction.atomic():
            byhand.execute("SELECT pg_sleep(5)")
        assert byhand.is_lost(gone.value)
        connection.close()
    with transaction.atomic():
        assert byhand.execute("SELECT 1").count == 1
