"""Policy Decision Point Metadata (Authorization API 1.0), the keys of what is signed, and what a request has to say."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.permissions import AllowAny

from jitaccess.api.authzen import shapes
from jitaccess.api.authzen.binding import url
from jitaccess.api.authzen.endpoint import AuthZen
from jitaccess.api.endpoint import Request, Response
from jitaccess.api.schema import documented
from jitaccess.store import jose

CAPABILITY = "urn:openid:authzen:capability:access-request"
MAX_USES = "io.jitaccess/max_uses"
# Short, so that a key that was added is known before anything signed with it is looked at.
CACHED = {"Cache-Control": "public, max-age=300"}


class Open(AuthZen):
    """For whoever comes by, as these documents are meant to be."""

    authentication_classes = ()
    permission_classes = (AllowAny,)


class MetadataView(Open):
    @documented(
        "authzen_metadata",
        "Where the AuthZEN endpoints are",
        "There are no search endpoints, so none is named.",
        tag="authzen",
        answer=shapes.Metadata,
        public=True,
    )
    def get(self, request: Request) -> Response:  # noqa: ARG002 - the framework passes it
        document: dict[str, Any] = {
            "policy_decision_point": settings.PUBLIC_URL,
            "access_evaluation_endpoint": url("evaluation"),
            "access_evaluations_endpoint": url("evaluations"),
            "access_request_endpoint": url("requests"),
            "jwks_uri": url("jwks.json"),
            "capabilities": [CAPABILITY],
        }
        return Response(document, headers=CACHED)


class KeysView(Open):
    @documented(
        "authzen_keys",
        "Keys of what is signed",
        "A JWK Set (RFC 7517): the newest key signs, all of them verify.",
        tag="authzen",
        answer=shapes.KeySet,
        public=True,
    )
    def get(self, request: Request) -> Response:  # noqa: ARG002 - the framework passes it
        return Response({"keys": [key.jwk for key in jose.all_keys()]}, headers=CACHED)


class RequestSchemaView(Open):
    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:  # noqa: ARG002 - the framework passes it
        """What has to be added to `context` and `requested_access` of a submission, as JSON Schema."""
        return Response(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "$id": url("request-schema.json"),
                "type": "object",
                "required": ["context"],
                "properties": {
                    "context": {
                        "type": "object",
                        "required": ["business_justification"],
                        "properties": {
                            "business_justification": {
                                "type": "string",
                                "minLength": 1,
                                "maxLength": 2000,
                                "description": "Why it is needed: what the approver decides on.",
                            }
                        },
                    },
                    "requested_access": {
                        "type": "object",
                        "properties": {
                            "requested_until": {"type": "string", "format": "date-time"},
                            MAX_USES: {"type": "integer", "minimum": 1},
                        },
                    },
                },
            },
            headers=CACHED,
        )
