"""The vocabulary of the ledger: noun.past_participle."""

from __future__ import annotations

from enum import StrEnum


class Event(StrEnum):
    REQUEST_SUBMITTED = "request.submitted"
    REQUEST_APPROVED = "request.approved"
    REQUEST_DENIED = "request.denied"
    REQUEST_CANCELLED = "request.cancelled"
    REQUEST_EXPIRED = "request.expired"
    REQUEST_INVALIDATED = "request.invalidated"
    REQUEST_COMMENTED = "request.commented"
    DECISION_RECORDED = "decision.recorded"
    GRANT_ACTIVATED = "grant.activated"
    GRANT_EXPIRED = "grant.expired"
    GRANT_RELEASED = "grant.released"
    GRANT_REVOKED = "grant.revoked"
    GRANT_USED_UP = "grant.used_up"
    GRANT_SUBJECT_DISABLED = "grant.subject_disabled"
    CALL_AUTHORIZED = "call.authorized"
    CALL_DENIED = "call.denied"
    CALL_DENIED_AGAIN = "call.denied_again"
    CALL_COMPLETED = "call.completed"
    CALL_COMPLETED_LATE = "call.completed_late"
    CALL_FAILED = "call.failed"
    CALL_NOT_SENT = "call.not_sent"
    CALL_OUTCOME_UNKNOWN = "call.outcome_unknown"
    TOKEN_ISSUED = "token.issued"  # noqa: S105 - the name of an event
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - the name of an event
    SIGN_IN_LINK_ISSUED = "sign_in_link.issued"
    USER_SIGNED_IN = "user.signed_in"
    USER_PASSWORD_CHANGED = "user.password_changed"  # noqa: S105 - the name of an event
    USER_MADE_ADMIN = "user.made_admin"
    AGENT_CREATED = "agent.created"
    AGENT_DISABLED = "agent.disabled"
    AGENT_ENABLED = "agent.enabled"
    SERVER_REGISTERED = "server.registered"
    CREDENTIAL_SET = "credential.set"
    CREDENTIAL_REMOVED = "credential.removed"
    CREDENTIALS_RESEALED = "credentials.resealed"
    KEY_ADDED = "key.added"
    KEY_DROPPED = "key.dropped"
    TOOL_IMPORTED = "tool.imported"
    TOOL_CHANGED = "tool.changed"
    TOOL_REMOVED = "tool.removed"
    TOOL_CLASSIFIED = "tool.classified"
    ROLE_SAVED = "role.saved"
    BINDING_CREATED = "binding.created"
    BINDING_ENDED = "binding.ended"
    CONFIGURATION_CHANGED = "configuration.changed"
    CLOCK_JUMPED = "clock.jumped"
    CLOCK_ACCEPTED = "clock.accepted"


class Outcome(StrEnum):
    ALLOWED = "allowed"
    DENIED = "denied"
    ERROR = "error"
    NONE = ""
