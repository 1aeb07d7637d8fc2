"""How this installation is set up for Slack, and what is missing."""

from __future__ import annotations

from django.conf import settings

from jitaccess.egress.addresses import Allowance


def missing() -> list[str]:
    """Settings without which nothing is sent or listened to: an empty list of whom to listen to is nobody."""
    names = ["SLACK_BOT_TOKEN", "SLACK_APP_ID", "SLACK_TEAM_ID"]
    names.append("SLACK_APP_TOKEN" if settings.SLACK_MODE == "socket" else "SLACK_SIGNING_SECRET")
    return [f"JITACCESS_{name}" for name in names if not getattr(settings, name)]


def is_on() -> bool:
    """Whether Slack is set up."""
    return not missing()


def allowance() -> Allowance:
    """Slack is on the public network; anything else needs the operator's word, as everywhere."""
    return Allowance.parse(settings.EGRESS_ALLOW)
