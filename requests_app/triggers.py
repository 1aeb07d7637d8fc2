"""The database itself keeps what was asked as it was asked, and what is final final."""

from __future__ import annotations

from jitaccess.store.triggers import Promise

_ASKED = (
    "id", "agent_id", "owner_id", "user_id", "issued_by_id", "principal_key", "client", "items", "reason", "context",
    "seconds", "groups", "policy_name", "digest", "dedupe_digest", "created_at", "pending_until",
)  # fmt: skip
_RULES = (
    (
        "jit_requests_accessrequest",
        _ASKED,
        "OLD.status <> 'pending'",
        "a request is immutable and its end is final",
    ),
    (
        "jit_requests_grant",
        ("id", "request_id", "agent_id", "user_id", "starts_at"),
        "OLD.ended_at IS NOT NULL",
        "a grant is immutable and its end is final",
    ),
    (
        "jit_requests_decision",
        ("id", "request_id", "user_id", "verdict", "reason", "digest", "channel", "at"),
        "NOT OLD.live",
        "a decision stands",
    ),
)


def promise(vendor: str) -> Promise:
    """Only what a transition changes can change, and only once."""
    differ = "IS DISTINCT FROM" if vendor == "postgresql" else "IS NOT"
    triggers, functions = {}, []
    for table, columns, final, why in _RULES:
        changed = " OR ".join([f"OLD.{column} {differ} NEW.{column}" for column in columns] + [final])
        if vendor == "postgresql":
            functions.append(
                f"CREATE OR REPLACE FUNCTION {table}_kept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"RAISE EXCEPTION '{why}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
            )
            then = f"EXECUTE FUNCTION {table}_kept()"
            kinds = {
                "update": f"BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({changed}) {then}",
                "delete": f"BEFORE DELETE ON {table} FOR EACH ROW {then}",
                "truncate": f"BEFORE TRUNCATE ON {table} FOR EACH STATEMENT {then}",
            }
        else:
            then = f"BEGIN SELECT RAISE(ABORT, '{why}'); END"
            kinds = {
                "update": f"BEFORE UPDATE ON {table} WHEN {changed} {then}",
                "delete": f"BEFORE DELETE ON {table} {then}",
            }
        for kind, body in kinds.items():
            triggers[f"{table}_kept_{kind}"] = f"CREATE TRIGGER {table}_kept_{kind} {body}"
    return Promise(triggers, tuple(functions))
