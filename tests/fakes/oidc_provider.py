"""An OpenID Connect provider on loopback, written from Core 1.0, Discovery 1.0 and RFC 7636. It can be made to lie."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

CLIENT, SECRET = "jitaccess", "a secret of the client"


@dataclass(slots=True)
class Provider:
    """Who signs in (`subject`, `claims`), and its lies: `token` changes claims of the ID token (None: leaves one out),
    `discovery` the document, `key` and `alg` sign, `kid` is named.
    """

    issuer: str
    subject: str = "s-4711"
    claims: dict[str, Any] = field(default_factory=dict)
    token: dict[str, Any] = field(default_factory=dict)
    discovery: dict[str, Any] = field(default_factory=dict)
    real: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    key: Any = None
    alg: str = "ES256"
    kid: str = "k1"
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def authorize(self, url: str) -> str:
        """What a browser gets that follows `url`, and signs in: where it is sent back to."""
        said = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert said["response_type"] == "code"
        assert said["client_id"] == CLIENT
        assert said["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(8)
        self.codes[code] = said
        return f"{said['redirect_uri']}?{urlencode({'code': code, 'state': said['state'], 'iss': self.issuer})}"

    def token_for(self, form: dict[str, str]) -> dict[str, Any]:
        """The token endpoint; a code is good once, for who began."""
        said = self.codes.pop(form["code"])
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == said["code_challenge"]
        assert form["redirect_uri"] == said["redirect_uri"]
        assert (form["client_id"], form["client_secret"]) == (CLIENT, SECRET)
        at = int(time.time())
        claims: dict[str, Any] = {"iss": self.issuer, "sub": self.subject, "aud": CLIENT, "iat": at, "exp": at + 300}
        if "nonce" in said:
            claims["nonce"] = said["nonce"]
        if "max_age" in said:
            claims["auth_time"] = at
        claims |= self.claims | self.token
        claims = {name: value for name, value in claims.items() if value is not None}
        key = self.key or self.real
        signed = jwt.encode(claims, None if self.alg == "none" else key, algorithm=self.alg, headers={"kid": self.kid})
        return {"access_token": "at", "token_type": "Bearer", "id_token": signed}

    def answer(self, path: str, form: dict[str, str]) -> dict[str, Any]:
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            document = {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "token_endpoint_auth_methods_supported": ["client_secret_post"],
            }
            return document | self.discovery
        if path == "/keys":
            key = json.loads(ECAlgorithm.to_jwk(self.real.public_key()))
            return {"keys": [key | {"kid": "k1", "alg": "ES256", "use": "sig"}]}
        assert path == "/token", path
        return self.token_for(form)


@contextmanager
def provider() -> Iterator[Provider]:
    """Running in a thread, at its issuer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say({})

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"])).decode()
            self._say({name: values[0] for name, values in parse_qs(raw).items()})

        def _say(self, form: dict[str, str]) -> None:
            try:
                status, said = 200, made.answer(self.path, form)
            except (AssertionError, KeyError) as error:
                status, said = 400, {"error": "invalid_request", "error_description": repr(error)}
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Provider(issuer=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
