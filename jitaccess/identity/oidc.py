"""Sign-in by OpenID Connect: allauth's code flow with PKCE, and what it leaves unchecked.

It loads what talks to providers, so nothing imports it at start. allauth 65 checks `state`, and of the ID token `iss`,
`aud` and `exp`; not its signature (over TLS Core 1.0 section 3.1.3.7 allows that), no nonce, no `auth_time`. It trusts
the issuer that the discovery document names, and the request's Host header for our own address.
"""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import urlsplit

import jwt
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.oauth2.client import OAuth2Client, OAuth2Error
from allauth.socialaccount.providers.openid_connect.provider import OpenIDConnectProvider
from allauth.socialaccount.providers.openid_connect.views import OpenIDConnectOAuth2Adapter
from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest
from django.urls import reverse
from django.utils.crypto import salted_hmac

from jitaccess.identity.issuer import provider_id

# What a public key signs. Never "none", never a shared secret: a public key could be passed off as one (RFC 8725, 2.1).
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_LEEWAY = 30  # seconds by which the provider's clock may differ
_FRESH = 300  # seconds for which its discovery document is kept


def app() -> SocialApp:
    """The provider of the settings, in allauth's form; in no database."""
    how = {
        "server_url": settings.OIDC_ISSUER,
        "fetch_userinfo": False,
        "oauth_pkce_enabled": True,
        "scope": list(dict.fromkeys(["openid", *settings.OIDC_SCOPES])),
    }
    return SocialApp(
        provider="openid_connect",
        provider_id=provider_id(),
        name=settings.OIDC_NAME,
        client_id=settings.OIDC_CLIENT_ID,
        secret=settings.OIDC_CLIENT_SECRET,
        settings=how,
    )


class Client(OAuth2Client):  # type: ignore[misc]  # allauth ships no types
    """With a nonce, which ties the ID token to the browser that began."""

    def get_redirect_url(self, authorization_url: str, scope: list[str], extra_params: dict[str, str]) -> str:
        said = {**extra_params, "nonce": nonce_of(self.state)}
        return str(super().get_redirect_url(authorization_url, scope, said))


class Adapter(OpenIDConnectOAuth2Adapter):  # type: ignore[misc]  # allauth ships no types
    """The code flow with our provider."""

    client_class = Client

    @property
    def openid_config(self) -> dict[str, Any]:
        return discovered()

    def get_callback_url(self, request: HttpRequest, app: SocialApp) -> str:  # noqa: ARG002 - allauth names them
        return f"{settings.PUBLIC_URL}{reverse('oidc_callback')}"

    def complete_login(self, request: HttpRequest, app: SocialApp, token: Any, **said: Any) -> Any:  # noqa: ARG002
        """Raises OAuth2Error."""
        # The state was this session's, and is used up by now.
        claims = claims_of(said["response"].get("id_token"), nonce=nonce_of(request.GET["state"]))
        login = self.get_provider().sociallogin_from_response(request, claims)
        login.claims = claims
        return login


class Provider(OpenIDConnectProvider):  # type: ignore[misc]  # allauth ships no types
    """Takes no parameters from whoever sends the form, and keeps of the provider's claims only who it is."""

    oauth2_adapter_class = Adapter

    def get_auth_params_from_request(self, request: HttpRequest, action: str) -> dict[str, str]:  # noqa: ARG002
        return dict(self.get_auth_params())

    def get_scope_from_request(self, request: HttpRequest) -> list[str]:  # noqa: ARG002 - allauth names it
        return list(self.get_scope())

    def extract_uid(self, data: dict[str, Any]) -> str:
        return str(data["sub"])

    def extract_extra_data(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"iss": data["iss"]}

    def extract_common_fields(self, data: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - allauth names it
        return {}

    def extract_email_addresses(self, data: dict[str, Any]) -> list[Any]:  # noqa: ARG002 - allauth names it
        """None: an address there makes nobody the person who has it here."""
        return []


def nonce_of(state: str) -> str:
    """Known from the state to us alone."""
    return salted_hmac("jitaccess.oidc.nonce", state, algorithm="sha256").hexdigest()


def discovered() -> dict[str, Any]:
    """The provider's discovery document (Discovery 1.0 section 4). Raises OAuth2Error, EgressRefused, RequestException.

    It has to name the configured issuer, letter by letter (section 4.3), and endpoints no less safe than that.
    """
    issuer, key = settings.OIDC_ISSUER, f"oidc:{provider_id()}"
    found = cache.get(key)
    if found is None:
        found = _fetched(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != issuer:
            raise OAuth2Error("the provider calls itself by another name than the one configured")
        schemes = {"https"} if issuer.startswith("https:") else {"https", "http"}
        if not all(urlsplit(str(found.get(name, ""))).scheme in schemes for name in _ENDPOINTS):
            raise OAuth2Error("the provider lacks an endpoint, or has an unsafe one")
        cache.set(key, found, _FRESH)
    return dict(found)


def claims_of(token: object, *, nonce: str) -> dict[str, Any]:
    """The claims of an ID token, checked as Core 1.0 section 3.1.3.7 says, its signature always. Raises OAuth2Error."""
    if not isinstance(token, str):
        raise OAuth2Error("there is no ID token")
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            _key_of(jwt.get_unverified_header(token)),
            algorithms=list(ALGORITHMS),
            audience=settings.OIDC_CLIENT_ID,
            issuer=settings.OIDC_ISSUER,
            leeway=_LEEWAY,
            options={"require": ["iss", "sub", "aud", "exp", "iat"]},
        )
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise OAuth2Error(f"the ID token is not good: {error}") from error
    parties = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    if claims.get("azp", None if len(parties) > 1 else settings.OIDC_CLIENT_ID) != settings.OIDC_CLIENT_ID:
        raise OAuth2Error("the ID token is for another client")
    if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise OAuth2Error("the ID token belongs to another sign-in")
    if not isinstance(claims["sub"], str) or not 1 <= len(claims["sub"]) <= 191:
        raise OAuth2Error("the ID token names nobody")
    return claims


def _key_of(header: dict[str, Any]) -> jwt.PyJWK:
    keys = jwt.PyJWKSet.from_dict(_fetched(discovered()["jwks_uri"])).keys
    kid = header.get("kid")
    fitting = [key for key in keys if key.key_id == kid] if kid is not None else keys
    if len(fitting) != 1:
        raise jwt.InvalidKeyError("no key of the provider's fits")
    return fitting[0]


def _fetched(url: str) -> dict[str, Any]:
    with get_adapter().get_requests_session() as session:
        answer = session.get(url)
        answer.raise_for_status()
        found = answer.json()
    if not isinstance(found, dict):
        raise OAuth2Error("the provider answers with something else than a document")
    return found
