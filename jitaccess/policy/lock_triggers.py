"""The database itself keeps every lock, as it was made: it can only be lifted, and only once."""

from __future__ import annotations

_TABLE = "jit_policy_lock"
_WHY = "a lock is kept, and lifted once"
_FIXED = (
    "id", "kind", "target", "target_name", "reason", "created_at", "created_by_name", "expires_at",
)  # fmt: skip


def lock_triggers(vendor: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Triggers by name, and the functions they need."""
    if vendor == "postgresql":
        function = (
            f"CREATE OR REPLACE FUNCTION {_TABLE}_kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"RAISE EXCEPTION '{_WHY}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        then = f"EXECUTE FUNCTION {_TABLE}_kept()"
        kinds = {
            "update": f"BEFORE UPDATE ON {_TABLE} FOR EACH ROW WHEN ({_changed('IS DISTINCT FROM')}) {then}",
            "delete": f"BEFORE DELETE ON {_TABLE} FOR EACH ROW {then}",
            "truncate": f"BEFORE TRUNCATE ON {_TABLE} FOR EACH STATEMENT {then}",
        }
        functions: tuple[str, ...] = (function,)
    else:
        then = f"BEGIN SELECT RAISE(ABORT, '{_WHY}'); END"
        # REPLACE deletes what it collides with, by rowid too, without firing DELETE triggers.
        there = f"SELECT 1 FROM {_TABLE} old WHERE old.id = NEW.id OR old.rowid = NEW.rowid"  # noqa: S608 - our own
        kinds = {
            "insert": f"BEFORE INSERT ON {_TABLE} WHEN EXISTS ({there}) {then}",
            "update": f"BEFORE UPDATE ON {_TABLE} WHEN OLD.rowid <> NEW.rowid OR {_changed('IS NOT')} {then}",
            "delete": f"BEFORE DELETE ON {_TABLE} {then}",
        }
        functions = ()
    return {f"{_TABLE}_kept_{kind}": f"CREATE TRIGGER {_TABLE}_kept_{kind} {body}" for kind, body in kinds.items()}, (
        functions
    )


def _changed(differ: str) -> str:
    fixed = " OR ".join(f"OLD.{column} {differ} NEW.{column}" for column in _FIXED)
    return f"{fixed} OR OLD.lifted_at IS NOT NULL OR (NEW.lifted_at IS NULL AND NEW.lifted_by_name <> '')"
