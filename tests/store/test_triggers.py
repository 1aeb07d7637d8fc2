"""Triggers are there as promised, and fire, or nothing starts."""

from __future__ import annotations

import pytest
from django.db import connection

from jitaccess.policy.compiler import head
from jitaccess.policy.triggers import promise
from jitaccess.store.triggers import install, missing

pytestmark = pytest.mark.django_db(transaction=True)


def _run(*statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def test_all_are_there() -> None:
    assert missing(connection) == []


def test_a_trigger_with_another_text_is_missed_and_renewed_and_the_version_is_raised(postgresql: bool) -> None:
    name, table = ("jit_policy_role_bump", "jit_policy_role") if postgresql else ("jit_policy_role_bump_insert", "")
    if postgresql:
        _run(
            f"DROP TRIGGER {name} ON {table}",
            f"CREATE TRIGGER {name} AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION jit_policy_bump('role', 'id')",
        )
    else:
        _run(f"DROP TRIGGER {name}", f"CREATE TRIGGER {name} AFTER INSERT ON jit_policy_role BEGIN SELECT 1; END")
    assert missing(connection) == [name]
    before = head()
    install(connection, promise(connection.vendor))
    assert missing(connection) == []
    assert head().version == before.version + 1
    assert head().stamp != before.stamp
    install(connection, promise(connection.vendor))
    assert head().version == before.version + 1, "nothing was renewed"


@pytest.mark.postgresql_only
@pytest.mark.parametrize(
    ("spoil", "lacking"),
    [
        ("ALTER TABLE jit_policy_role ENABLE REPLICA TRIGGER jit_policy_role_bump", "jit_policy_role_bump"),
        ("ALTER TABLE jit_policy_role DISABLE TRIGGER jit_policy_role_bump", "jit_policy_role_bump"),
        (
            "CREATE OR REPLACE FUNCTION jit_policy_bump() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RETURN NULL; END $$",
            "jit_policy_bump",
        ),
    ],
)
def test_one_that_does_not_fire_or_does_nothing_is_missed(spoil: str, lacking: str) -> None:
    try:
        _run(spoil)
        assert missing(connection) == [lacking]
    finally:
        install(connection, promise(connection.vendor))
    assert missing(connection) == []
