"""Every change to a table that the compiler reads raises the policy version: forgetting it is impossible."""

from __future__ import annotations

from jitaccess.store.triggers import Promise

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
# once per transaction, however many rows it touched. Without its row nothing could be told: then the change fails.
_FUNCTION = """
CREATE OR REPLACE FUNCTION jit_policy_bump() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF coalesce(current_setting('jitaccess.bumped', true), '') <> txid_current()::text THEN
    PERFORM set_config('jitaccess.bumped', txid_current()::text, true);
    UPDATE jit_policy_policyversion SET version = version + 1 WHERE id = 1;
    IF NOT FOUND THEN RAISE EXCEPTION 'the policy version row is missing'; END IF;
  END IF;
  RETURN NULL;
END $$
"""


def promise(vendor: str) -> Promise:
    """A bump for every insert, update, delete (and on PostgreSQL, truncate) of these tables."""
    triggers = {}
    for table, columns in TABLES.items():
        update = f"UPDATE OF {columns}" if columns else "UPDATE"
        if vendor == "postgresql":
            triggers[f"{table}_bump"] = (
                f"CREATE CONSTRAINT TRIGGER {table}_bump AFTER INSERT OR DELETE OR {update} ON {table} "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION jit_policy_bump()"
            )
            triggers[f"{table}_bump_truncate"] = (
                f"CREATE TRIGGER {table}_bump_truncate AFTER TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION jit_policy_bump()"
            )
            continue
        for kind, verb in (("insert", "INSERT"), ("delete", "DELETE"), ("update", update)):
            name = f"{table}_bump_{kind}"
            triggers[name] = (
                f"CREATE TRIGGER {name} AFTER {verb} ON {table} "
                "BEGIN UPDATE jit_policy_policyversion SET version = version + 1 WHERE id = 1; END"
            )
    return Promise(triggers, (_FUNCTION,) if vendor == "postgresql" else ())
