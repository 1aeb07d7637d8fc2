"""What a role said at one version is kept by the database itself."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction

from jitaccess.policy.compiler import head
from jitaccess.policy.models import Role, RoleBinding, RoleVersion
from jitaccess.policy.services import save_role
from tests.cast import OPERATOR, READ_ONLY, Cast

pytestmark = pytest.mark.django_db
TABLE = "jit_policy_roleversion"
EVERYWHERE = [
    f"UPDATE {TABLE} SET document = 'x'",
    f"UPDATE {TABLE} SET saved_by = 'mallory'",
    f"UPDATE {TABLE} SET version = version + 1",
    f"DELETE FROM {TABLE}",
]
POSTGRESQL = [
    f"TRUNCATE {TABLE}",
    f"INSERT INTO {TABLE} SELECT * FROM {TABLE} ON CONFLICT (id) DO UPDATE SET document = 'x'",
]
SQLITE = [
    f"INSERT OR REPLACE INTO {TABLE} SELECT * FROM {TABLE}",
    f"INSERT OR REPLACE INTO {TABLE} (role_id, version, document, saved_by, saved_at) "
    f"SELECT role_id, version, 'x', saved_by, saved_at FROM {TABLE}",
    f"UPDATE OR REPLACE {TABLE} SET id = id + 1",
]


def test_the_database_refuses_every_change_of_what_a_role_said(cast: Cast, postgresql: bool) -> None:
    save_role(document=READ_ONLY + "  deny: []\n", role=cast.read_only, operator=OPERATOR)
    before = list(RoleVersion.objects.values())
    connection.check_constraints()  # nothing deferred is left: PostgreSQL would refuse TRUNCATE for that alone
    with connection.cursor() as cursor:
        if not postgresql:
            cursor.execute("PRAGMA recursive_triggers=OFF")  # as other programs have it
        try:
            for statement in EVERYWHERE + (POSTGRESQL if postgresql else SQLITE):
                with pytest.raises(IntegrityError), transaction.atomic():
                    cursor.execute(statement)
                assert list(RoleVersion.objects.values()) == before, statement
        finally:
            if not postgresql:
                cursor.execute("PRAGMA recursive_triggers=ON")
    assert len(before) == 2


def test_they_are_kept_when_their_bindings_have_ended(cast: Cast) -> None:
    RoleBinding.objects.update(ended_at=cast.agent.created_at)
    with pytest.raises(IntegrityError), transaction.atomic():
        RoleVersion.objects.all().delete()
    assert RoleVersion.objects.count() == 1


def test_a_role_that_nobody_had_goes_with_its_versions(cast: Cast) -> None:
    spare = save_role(document=READ_ONLY.replace("read-only", "spare"), operator=OPERATOR)
    before = head().version
    spare.delete()
    assert list(Role.objects.values_list("name", flat=True)) == ["read-only"]
    assert RoleVersion.objects.get().role == cast.read_only
    connection.check_constraints()  # fires what is deferred
    assert head().version > before
