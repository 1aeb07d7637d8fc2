"""Messages signed as Standard Webhooks 1.0 says (https://github.com/standard-webhooks/standard-webhooks)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence

from jitaccess.kernel.errors import Invalid

_PREFIX = "whsec_"


def new_secret() -> str:
    """A fresh one, of 256 random bits."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signing_key(secret: str) -> bytes:
    """The bytes of "whsec_" + base64 (24 to 64 bytes, Standard Webhooks 1.0). Raises Invalid, quoting nothing."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if not secret.startswith(_PREFIX) or not 24 <= len(key) <= 64:
        raise Invalid("provisioning.secret", f'A webhook\'s secret is "{_PREFIX}" and base64 of 24 to 64 bytes.')
    return key


def sign(keys: Sequence[str], *, message_id: str, timestamp: int, body: bytes) -> str:
    """The header webhook-signature: one "v1,base64" for each secret, so that a receiver may change over at leisure."""
    content = b".".join((message_id.encode(), str(timestamp).encode(), body))
    made = (hmac.digest(signing_key(secret), content, hashlib.sha256) for secret in keys)
    return " ".join(f"v1,{base64.b64encode(one).decode()}" for one in made)
