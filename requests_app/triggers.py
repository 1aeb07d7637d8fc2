"""The database itself keeps what was asked as it was asked, and what is final final."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jitaccess.store.triggers import Promise
from jitaccess.store.wakeups import CHANNEL


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
            "id", "agent_id", "owner_id", "user_id", "issued_by_id", "filed_by_id", "kind", "extends_id",
            "supersedes_id", "bundle", "principal_key", "client", "items", "risk", "reason", "ticket", "context",
            "seconds", "max_uses", "starts_at", "not_after", "max_total_seconds", "plan", "policy_name", "digest",
            "dedupe_digest", "created_at", "pending_until",
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
        fixed=("id", "request_id", "agent_id", "user_id", "starts_at", "latest"),
        final="OLD.ended_at IS NOT NULL",
        ending=("end_reason", "ended_by_name", "end_note"),
        still="NEW.ended_at IS NULL",
        unique="old.request_id = NEW.request_id",
        why="a grant is immutable and its end is final",
    ),
    _Rule(
        table="jit_requests_decision",
        fixed=(
            "id", "request_id", "user_id", "on_behalf_of_id", "stage", "verdict", "reason", "digest", "terms",
            "terms_digest", "channel", "at",
        ),
        final="NOT OLD.live",
        unique="old.request_id = NEW.request_id AND old.stage = NEW.stage AND old.user_id = NEW.user_id "
        "AND old.live AND NEW.live",
        why="a decision stands",
    ),
    _Rule(
        table="jit_requests_review",
        fixed=("id", "grant_id", "right_name", "team"),
        final="OLD.done_at IS NOT NULL",
        unique="old.grant_id = NEW.grant_id",
        why="a review is done once",
    ),
)  # fmt: skip


REQUESTS = "jit_requests_accessrequest"
# For whoever waits for the end of a request, in whatever process (docs/adr/0011-wake-ups.md).
_TELL = f"""
CREATE OR REPLACE FUNCTION jit_requests_tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('{CHANNEL}', '');
  RETURN NULL;
END $$
"""
_GRANT = "jit_requests_grant"
_LONGER = "only an approved extension moves the end of a grant"
_EXTENDED = (
    "NEW.extension_id IS NOT NULL AND EXISTS (SELECT 1 FROM jit_requests_accessrequest more "
    "WHERE more.id = NEW.extension_id AND more.extends_id = NEW.id AND more.status = 'approved')"
)


def promise(vendor: str) -> Promise:
    """Only what a transition changes can change, and only once."""
    triggers, functions = _extensions(vendor)
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
    if vendor == "postgresql":
        functions.append(_TELL)
        triggers[f"{REQUESTS}_told"] = (
            f"CREATE TRIGGER {REQUESTS}_told AFTER UPDATE OF status ON {REQUESTS} FOR EACH ROW "
            "WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION jit_requests_tell()"
        )
    return Promise(triggers, tuple(functions))


def _extensions(vendor: str) -> tuple[dict[str, str], list[str]]:
    """The end of a grant moves with an extension that was not used before, and the start is written down once."""
    name = f"{_GRANT}_extended"
    if vendor == "postgresql":
        moved = "OLD.expires_at IS DISTINCT FROM NEW.expires_at OR OLD.extension_id IS DISTINCT FROM NEW.extension_id"
        function = (
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF OLD.extension_id IS DISTINCT FROM NEW.extension_id AND {_EXTENDED} THEN RETURN NEW; END IF; "
            f"RAISE EXCEPTION '{_LONGER}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        then = f"EXECUTE FUNCTION {name}()"
        return {name: f"CREATE TRIGGER {name} BEFORE UPDATE ON {_GRANT} FOR EACH ROW WHEN ({moved}) {then}"}, [function]
    moved = "(OLD.expires_at IS NOT NEW.expires_at OR OLD.extension_id IS NOT NEW.extension_id)"
    refused = f"{moved} AND NOT (OLD.extension_id IS NOT NEW.extension_id AND {_EXTENDED})"
    body = f"BEGIN SELECT RAISE(ABORT, '{_LONGER}'); END"
    return {name: f"CREATE TRIGGER {name} BEFORE UPDATE ON {_GRANT} WHEN {refused} {body}"}, []


def _changed(rule: _Rule, differ: str) -> str:
    def any_of(columns: Iterable[str]) -> str:
        return " OR ".join(f"OLD.{column} {differ} NEW.{column}" for column in columns)

    early = f" OR ({rule.still} AND ({any_of(rule.ending)}))" if rule.ending else ""
    return f"{any_of(rule.fixed)} OR {rule.final}{early}"
