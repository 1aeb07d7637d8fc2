"""Secrets at rest and sealed ids: AES-256-GCM under a ring of named keys."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import Invalid

_KEY_BYTES = 32
_NONCE_BYTES = 12
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")


def generate_key(kid: str) -> str:
    """Return a new random entry "kid:base64" for a key ring; Invalid("keyring.invalid") for a bad id."""
    return f"{_checked_id(kid)}:{base64.b64encode(os.urandom(_KEY_BYTES)).decode()}"


@dataclass(frozen=True, slots=True, eq=False)
class KeyRing:
    """The first key seals, every key opens: rotate by putting a new one in front.

    Nonces are random, so NIST SP 800-38D section 8.3 allows 2^32 seals per key.
    """

    _keys: dict[str, AESGCM] = field(repr=False)
    _raw: dict[str, bytes] = field(repr=False)

    @classmethod
    def from_text(cls, text: str) -> KeyRing:
        """Read "k2:base64,k1:base64" (32-byte keys); Invalid("keyring.invalid") never quotes a key."""
        keys: dict[str, AESGCM] = {}
        raw: dict[str, bytes] = {}
        for entry in text.split(","):
            kid, _, encoded = entry.strip().partition(":")
            try:
                key = base64.b64decode(encoded, validate=True)
            except ValueError:
                key = b""
            if _checked_id(kid) in keys:
                raise Invalid("keyring.invalid", f"The key id {kid} appears twice in the key ring.")
            if len(key) != _KEY_BYTES:
                raise Invalid("keyring.invalid", f"The key {kid} is not base64 of {_KEY_BYTES} bytes.")
            keys[kid], raw[kid] = AESGCM(key), key
        return cls(keys, raw)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys; the first one seals."""
        return tuple(self._keys)

    def derived(self, purpose: str) -> tuple[bytes, ...]:
        """32 secret bytes for `purpose` of each key, newest first (HKDF-SHA256, RFC 5869); none tells of the key."""
        return tuple(
            HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=_bound(kid, f"derived {purpose}")).derive(key)
            for kid, key in self._raw.items()
        )

    def seal(self, plaintext: bytes, *, context: str) -> str:
        """Return `plaintext` encrypted as "kid.base64url"; it opens only under the same `context`."""
        kid, cipher = next(iter(self._keys.items()))
        nonce = os.urandom(_NONCE_BYTES)
        return f"{kid}.{_encode(nonce + cipher.encrypt(nonce, plaintext, _bound(kid, context)))}"

    def open(self, sealed: str, *, context: str) -> bytes:
        """Return what was sealed under `context`. Raises Invalid("sealed.invalid") for anything else.

        One code and one sentence whatever is wrong: the caller may be the attacker.
        """
        kid, _, body = sealed.partition(".")
        cipher = self._keys.get(kid)
        try:
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            # A sealed text has one spelling only, so that it can serve as a name (a session id, a cache key).
            if cipher is not None and _encode(raw) == body and len(raw) > _NONCE_BYTES:
                return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _bound(kid, context))
        except (ValueError, InvalidTag):  # one refusal for all of it, below
            pass
        raise Invalid("sealed.invalid", "This sealed text was not made here, for this use, by a key still known.")


def key_id(sealed: str) -> str:
    """The id of the key that a sealed text was made with."""
    return sealed.partition(".")[0]


def _bound(kid: str, context: str) -> bytes:
    # Unambiguous: a key id holds no newline.
    return f"jitaccess-sealed-v1\n{kid}\n{context}".encode("utf-8", "surrogatepass")


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _checked_id(kid: str) -> str:
    if not _KEY_ID.fullmatch(kid):
        raise Invalid("keyring.invalid", "A key id is 1 to 32 letters, digits, - or _.")
    return kid
