"""The database itself keeps what was asked as it was asked, and what is final final."""

from __future__ import annotations

from typing import Any

from django.db import migrations

ASKED = (
    "id", "agent_id", "user_id", "issued_by_id", "principal_key", "client", "items", "reason", "context", "seconds", "groups",
    "policy_name", "digest", "dedupe_digest", "created_at", "pending_until",
)  # fmt: skip
GRANTED = ("id", "request_id", "agent_id", "user_id", "starts_at")
RULES = (
    ("jit_requests_accessrequest", ASKED, "OLD.status <> 'pending'", "a request is immutable and its end is final"),
    ("jit_requests_grant", GRANTED, "OLD.ended_at IS NOT NULL", "a grant is immutable and its end is final"),
    (
        "jit_requests_decision",
        ("id", "request_id", "user_id", "verdict", "reason", "digest", "channel", "at"),
        "NOT OLD.live",
        "a decision stands",
    ),
)


def create(apps: Any, schema_editor: Any) -> None:
    postgresql = schema_editor.connection.vendor == "postgresql"
    differ = "IS DISTINCT FROM" if postgresql else "IS NOT"
    for table, columns, final, why in RULES:
        changed = " OR ".join([f"OLD.{column} {differ} NEW.{column}" for column in columns] + [final])
        if postgresql:
            schema_editor.execute(
                f"CREATE FUNCTION {table}_kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"RAISE EXCEPTION '{why}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
            )
            schema_editor.execute(
                f"CREATE TRIGGER {table}_kept_update BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({changed}) "
                f"EXECUTE FUNCTION {table}_kept()"
            )
            schema_editor.execute(
                f"CREATE TRIGGER {table}_kept_delete BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_kept()"
            )
            schema_editor.execute(
                f"CREATE TRIGGER {table}_kept_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {table}_kept()"
            )
            continue
        schema_editor.execute(
            f"CREATE TRIGGER {table}_kept_update BEFORE UPDATE ON {table} WHEN {changed} "
            f"BEGIN SELECT RAISE(ABORT, '{why}'); END"
        )
        schema_editor.execute(
            f"CREATE TRIGGER {table}_kept_delete BEFORE DELETE ON {table} BEGIN SELECT RAISE(ABORT, '{why}'); END"
        )


class Migration(migrations.Migration):
    # A later migration that rebuilds one of these tables on SQLite must create its triggers again.
    dependencies = [("jit_requests", "0001_initial")]
    operations = [migrations.RunPython(create)]
