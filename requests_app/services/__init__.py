"""The only writers of workflow rows: one use-case a module."""

from __future__ import annotations

from requests_app.services.cancel import cancel_request
from requests_app.services.comment import comment_on_request
from requests_app.services.decide import approve_request, deny_request
from requests_app.services.end import end_grant, release_grant, revoke_grant
from requests_app.services.submit import MAX_CONTEXT, Ask, Submission, submit_request

__all__ = [
    "MAX_CONTEXT",
    "Ask",
    "Submission",
    "approve_request",
    "cancel_request",
    "comment_on_request",
    "deny_request",
    "end_grant",
    "release_grant",
    "revoke_grant",
    "submit_request",
]
