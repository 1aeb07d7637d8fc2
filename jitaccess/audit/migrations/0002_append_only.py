"""The database itself refuses to change the ledger, and queues every new entry for the sequencer."""

from __future__ import annotations

from typing import Any

from django.db import migrations

TABLES = ("jit_audit_entry", "jit_audit_leaf")

POSTGRESQL = [
    """
    CREATE FUNCTION jit_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the ledger is append-only: % on % refused', TG_OP, TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; END $$
    """,
    """
    CREATE FUNCTION jit_audit_enqueue() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO jit_audit_unsequenced (entry_id) VALUES (NEW.uid); RETURN NULL; END $$
    """,
    "CREATE TRIGGER jit_audit_entry_enqueue AFTER INSERT ON jit_audit_entry FOR EACH ROW EXECUTE FUNCTION jit_audit_enqueue()",
    *(
        f"CREATE TRIGGER {table}_{kind} BEFORE {verb} ON {table} FOR EACH {level} EXECUTE FUNCTION jit_audit_refuse()"
        for table in TABLES
        for kind, verb, level in (("frozen", "UPDATE OR DELETE", "ROW"), ("kept", "TRUNCATE", "STATEMENT"))
    ),
]
# INSERT OR REPLACE deletes the old row without firing DELETE triggers (unless recursive_triggers is on in the
# connection that does it), hence the BEFORE INSERT triggers. rowid: REPLACE collides on it as well as on the key.
SQLITE = [
    """
    CREATE TRIGGER jit_audit_entry_enqueue AFTER INSERT ON jit_audit_entry
    BEGIN INSERT INTO jit_audit_unsequenced (entry_id) VALUES (NEW.uid); END
    """,
    """
    CREATE TRIGGER jit_audit_entry_replaced BEFORE INSERT ON jit_audit_entry
    WHEN EXISTS (SELECT 1 FROM jit_audit_entry WHERE uid = NEW.uid OR rowid = NEW.rowid)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: REPLACE on jit_audit_entry refused'); END
    """,
    """
    CREATE TRIGGER jit_audit_leaf_replaced BEFORE INSERT ON jit_audit_leaf
    WHEN EXISTS (SELECT 1 FROM jit_audit_leaf WHERE seq = NEW.seq OR entry_id = NEW.entry_id OR rowid = NEW.rowid)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: REPLACE on jit_audit_leaf refused'); END
    """,
    *(
        f"""
        CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table}
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: {verb} on {table} refused'); END
        """
        for table in TABLES
        for verb in ("UPDATE", "DELETE")
    ),
]


def create(apps: Any, schema_editor: Any) -> None:
    for statement in POSTGRESQL if schema_editor.connection.vendor == "postgresql" else SQLITE:
        schema_editor.execute(statement, params=None)  # no placeholders in it: a % is a %


class Migration(migrations.Migration):
    # No way back: undoing this would be undoing the ledger's promise.
    dependencies = [("jit_audit", "0001_initial")]
    operations = [migrations.RunPython(create)]
