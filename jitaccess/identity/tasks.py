from __future__ import annotations

from celery import shared_task

from jitaccess.identity.sessions import SessionStore


@shared_task(name="identity.forget_sessions", ignore_result=True)
def forget_sessions() -> None:
    """Delete sessions that have ended, and what is known of them."""
    from jitaccess.identity.signed_in import forget_ended

    SessionStore.clear_expired()
    forget_ended()
