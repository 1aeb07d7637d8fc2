"""Every change to a table that the compiler reads raises the policy version: forgetting it is impossible.

And what a role said at one version is kept as it was: past decisions are explained by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from jitaccess.catalog.options import NAMES as OPTIONS
from jitaccess.policy.lock_triggers import lock_triggers
from jitaccess.store.triggers import Promise
from jitaccess.store.wakeups import CHANNEL


@dataclass(frozen=True, slots=True)
class _Watched:
    """A table that the compiler reads: what is to be read anew when a row changes, by which column of the row.

    `columns` of an UPDATE matter (empty: all). A sign-in (last_login) must not raise the version.
    """

    kind: str
    key: str = "id"
    columns: str = ""


TABLES = {
    "jit_identity_user": _Watched("user", columns="is_active, username"),
    "jit_identity_agent": _Watched("agent", columns="name, enabled, owner_id, team_id, labels"),
    "jit_identity_agent_users": _Watched("agent", "agent_id"),
    "jit_identity_team": _Watched("team", columns="name"),
    "jit_identity_team_members": _Watched("user", "user_id"),
    "jit_catalog_server": _Watched("server", columns=", ".join(("slug, enabled, instructions, labels", *OPTIONS))),
    "jit_catalog_tool": _Watched("server", "server_id"),
    "jit_policy_role": _Watched("role"),
    "jit_policy_roleversion": _Watched("role", "role_id"),
    "jit_policy_rolebinding": _Watched("binding"),
    "jit_policy_serveraccess": _Watched("server", "server_id"),
    "jit_policy_serveraccess_teams": _Watched("access", "serveraccess_id"),
    "jit_policy_requestable": _Watched("requestable"),
    "jit_policy_lock": _Watched("lock"),
}
# How many versions PolicyChange goes back.
KEPT_VERSIONS = 10_000
# Deferred, so that the bump is the last thing before commit and the version row is locked for an instant only;
# once per transaction, however many rows it touched. Without its row nothing could be told: then the change fails.
# Whoever listens is notified by the commit itself (docs/adr/0011-wake-ups.md).
# With its owner's rights: whoever may revoke must not fail on a table that only this function writes. By the index,
# whatever the planner thinks of an empty table: plans are kept, and a transaction may write 30,000 rows into it.
_FUNCTION = f"""
CREATE OR REPLACE FUNCTION jit_policy_bump() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
  present record;
  keys text[];
  row_key text;
BEGIN
  IF coalesce(current_setting('jitaccess.bumped', true), '') <> txid_current()::text THEN
    PERFORM set_config('jitaccess.bumped', txid_current()::text, true);
    UPDATE jit_policy_policyversion SET version = version + 1, stamp = gen_random_uuid()::text WHERE id = 1;
    IF NOT FOUND THEN RAISE EXCEPTION 'the policy version row is missing'; END IF;
    DELETE FROM jit_policy_policychange
      WHERE version <= (SELECT version FROM jit_policy_policyversion WHERE id = 1) - {KEPT_VERSIONS};
    PERFORM pg_notify('{CHANNEL}', '');
  END IF;
  -- Before and after: a row may have moved from one to another. Neither: the table was emptied, and all is read anew.
  SELECT version, stamp INTO present FROM jit_policy_policyversion WHERE id = 1;
  keys := CASE TG_OP
    WHEN 'INSERT' THEN ARRAY[to_jsonb(NEW)->>TG_ARGV[1]]
    WHEN 'DELETE' THEN ARRAY[to_jsonb(OLD)->>TG_ARGV[1]]
    WHEN 'UPDATE' THEN ARRAY[to_jsonb(OLD)->>TG_ARGV[1], to_jsonb(NEW)->>TG_ARGV[1]]
    ELSE ARRAY['']
  END;
  -- One by one: as a join it would be planned to read all that this transaction has written already.
  FOREACH row_key IN ARRAY keys LOOP
    row_key := coalesce(row_key, '');
    PERFORM FROM jit_policy_policychange there
      WHERE there.version = present.version AND there.kind = TG_ARGV[0] AND there.key = row_key LIMIT 1;
    IF NOT FOUND THEN
      INSERT INTO jit_policy_policychange (version, stamp, kind, key)
        VALUES (present.version, present.stamp, TG_ARGV[0], row_key);
    END IF;
  END LOOP;
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
    triggers: dict[str, str] = {}
    for table, watched in TABLES.items():
        triggers |= (_bumps_postgresql if vendor == "postgresql" else _bumps_sqlite)(table, watched)
    triggers |= _keep_versions(vendor)
    locks, keep_locks = lock_triggers(vendor)
    triggers |= locks
    stamp = "gen_random_uuid()::text" if vendor == "postgresql" else "lower(hex(randomblob(16)))"
    # A version without a word on what it changed: everything is read anew.
    afterwards = f"UPDATE jit_policy_policyversion SET version = version + 1, stamp = {stamp} WHERE id = 1"
    return Promise(triggers, (_FUNCTION, _KEEP, *keep_locks) if vendor == "postgresql" else (), afterwards)


def _bumps_postgresql(table: str, watched: _Watched) -> dict[str, str]:
    update = f"UPDATE OF {watched.columns}" if watched.columns else "UPDATE"
    then = f"EXECUTE FUNCTION jit_policy_bump('{watched.kind}', '{watched.key}')"
    return {
        f"{table}_bump": f"CREATE CONSTRAINT TRIGGER {table}_bump AFTER INSERT OR DELETE OR {update} ON {table} "
        f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW {then}",
        f"{table}_bump_truncate": f"CREATE TRIGGER {table}_bump_truncate AFTER TRUNCATE ON {table} "
        f"FOR EACH STATEMENT {then}",
    }


def _bumps_sqlite(table: str, watched: _Watched) -> dict[str, str]:
    """Once a row: SQLite has no deferred triggers, and one writer at a time."""
    update = f"UPDATE OF {watched.columns}" if watched.columns else "UPDATE"
    keys = {"insert": ("NEW",), "delete": ("OLD",), "update": ("OLD", "NEW")}
    triggers = {}
    for kind, verb in (("insert", "INSERT"), ("delete", "DELETE"), ("update", update)):
        notes = " ".join(
            "INSERT INTO jit_policy_policychange (version, stamp, kind, key) "
            f"SELECT version, stamp, '{watched.kind}', {row}.{watched.key} FROM jit_policy_policyversion WHERE id = 1;"
            for row in keys[kind]
        )
        triggers[f"{table}_bump_{kind}"] = (
            f"CREATE TRIGGER {table}_bump_{kind} AFTER {verb} ON {table} BEGIN "
            "UPDATE jit_policy_policyversion SET version = version + 1, stamp = lower(hex(randomblob(16))) "
            f"WHERE id = 1; {notes} DELETE FROM jit_policy_policychange WHERE version <= "
            f"(SELECT version FROM jit_policy_policyversion WHERE id = 1) - {KEPT_VERSIONS}; END"
        )
    return triggers


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
