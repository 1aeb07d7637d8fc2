"""Calling Slack: its SDK, over the product's one way out, with each answer sorted by what it means for a message."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, cast
from urllib.request import Request

from django.conf import settings
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web import WebClient

from jitaccess.egress.blocking import fetch
from jitaccess.egress.errors import EgressFailed, EgressRefused
from jitaccess.kernel.text import visible
from jitaccess.notify.slack.conf import allowance

SECONDS = 10
LIMIT = 2 << 20
LONGEST_WAIT = 3600

# The SDK writes bodies to a logger that is at DEBUG.
SDK_LOG = logging.getLogger("jitaccess.slack.sdk")
SDK_LOG.setLevel(logging.CRITICAL)


class Trouble(StrEnum):
    """What became of a call. LATER: not done, try again. WAIT: the same, after Retry-After. UNKNOWN: perhaps done.
    GONE: the message cannot be changed (any more). THERE: this place or message is refused for good. APP: nothing
    works until an admin mends the app.
    """

    LATER = "later"
    WAIT = "wait"
    UNKNOWN = "unknown"
    GONE = "gone"
    THERE = "there"
    APP = "app"


_GONE = frozenset({"message_not_found", "edit_window_closed", "cant_update_message"})
_APP = frozenset(
    {
        "invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive", "missing_scope",
        "no_permission", "org_login_required", "ekm_access_denied", "team_access_not_granted", "access_denied",
        "not_allowed_token_type", "two_factor_setup_required",
    }
)  # fmt: skip
_LATER = frozenset({"service_unavailable", "request_timeout", "team_added_to_org", "accesslimited"})
_WAIT = frozenset({"ratelimited", "rate_limited", "message_limit_exceeded"})
# Of fatal_error the documentation says that some of it may have been done.
_UNKNOWN = frozenset({"fatal_error", "internal_error"})


class SlackFailed(Exception):
    """A call that failed. `seconds`: how long Slack wants to be left alone."""

    def __init__(self, trouble: Trouble, error: str, seconds: float = 0) -> None:
        super().__init__(f"Slack: {error}")
        self.trouble, self.error, self.seconds = trouble, error, seconds


class _Client(WebClient):
    """The SDK's client without its network: no redirects, no proxies of the environment, addresses judged."""

    def _perform_urllib_http_request_internal(self, url: str, req: Request) -> dict[str, Any]:
        headers = {name: str(value) for name, value in req.header_items() if name.lower() != "content-length"}
        body = cast("bytes | None", req.data)
        status, told, content = fetch(
            "POST", url, headers, body, seconds=self.timeout, allowance=allowance(), limit=LIMIT
        )
        if "retry-after" in told:
            told["Retry-After"] = told["retry-after"]
        return {"status": status, "headers": told, "body": content.decode("utf-8", "replace")}


def web_client(token: str | None = None) -> WebClient:
    """A client of the SDK, for this token or the bot's."""
    base = f"{settings.SLACK_API_URL.rstrip('/')}/"
    return _Client(
        token=token or settings.SLACK_BOT_TOKEN, base_url=base, timeout=SECONDS, logger=SDK_LOG, retry_handlers=[]
    )


# Until when (of this process's steady clock) Slack wants no more calls of a method.
_paused: dict[str, float] = {}


def call(method: str, **arguments: Any) -> Mapping[str, Any]:
    """Call a method with JSON arguments. Raises SlackFailed."""
    left = _paused.get(method, 0) - time.monotonic()
    if left > 0:
        raise SlackFailed(Trouble.WAIT, "ratelimited", left)
    try:
        return cast(Mapping[str, Any], web_client().api_call(method, json=arguments).data)
    except SlackApiError as error:
        failed = _failed(error)
    except EgressRefused as error:
        failed = SlackFailed(Trouble.APP, visible(error.detail, limit=150))
    except EgressFailed as error:
        trouble = Trouble.UNKNOWN if error.sent else Trouble.LATER
        failed = SlackFailed(trouble, visible(error.detail, limit=150))
    except (SlackClientError, OSError, ValueError) as error:
        # Whatever it was, the request may have arrived.
        failed = SlackFailed(Trouble.UNKNOWN, visible(f"{type(error).__name__}: {error}", limit=150))
    if failed.trouble is Trouble.WAIT:
        _paused[method] = time.monotonic() + failed.seconds
    raise failed from None


def forget_pauses() -> None:
    """As a process that has just started."""
    _paused.clear()


def _failed(error: SlackApiError) -> SlackFailed:
    response: Any = error.response
    status = int(response.status_code)
    said = visible(str(response.get("error") or f"HTTP {status}"), limit=150)
    if status == 429 or said in _WAIT:
        return SlackFailed(Trouble.WAIT, "ratelimited", _seconds(str(response.headers.get("Retry-After", ""))))
    if status >= 500 or said in _UNKNOWN or not isinstance(response.data, dict) or "ok" not in response.data:
        return SlackFailed(Trouble.UNKNOWN, said)
    for trouble, errors in ((Trouble.GONE, _GONE), (Trouble.APP, _APP), (Trouble.LATER, _LATER)):
        if said in errors:
            return SlackFailed(trouble, said)
    return SlackFailed(Trouble.THERE, said)


def _seconds(text: str) -> float:
    wanted = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 30
    return float(min(max(wanted, 1), LONGEST_WAIT))
