"""The database itself refuses to change the ledger, and queues every new entry for the sequencer."""

from __future__ import annotations

from jitaccess.store.triggers import Promise

TABLES = ("jit_audit_entry", "jit_audit_leaf", "jit_audit_node", "jit_audit_checkpoint")
BUNDLE = "jit_audit_bundle"
_REFUSE = """
CREATE OR REPLACE FUNCTION jit_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the ledger is append-only: % on % refused', TG_OP, TG_TABLE_NAME
    USING ERRCODE = 'integrity_constraint_violation';
END $$
"""
# Whoever may make temporary tables and types must not get our rows into theirs: tables are named with their schema, and
# the path, which `triggers.missing` does not compare, is set besides.
_SAFE = "LANGUAGE plpgsql SET search_path = public, pg_temp AS"
# The sequencer says that it places what it enters in the same transaction: in and out of the queue is a third of that.
_ENQUEUE = f"""
CREATE OR REPLACE FUNCTION jit_audit_enqueue() RETURNS trigger {_SAFE} $$
BEGIN
  IF coalesce(current_setting('jitaccess.places', true), '') <> 'on' THEN
    INSERT INTO public.jit_audit_unsequenced (entry_id) SELECT uid FROM fresh;
  END IF;
  RETURN NULL;
END $$
"""
# Whoever deletes bundles enters their entries by that.
_UNBUNDLE = f"""
CREATE OR REPLACE FUNCTION jit_audit_unbundle() RETURNS trigger {_SAFE} $$
BEGIN {{}}; RETURN NULL; END $$
"""


def promise(vendor: str) -> Promise:
    """Append-only on every path the database offers."""
    return _postgresql() if vendor == "postgresql" else _sqlite()


def _postgresql() -> Promise:
    from jitaccess.audit.bundles import entering  # here: there are no models yet

    triggers = {
        "jit_audit_entry_enqueue": "CREATE TRIGGER jit_audit_entry_enqueue AFTER INSERT ON jit_audit_entry "
        "REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION jit_audit_enqueue()",
        f"{BUNDLE}_entered": f"CREATE TRIGGER {BUNDLE}_entered AFTER DELETE ON {BUNDLE} "
        "REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION jit_audit_unbundle()",
    }
    for table in (*TABLES, BUNDLE):
        frozen = "UPDATE" if table == BUNDLE else "UPDATE OR DELETE"
        for kind, verb, level in (("frozen", frozen, "ROW"), ("kept", "TRUNCATE", "STATEMENT")):
            name = f"{table}_{kind}"
            triggers[name] = (
                f"CREATE TRIGGER {name} BEFORE {verb} ON {table} FOR EACH {level} EXECUTE FUNCTION jit_audit_refuse()"
            )
    return Promise(triggers, (_REFUSE, _ENQUEUE, _UNBUNDLE.format(entering())))


def _sqlite() -> Promise:
    triggers = {
        "jit_audit_entry_enqueue": "CREATE TRIGGER jit_audit_entry_enqueue AFTER INSERT ON jit_audit_entry "
        "BEGIN INSERT INTO jit_audit_unsequenced (entry_id) VALUES (NEW.uid); END"
    }
    # INSERT OR REPLACE deletes the old row without firing DELETE triggers (unless recursive_triggers is on in the
    # connection that does it). rowid: REPLACE collides on it as well as on the key. FAIL, for nothing is inserted yet:
    # with ABORT SQLite keeps a journal for every statement, which costs more than the entry.
    collisions = {
        "jit_audit_entry": "uid = NEW.uid OR rowid = NEW.rowid",
        "jit_audit_leaf": "seq = NEW.seq OR entry_id = NEW.entry_id OR rowid = NEW.rowid",
        "jit_audit_node": '(level = NEW.level AND "index" = NEW."index") OR rowid = NEW.rowid',
        "jit_audit_checkpoint": "size = NEW.size OR rowid = NEW.rowid",
    }
    for table, collision in collisions.items():
        triggers[f"{table}_replaced"] = (
            f"CREATE TRIGGER {table}_replaced BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {collision}) "
            f"BEGIN SELECT RAISE(FAIL, 'the ledger is append-only: REPLACE on {table} refused'); END"
        )
        for verb in ("UPDATE", "DELETE"):
            name = f"{table}_{verb.lower()}"
            triggers[name] = (
                f"CREATE TRIGGER {name} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: {verb} on {table} refused'); END"
            )
    return Promise(triggers)
