"""A passkey as a browser would have made it, without one."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from fido2.cose import ES256
from fido2.utils import websafe_encode
from fido2.webauthn import Aaguid, AttestationObject, AttestedCredentialData, AuthenticatorData, CollectedClientData

_ID = b"a passkey's id.."


def passkey() -> dict[str, Any]:
    """WebAuthn's PublicKeyCredential of a registration (section 5.1), as JSON."""
    flags = AuthenticatorData.FLAG
    key = ES256.from_cryptography_key(ec.derive_private_key(7, ec.SECP256R1()).public_key())
    held = AttestedCredentialData.create(Aaguid(bytes(16)), _ID, key)
    data = AuthenticatorData.create(bytes(32), flags.UP | flags.UV | flags.AT, 0, held)
    client = CollectedClientData.create("webauthn.create", bytes(16), "http://localhost")
    answer = {
        "clientDataJSON": websafe_encode(client),
        "attestationObject": websafe_encode(AttestationObject.create("none", data, {})),
    }
    return {"id": websafe_encode(_ID), "rawId": websafe_encode(_ID), "type": "public-key", "response": answer}
