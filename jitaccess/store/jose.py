"""Signed artifacts: compact JWS (RFC 7515) with EdDSA (RFC 8037), and the JWK Set (RFC 7517) to verify them with.

The keys come from the key ring of the installation: whatever adds and drops its keys rotates these. The newest signs,
all of them verify.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.store.sealing import ring

PURPOSE = "authzen ed25519"
MAX_TOKEN = 64 * 1024


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`jwk` is its public half, whose `kid` is the thumbprint (RFC 7638)."""

    private: Ed25519PrivateKey
    jwk: dict[str, str]

    @classmethod
    def of(cls, seed: bytes) -> SigningKey:
        private = Ed25519PrivateKey.from_private_bytes(seed)
        bare = {"crv": "Ed25519", "kty": "OKP", "x": _encode(private.public_key().public_bytes_raw())}
        kid = _encode(hashlib.sha256(canonical(bare)).digest())
        return cls(private, bare | {"alg": "EdDSA", "kid": kid, "use": "sig"})


def all_keys() -> list[SigningKey]:
    """Newest first."""
    return [_key(seed) for seed in ring().derived(PURPOSE)]


@lru_cache(64)
def _key(seed: bytes) -> SigningKey:
    return SigningKey.of(seed)


def sign(claims: JsonObject, *, kind: str) -> str:
    """A compact JWS of `claims`. `kind` becomes its `typ` (RFC 8725, 3.11): one artifact never stands for another."""
    key = all_keys()[0]
    header = {"alg": "EdDSA", "kid": key.jwk["kid"], "typ": kind}
    signed = f"{_encode(canonical(header))}.{_encode(canonical(claims))}"
    return f"{signed}.{_encode(key.private.sign(signed.encode()))}"


def verify(token: str, *, kind: str, issuer: str, audience: str) -> JsonObject:
    """Its claims, when it was signed here, as this kind, for this audience. Expiry is for the caller to look at.

    Raises Invalid("jws.invalid"), one sentence whatever is wrong.
    """
    wrong = Invalid("jws.invalid", "This signed value was not made here, or it was changed.")
    try:
        head, body, signature = token.split(".")
        header = strictjson.decode(_decode(head), max_depth=4)
        known = {key.jwk["kid"]: key for key in all_keys()}
        key = known[str(header.get("kid"))]
        key.private.public_key().verify(_decode(signature), f"{head}.{body}".encode())
        claims = strictjson.decode(_decode(body))
    except (ValueError, KeyError, InvalidSignature, Invalid):
        raise wrong from None
    # `crit` names extensions that whoever does not know them must refuse (RFC 7515, 4.1.11); none is known here.
    if header.get("alg") != "EdDSA" or header.get("typ") != kind or "crit" in header or len(token) > MAX_TOKEN:
        raise wrong
    if claims.get("iss") != issuer or audience not in _audiences(claims.get("aud")):
        raise wrong
    return claims


def _audiences(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Its one spelling only: what is signed must not be spelled in two ways. Raises ValueError."""
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _encode(raw) != text:
        raise ValueError("not the base64url of anything")
    return raw
