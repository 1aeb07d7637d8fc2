"""Every change to a table the compiler reads raises the policy version: forgetting it is impossible."""

from __future__ import annotations

from typing import Any

from django.db import migrations

# Table -> columns of UPDATE that matter (empty: all). A sign-in (last_login) must not bump.
TABLES = {
    "jit_identity_user": "is_active, username",
    "jit_identity_agent": "name, enabled, owner_id, team_id",
    "jit_identity_agent_users": "",
    "jit_identity_team_members": "",
    "jit_catalog_server": "slug, enabled, instructions",
    "jit_catalog_tool": "",
    "jit_policy_role": "",
    "jit_policy_roleversion": "",
    "jit_policy_rolebinding": "",
    "jit_policy_serveraccess": "",
    "jit_policy_serveraccess_teams": "",
    "jit_policy_requestable": "",
}
# Deferred, so that the bump is the last thing before commit and the version row is locked for an instant only;
# once per transaction, however many rows it touched.
FUNCTION = """
CREATE FUNCTION jit_policy_bump() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF coalesce(current_setting('jitaccess.bumped', true), '') <> txid_current()::text THEN
    PERFORM set_config('jitaccess.bumped', txid_current()::text, true);
    UPDATE jit_policy_policyversion SET version = version + 1 WHERE id = 1;
  END IF;
  RETURN NULL;
END $$
"""


def create(apps: Any, schema_editor: Any) -> None:
    apps.get_model("jit_policy", "PolicyVersion").objects.get_or_create(pk=1)
    postgresql = schema_editor.connection.vendor == "postgresql"
    if postgresql:
        schema_editor.execute(FUNCTION)
    for table, columns in TABLES.items():
        update = f"UPDATE OF {columns}" if columns else "UPDATE"
        if postgresql:
            schema_editor.execute(
                f"CREATE CONSTRAINT TRIGGER {table}_bump AFTER INSERT OR DELETE OR {update} ON {table} "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION jit_policy_bump()"
            )
            continue
        for name, verb in (("insert", "INSERT"), ("delete", "DELETE"), ("update", update)):
            schema_editor.execute(
                f"CREATE TRIGGER {table}_bump_{name} AFTER {verb} ON {table} "
                "BEGIN UPDATE jit_policy_policyversion SET version = version + 1 WHERE id = 1; END"
            )


class Migration(migrations.Migration):
    # Every migration that rebuilds one of these tables on SQLite drops its triggers with it and must create them again.
    dependencies = [
        ("jit_policy", "0001_initial"),
        ("jit_catalog", "0001_initial"),
        ("jit_identity", "0001_initial"),
    ]
    operations = [migrations.RunPython(create)]
