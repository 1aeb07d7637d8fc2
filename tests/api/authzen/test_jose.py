"""Signed values: made by the newest key, read with any of the ring, and by nothing that is not exactly one of ours."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from jitaccess.kernel.errors import Invalid
from jitaccess.store import jose

pytestmark = pytest.mark.pure
CLAIMS = {"iss": "https://a.test", "aud": "https://a.test", "n": 1}


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def read(token: str, **changes: str) -> Any:
    return jose.verify(token, **({"kind": "k", "issuer": "https://a.test", "audience": "https://a.test"} | changes))


def test_whoever_has_the_published_key_can_verify_it():
    token = jose.sign(dict(CLAIMS), kind="k")
    head, body, signature = token.split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    [key] = [key.jwk for key in jose.all_keys() if key.jwk["kid"] == header["kid"]]
    assert (header["alg"], header["typ"], key["kty"], key["crv"], key["use"]) == ("EdDSA", "k", "OKP", "Ed25519", "sig")
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "="))
    public.verify(base64.urlsafe_b64decode(signature + "=="), f"{head}.{body}".encode())
    assert read(token) == CLAIMS


def test_another_kind_issuer_or_audience_is_refused():
    token = jose.sign(dict(CLAIMS), kind="k")
    for changes in ({"kind": "other"}, {"issuer": "https://b.test"}, {"audience": "https://b.test"}):
        with pytest.raises(Invalid, match="not made here"):
            read(token, **changes)


def test_nothing_but_a_token_of_ours_is_read():
    token = jose.sign(dict(CLAIMS), kind="k")
    head, body, signature = token.split(".")
    kid = jose.all_keys()[0].jwk["kid"]
    unsigned = [encoded({"alg": alg, "kid": kid, "typ": "k"}) for alg in ("none", "HS256")]
    bad = [
        "",
        "..",
        "a.b.c.d",
        f"{head}.{body}.",
        f"{head}.{body}.{signature}=",
        f"{head}.{encoded(dict(CLAIMS))}x.{signature}",
        *(f"{one}.{body}." for one in unsigned),
        *(f"{one}.{body}.{signature}" for one in unsigned),
        f"{encoded({'alg': 'EdDSA', 'kid': 'unknown', 'typ': 'k'})}.{body}.{signature}",
        f"{encoded([1])}.{body}.{signature}",
        "é" * 20,
    ]
    for one in bad:
        with pytest.raises(Invalid, match="not made here"):
            read(one)
