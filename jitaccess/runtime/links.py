"""Sign-in links. Apart from `up`: a command that prints one needs nothing of a server."""

from __future__ import annotations

from django.conf import settings

from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import User
from jitaccess.identity.services import issue_sign_in_link

LINK_SECONDS = 3600


def sign_in_link(user: User, *, operator: Actor) -> str:
    """The URL of a one-time sign-in link."""
    return f"{settings.PUBLIC_URL}/sign-in/{issue_sign_in_link(user=user, ttl=LINK_SECONDS, operator=operator)}/"
