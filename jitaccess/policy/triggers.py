"""Every change to a table that the compiler reads raises the policy version: forgetting it is impossible.

And what a role said at one version is kept as it was: past decisions are explained by it.
"""

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
_VERSIONS = "jit_policy_roleversion"
_KEPT = "what a role said is kept"
# A role that nobody ever had may be deleted, and its versions with it.
_HELD = "EXISTS (SELECT 1 FROM jit_policy_rolebinding WHERE role_id = OLD.role_id)"
_KEEP = f"""
CREATE OR REPLACE FUNCTION {_VERSIONS}_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    IF NOT {_HELD} THEN RETURN OLD; END IF;
  END IF;
  RAISE EXCEPTION '{_KEPT}' USING ERRCODE = 'integrity_constraint_violation';
END $$
"""


def promise(vendor: str) -> Promise:
    """A bump for every insert, update, delete (and on PostgreSQL, truncate) of these tables; versions kept."""
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
    triggers |= _keep_versions(vendor)
    return Promise(triggers, (_FUNCTION, _KEEP) if vendor == "postgresql" else ())


def _keep_versions(vendor: str) -> dict[str, str]:
    if vendor == "postgresql":
        then = f"EXECUTE FUNCTION {_VERSIONS}_kept()"
        kinds = {
            "change": f"BEFORE UPDATE OR DELETE ON {_VERSIONS} FOR EACH ROW {then}",
            "truncate": f"BEFORE TRUNCATE ON {_VERSIONS} FOR EACH STATEMENT {then}",
        }
    else:
        then = f"BEGIN SELECT RAISE(ABORT, '{_KEPT}'); END"
        # REPLACE deletes what it collides with without firing DELETE triggers.
        same = "old.id = NEW.id OR (old.role_id = NEW.role_id AND old.version = NEW.version)"
        kinds = {
            "insert": f"BEFORE INSERT ON {_VERSIONS} WHEN EXISTS (SELECT 1 FROM {_VERSIONS} old WHERE {same}) {then}",
            "update": f"BEFORE UPDATE ON {_VERSIONS} {then}",
            "delete": f"BEFORE DELETE ON {_VERSIONS} WHEN {_HELD} {then}",
        }
    return {
        f"{_VERSIONS}_kept_{kind}": f"CREATE TRIGGER {_VERSIONS}_kept_{kind} {body}" for kind, body in kinds.items()
    }
