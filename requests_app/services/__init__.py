"""The only writers of workflow rows: one use-case a module."""

from __future__ import annotations

from requests_app.asking import Ask, ExactCall, Privileges
from requests_app.services.break_glass import break_glass, finish_review, stop_break_glass
from requests_app.services.cancel import cancel_request
from requests_app.services.comment import comment_on_request
from requests_app.services.decide import Narrow, approve_request, ask_for_changes, deny_request
from requests_app.services.end import end_grant, give_back, release_grant, revoke_grant
from requests_app.services.extend import extend_grant
from requests_app.services.filing import Submission
from requests_app.services.submit import MAX_CONTEXT, submit_bundle, submit_request

__all__ = [
    "MAX_CONTEXT",
    "Ask",
    "ExactCall",
    "Narrow",
    "Privileges",
    "Submission",
    "approve_request",
    "ask_for_changes",
    "break_glass",
    "cancel_request",
    "comment_on_request",
    "deny_request",
    "end_grant",
    "extend_grant",
    "finish_review",
    "give_back",
    "release_grant",
    "revoke_grant",
    "stop_break_glass",
    "submit_bundle",
    "submit_request",
]
