"""Settings of the frameworks under the API, taken over by jitaccess/settings.py."""

from __future__ import annotations

from typing import Any

PREFIX = "/api/v1/"
# Everything that the OpenAPI file tells of, and where errors are problems.
PREFIXES = (PREFIX, "/access/v1/", "/.well-known/authzen-configuration")

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["jitaccess.api.caller.Authentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["jitaccess.api.parsing.StrictJson"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_METADATA_CLASS": None,
    "EXCEPTION_HANDLER": "jitaccess.api.problems.on_exception",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "jitaccess",
    "DESCRIPTION": (
        "Access for a while, for a reason, by somebody's yes. Agents present a bearer token, people the session of "
        "their browser; agents ask, people decide. Every refusal is an RFC 9457 problem with a stable `code`."
    ),
    "VERSION": "1.0.0",
    "OAS_VERSION": "3.1.1",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "ENUM_NAME_OVERRIDES": {
        "DeliveryState": "jitaccess.api.hook_shapes.STATES",
        "GrantState": "jitaccess.api.shape_parts.GRANT_STATES",
        "ItemKind": "jitaccess.api.shape_parts.ITEM_KINDS",
        "LockKind": "jitaccess.policy.models.Lock.Kind",
        "ProvisionState": "jitaccess.api.shape_parts.PROVISION_STATES",
        "RequestKind": "jitaccess.api.shape_parts.KINDS",
        "VerdictEnum": "jitaccess.api.shape_parts.VERDICTS",
    },
    "PREPROCESSING_HOOKS": ["jitaccess.api.schema.only_this_api"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "jitaccess.api.schema.shortened",
    ],
    "TAGS": [
        {"name": "requests", "description": "Asking for access, and deciding on it."},
        {"name": "grants", "description": "Access that was approved, until it ends."},
        {"name": "agents", "description": "Who asks."},
        {"name": "catalog", "description": "Servers and their tools."},
        {"name": "policy", "description": "Roles, and who has them."},
        {"name": "ledger", "description": "What happened, and proofs of it."},
        {"name": "authzen", "description": "OpenID AuthZEN: decisions, and requests for what they deny."},
        {"name": "about", "description": "Who you are here, and what there is."},
    ],
}


def caches(redis: str) -> dict[str, dict[str, Any]]:
    """Django's CACHES. `api` counts calls for all processes; `api-local` does for this one when Redis is away."""

    def local(name: str) -> dict[str, Any]:
        backend = "django.core.cache.backends.locmem.LocMemCache"
        return {"BACKEND": backend, "LOCATION": name, "OPTIONS": {"MAX_ENTRIES": 20_000}}

    shared = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": redis,
        "OPTIONS": {"socket_timeout": 0.5, "socket_connect_timeout": 0.5},
    }
    return {"default": local("default"), "api": shared if redis else local("api"), "api-local": local("api-local")}
