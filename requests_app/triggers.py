"""The database itself keeps what was asked as it was asked, and what is final final."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jitaccess.store.triggers import Promise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What of a table never changes (`fixed`), and what only changes with its end (`ending`, while not `still`).

    `unique`: what an INSERT OR REPLACE would collide with, besides the key, with the row called `old`.
    """

    table: str
    fixed: tuple[str, ...]
    final: str
    unique: str
    why: str
    ending: tuple[str, ...] = ()
    still: str = ""


_RULES = (
    _Rule(
        table="jit_requests_accessrequest",
        fixed=(
            "id", "agent_id", "owner_id", "user_id", "issued_by_id", "principal_key", "client", "items", "reason",
            "context", "seconds", "max_uses", "groups", "policy_name", "digest", "dedupe_digest", "created_at",
            "pending_until",
        ),
        final="OLD.status <> 'pending'",
        ending=("closed_at", "closed_by_name", "closing_note"),
        still="NEW.status = 'pending'",
        unique="old.principal_key = NEW.principal_key AND old.dedupe_digest = NEW.dedupe_digest "
        "AND old.status = 'pending' AND NEW.status = 'pending'",
        why="a request is immutable and its end is final",
    ),
    _Rule(
        table="jit_requests_grant",
        fixed=("id", "request_id", "agent_id", "user_id", "starts_at", "expires_at"),
        final="OLD.ended_at IS NOT NULL",
        ending=("end_reason", "ended_by_name", "end_note"),
        still="NEW.ended_at IS NULL",
        unique="old.request_id = NEW.request_id",
        why="a grant is immutable and its end is final",
    ),
    _Rule(
        table="jit_requests_decision",
        fixed=("id", "request_id", "user_id", "verdict", "reason", "digest", "channel", "at"),
        final="NOT OLD.live",
        unique="old.request_id = NEW.request_id AND old.user_id = NEW.user_id AND old.live AND NEW.live",
        why="a decision stands",
    ),
)  # fmt: skip


def promise(vendor: str) -> Promise:
    """Only what a transition changes can change, and only once."""
    triggers, functions = {}, []
    for rule in _RULES:
        table = rule.table
        if vendor == "postgresql":
            functions.append(
                f"CREATE OR REPLACE FUNCTION {table}_kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"RAISE EXCEPTION '{rule.why}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
            )
            then = f"EXECUTE FUNCTION {table}_kept()"
            changed = _changed(rule, "IS DISTINCT FROM")
            kinds = {
                "update": f"BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({changed}) {then}",
                "delete": f"BEFORE DELETE ON {table} FOR EACH ROW {then}",
                "truncate": f"BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {then}",
            }
        else:
            then = f"BEGIN SELECT RAISE(ABORT, '{rule.why}'); END"
            # REPLACE deletes the rows it collides with, by rowid too, without firing DELETE triggers (unless
            # recursive_triggers is on in the connection that does it).
            same = f"old.id = NEW.id OR old.rowid = NEW.rowid OR ({rule.unique})"
            kinds = {
                "insert": f"BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} old WHERE {same}) {then}",
                "update": f"BEFORE UPDATE ON {table} WHEN OLD.rowid <> NEW.rowid OR {_changed(rule, 'IS NOT')} {then}",
                "delete": f"BEFORE DELETE ON {table} {then}",
            }
        for kind, body in kinds.items():
            triggers[f"{table}_kept_{kind}"] = f"CREATE TRIGGER {table}_kept_{kind} {body}"
    return Promise(triggers, tuple(functions))


def _changed(rule: _Rule, differ: str) -> str:
    def any_of(columns: Iterable[str]) -> str:
        return " OR ".join(f"OLD.{column} {differ} NEW.{column}" for column in columns)

    early = f" OR ({rule.still} AND ({any_of(rule.ending)}))" if rule.ending else ""
    return f"{any_of(rule.fixed)} OR {rule.final}{early}"
