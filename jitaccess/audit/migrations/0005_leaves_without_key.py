"""A leaf's entry is no foreign key of the database any more: its check cost a read and a lock of every entry that was
placed, and entries cannot go anyway (triggers). `audit verify` says when one has.

On SQLite the table stays as it is: to change it is to make it anew, which would lose its triggers.
"""

from __future__ import annotations

import time
from typing import Any

import django.db.models.deletion
from django.db import OperationalError, migrations, models, transaction

TRIES = 60


def drop(apps: Any, schema_editor: Any) -> None:
    """Takes no time, but a lock of both tables, for which it waits behind every reader, and every writer behind it: so
    it lets them pass after a second and tries again. Raises OperationalError when readers leave no gap.
    """
    connection = schema_editor.connection
    if connection.vendor != "postgresql":
        return
    for left in reversed(range(TRIES)):
        try:
            with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '1s'")
                cursor.execute(
                    "SELECT quote_ident(conname) FROM pg_constraint WHERE conrelid = 'jit_audit_leaf'::regclass AND contype = 'f'"
                )
                for (name,) in cursor.fetchall():
                    cursor.execute(f"ALTER TABLE jit_audit_leaf DROP CONSTRAINT {name}")
        except OperationalError:
            if not left:
                raise
            time.sleep(1)
        else:
            return


class Migration(migrations.Migration):
    dependencies = [
        ("jit_audit", "0004_kept_answers"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AlterField(
                    model_name="leaf",
                    name="entry",
                    field=models.OneToOneField(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="leaf",
                        to="jit_audit.entry",
                    ),
                ),
            ],
            database_operations=[migrations.RunPython(drop, migrations.RunPython.noop)],
        ),
    ]
