"""Socket Mode: Slack reaches an installation that has no public address, over a connection that it opened itself."""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection
from slack_sdk.socket_mode import SocketModeClient
from slack_sdk.socket_mode.client import BaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse

from jitaccess.kernel.errors import Forbidden, JitAccessError
from jitaccess.notify.slack.client import SDK_LOG, web_client
from jitaccess.notify.slack.incoming import take_in

log = logging.getLogger("jitaccess.slack")

PING_SECONDS = 5


class Listener:
    """One connection, renewed by the SDK as Slack asks for it; `start` and `stop` it once."""

    def __init__(self) -> None:
        self._client = _Socket(
            app_token=settings.SLACK_APP_TOKEN,
            web_client=web_client(settings.SLACK_APP_TOKEN),
            logger=SDK_LOG,
            ping_interval=PING_SECONDS,
            concurrency=4,
        )
        self._client.socket_mode_request_listeners.append(_heard)

    def start(self) -> None:
        """Raises whatever keeps it from connecting."""
        self._client.connect()

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected())

    def stop(self) -> None:
        self._client.close()


class _Socket(SocketModeClient):
    def issue_new_wss_url(self) -> str:
        """Raises Forbidden for an address elsewhere: this connection is the one that does not leave through egress."""
        url = str(self.web_client.apps_connections_open(app_token=self.app_token)["url"])
        asked, given = urlsplit(settings.SLACK_API_URL), urlsplit(url)
        host = given.hostname or ""
        fine = given.scheme == "wss" and (host == "slack.com" or host.endswith(".slack.com"))
        # An API elsewhere is an operator's choice (or a test's); it may send nobody anywhere but to itself.
        own = asked.hostname != "slack.com" and (host, given.port) == (asked.hostname, asked.port)
        if not (fine or own):
            raise Forbidden("slack.address", "Slack named an address for its connection that is not its own.")
        return url


def _heard(client: BaseSocketModeClient, request: SocketModeRequest) -> None:
    """In a thread of the SDK. Acknowledged when it is on record; what is not, Slack tells the person who pressed."""
    try:
        payload: dict[str, Any] = request.payload if isinstance(request.payload, dict) else {}
        kind = "command" if request.type == "slash_commands" else str(payload.get("type"))
        # Somebody's text is limited by Slack; a frame is not, by the SDK.
        if len(json.dumps(payload)) > 256 << 10:
            return
        answer = take_in(kind, payload)
    except JitAccessError as error:
        log.warning("refused what came from Slack: %s", error.code)
        return
    except Exception:
        log.exception("what came from Slack could not be written down")
        return
    finally:
        connection.close()
    client.send_socket_mode_response(
        SocketModeResponse(envelope_id=request.envelope_id, payload=dict(answer) if answer is not None else None)
    )
