"""Slack's part of the background: one process of an installation sends, and listens where that is by Socket Mode."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import close_old_connections, connection

from jitaccess.store.leader import Leadership

if TYPE_CHECKING:
    from jitaccess.notify.slack.socket import Listener

log = logging.getLogger(__name__)

OFTEN_SECONDS, SELDOM_SECONDS = 0.5, 10.0
CONNECT_SECONDS = 10.0


def run_slack(stopping: threading.Event) -> None:
    """Until `stopping`. Nothing here decides about access, and nothing waits for it."""
    from jitaccess.notify.slack import conf, socket  # only where Slack is set up: the SDK takes a moment to load
    from jitaccess.notify.slack.chores import often, seldom

    leadership = Leadership("slack")
    listener: Listener | None = None
    seldom_due = connect_due = 0.0
    while not stopping.wait(OFTEN_SECONDS):
        try:
            close_old_connections()
            if not (conf.is_on() and leadership.held()):
                if listener is not None:
                    listener.stop()
                    listener = None
                continue
            if listener is None and settings.SLACK_MODE == "socket" and time.monotonic() >= connect_due:
                connect_due = time.monotonic() + CONNECT_SECONDS
                listener = _connected(socket.Listener())
            often()
            if time.monotonic() >= seldom_due:
                seldom_due = time.monotonic() + SELDOM_SECONDS
                seldom()
                if listener is not None and not listener.connected:
                    log.warning("the connection to Slack is lost, and tried again")
        except Exception as error:  # noqa: BLE001 - rows wait; the loop must not die
            log.warning("Slack will be tried again: %s", error)
    if listener is not None:
        listener.stop()
    leadership.give_up()
    connection.close()


def _connected(listener: Listener) -> Listener | None:
    try:
        listener.start()
    except Exception as error:  # noqa: BLE001 - Slack may be away for as long as it likes
        log.warning("no connection to Slack yet: %s", type(error).__name__)
        listener.stop()
        return None
    log.info("listening to Slack by Socket Mode")
    return listener
