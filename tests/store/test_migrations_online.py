"""Migrations run while the processes of the release before go on: no long lock, and nothing that old code trips over.

Said in docs/guides/run-in-production.md, "Upgrade".
"""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.migrations.loader import MigrationLoader

from jitaccess.policy.models import RoleBinding

pytestmark = pytest.mark.pure

# Tables that grow with use: to build an index or to check every row takes longer than a write may wait.
GROWING = {
    ("jit_audit", name) for name in ("entry", "leaf", "node", "checkpoint", "unsequenced", "bundle")
} | {
    ("jit_requests", "accessrequest"), ("jit_requests", "decision"), ("jit_requests", "grant"),
    ("jit_policy", "rolebinding"), ("jit_policy", "policychange"), ("jit_identity", "accesstoken"),
    ("jit_gateway", "opencall"), ("jit_gateway", "refusalcount"), ("jit_notify", "delivery"),
}  # fmt: skip
# Two releases: first nobody uses it any more, then it goes.
TAKES_AWAY = (migrations.RemoveField, migrations.RenameField, migrations.DeleteModel, migrations.RenameModel)
REWRITES = (migrations.AlterModelTable, migrations.AlterUniqueTogether, migrations.AlterIndexTogether)
# Made before anybody had rows in these tables.
BEFORE_THE_FIRST_RELEASE = {
    ("jit_identity", "0003_revoked_tokens"),
    ("jit_audit", "0002_partial_indexes"),
    ("jit_gateway", "0004_lean_open_calls"),
    ("jit_policy", "0003_uses_and_changes"),
    ("jit_policy", "0004_approval_documents"),
    ("jit_policy", "0005_policies_are_documents"),
    ("jit_policy", "0006_lists_at_scale"),
    ("jit_policy", "0007_changes_by_what_they_are"),
    ("jit_requests", "0003_whole_workflow"),
    ("jit_requests", "0005_plans_instead_of_groups"),
    ("jit_requests", "0006_lists_at_scale"),
    ("jit_requests", "0007_lists_of_the_few"),
}


def complaint(app: str, operation: Any, *, atomic: bool) -> str:
    """What is wrong with an operation of a migration that is not the first of its app, "" for nothing.

    What RunPython does is not seen here: jit_audit.0005, which takes a lock, has tests/audit/test_upgrade.py.
    """
    if isinstance(operation, migrations.SeparateDatabaseAndState):  # the database hears of one half only
        told = (complaint(app, one, atomic=atomic) for one in operation.database_operations)
        return next(filter(None, told), "")
    if isinstance(operation, TAKES_AWAY):
        return "old code still asks for it"
    table = (app, str(getattr(operation, "model_name", "") or getattr(operation, "name", "")).lower())
    if table not in GROWING:
        return ""
    if isinstance(operation, migrations.AddField):
        return _of_field(operation.field)
    if isinstance(operation, migrations.AddIndex) and not isinstance(operation, AddIndexConcurrently):
        return "AddIndexConcurrently, in a migration of its own with atomic = False"
    if isinstance(operation, AddIndexConcurrently) and atomic:
        return "atomic = False"
    if isinstance(operation, migrations.AlterField) and operation.field.is_relation:
        return "its constraint comes or goes under a lock of both tables, with everybody behind it"
    if isinstance(operation, migrations.AddConstraint):
        return "it reads every row under a lock: AddConstraintNotValid, then ValidateConstraint"
    if isinstance(operation, REWRITES):
        return "it rewrites the table"
    return ""


def _of_field(field: Any) -> str:
    if callable(field.default) and field.default is not models.NOT_PROVIDED:
        return "a default that is computed for each row rewrites the table"
    if not field.null and field.db_default is models.NOT_PROVIDED and not field.many_to_many:
        return "old code inserts rows without it: null=True or db_default"
    if field.unique or field.db_index:
        return "its index is built under a lock: AddIndexConcurrently in a migration of its own"
    return ""


def test_every_migration_can_run_under_load() -> None:
    loader = MigrationLoader(None)
    ours = {key: one for key, one in loader.disk_migrations.items() if key[0].startswith("jit_")}
    assert {("jit_requests", "0001_initial"), ("jit_audit", "0001_initial")} <= set(ours)
    known = {(app, model) for app, model in loader.project_state().models if app.startswith("jit_")}
    assert known >= GROWING
    found = [
        f"{app}.{name}: {operation.describe()}: {said}"
        for (app, name), migration in ours.items()
        if not migration.initial and not name.startswith("0001") and (app, name) not in BEFORE_THE_FIRST_RELEASE
        for operation in migration.operations
        if (said := complaint(app, operation, atomic=migration.atomic))
    ]
    assert found == []


INDEX = models.Index(fields=["expires_at"], name="x")
CHECK = models.CheckConstraint(condition=models.Q(), name="x")


@pytest.mark.parametrize(
    ("operation", "fine"),
    [
        (migrations.AddField("entry", "x", models.IntegerField(null=True)), True),
        (migrations.AddField("entry", "x", models.IntegerField(db_default=0)), True),
        (migrations.AddField("entry", "x", models.IntegerField(default=0)), False),
        (migrations.AddField("entry", "x", models.UUIDField(null=True, default=RoleBinding)), False),
        (migrations.AddField("entry", "x", models.IntegerField(null=True, db_index=True)), False),
        (migrations.AddField("small", "x", models.IntegerField(default=0)), True),
        (migrations.AddIndex("entry", INDEX), False),
        (migrations.AddIndex("small", INDEX), True),
        (AddIndexConcurrently("entry", INDEX), False),  # in a transaction
        (migrations.AddConstraint("entry", CHECK), False),
        (migrations.AlterField("entry", "x", models.TextField(choices=[])), True),
        (migrations.AlterField("entry", "x", models.ForeignKey("small", models.PROTECT, db_constraint=False)), False),
        (migrations.SeparateDatabaseAndState([migrations.AddConstraint("entry", CHECK)]), False),
        (migrations.SeparateDatabaseAndState([], [migrations.AddConstraint("entry", CHECK)]), True),
        (migrations.RemoveField("small", "x"), False),
        (migrations.RenameField("small", "x", "y"), False),
        (migrations.DeleteModel("small"), False),
        (migrations.CreateModel("small", []), True),
    ],
)
def test_what_locks_for_long_or_takes_away_is_found(operation: Any, fine: bool) -> None:
    assert (complaint("jit_audit", operation, atomic=True) == "") is fine
    assert complaint("jit_audit", AddIndexConcurrently("entry", INDEX), atomic=False) == ""
