"""Whether somebody wants to be told of an event over a channel."""

from __future__ import annotations

from jitaccess.identity.models import User


def wants(user: User, event: str, channel: str) -> bool:  # noqa: ARG001 - what the answer will depend on
    """Everybody wants everything until they say otherwise."""
    return True
