"""What is done by and by, in a thread of its own: a Slack that is slow keeps no sweep waiting."""

from __future__ import annotations

from jitaccess.notify.slack.cards import note_cards, warn_of_ends
from jitaccess.notify.slack.incoming import do_waiting, forget_old
from jitaccess.notify.slack.linking import unlink_inactive
from jitaccess.notify.slack.sending import send_due


def often() -> None:
    """Each second or so: read the ledger, do what came in and was left, send what is due."""
    note_cards()
    do_waiting()
    send_due()


def seldom() -> None:
    """Each ten seconds or so."""
    unlink_inactive()
    warn_of_ends()
    forget_old()
