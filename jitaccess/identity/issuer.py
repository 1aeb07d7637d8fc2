"""The name under which accounts of the configured OpenID Connect provider are kept."""

from __future__ import annotations

import hashlib

from django.conf import settings


def provider_id() -> str:
    """Of its issuer alone: another issuer's accounts have another name, so that nobody's `sub` there is somebody's here
    (OpenID Connect Core 1.0 section 5.7: only issuer and subject together name a person).
    """
    return f"oidc-{hashlib.sha256(settings.OIDC_ISSUER.encode()).hexdigest()[:32]}"
