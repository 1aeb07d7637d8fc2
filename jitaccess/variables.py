"""Every environment variable, declared once: docs/settings.md is made from this; what is not here is warned about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True, slots=True)
class Variable:
    """`kind` and `default` as people read them. A secret may come from a file, which `NAME_FILE` names."""

    name: str
    kind: str
    default: str
    meaning: str
    secret: bool = False


VARIABLES = {
    one.name: one
    for one in (
        # where things are
        Variable("DATABASE_URL", "URL", "SQLite in `JITACCESS_VAR`",
            "PostgreSQL: `postgresql://user:password@host:5432/name?sslmode=verify-full`. Needed by several processes.",
            secret=True),
        Variable("REDIS_URL", "URL", "none: web processes embed worker and beat",
            "Redis for Celery: `rediss://:password@host:6379/0`. `jitaccess worker` and `beat` need it.", secret=True),
        Variable("JITACCESS_VAR", "folder", "`var` in the checkout",
            "Secrets that were made here, the SQLite database, backups; readable by its owner only."),
        Variable("JITACCESS_SERVERS_FILE", "file", "`servers.json` in `JITACCESS_VAR`",
            "The operator's list of MCP servers that jitaccess starts."),
        Variable("JITACCESS_CHECKPOINTS", "folder", "`checkpoints` in `JITACCESS_VAR`",
            "Signed heads of the ledger. Shared by every process that signs, on another volume than the database."),
        Variable("JITACCESS_CHECKPOINT_KEYS", "file", "`secrets/checkpoint_keys` in `JITACCESS_VAR`",
            "The keys that sign them; shared as well, and worth a backup of its own."),
        # secrets
        Variable("JITACCESS_SECRET_KEY", "text", "made once, `secrets/secret_key` in `JITACCESS_VAR`",
            "Signs cookies and forms. The same for every web process.", secret=True),
        Variable("JITACCESS_KEYS", "keys", "made once, `secrets/sealing_keys` in `JITACCESS_VAR`",
            "Seal MCP sessions and stored credentials: `k2:…,k1:…`, newest first. The same for every process.",
            secret=True),
        Variable("JITACCESS_METRICS_TOKEN", "text", "made once, `secrets/metrics_token` in `JITACCESS_VAR`",
            "The bearer token of `/metrics`.", secret=True),
        # how it is reached
        Variable("JITACCESS_PUBLIC_URL", "URL", "`http://127.0.0.1:8000`",
            "How people and agents reach it. With `https` cookies are for TLS only, and browsers keep to it (HSTS)."),
        Variable("JITACCESS_ALLOWED_HOSTS", "names, comma-separated", "none",
            "Further Host names, besides that of the public URL."),
        Variable("JITACCESS_ALLOWED_ORIGINS", "origins, comma-separated", "none",
            "Further web origins whose pages may call the gateway."),
        Variable("JITACCESS_TRUSTED_PROXIES", "networks, comma-separated", "none",
            "Reverse proxies (`10.0.0.0/8, 192.0.2.7`) whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed."),
        # how it runs
        Variable("JITACCESS_DRAIN_SECONDS", "seconds", "`0`",
            "How long a process that was told to stop goes on serving while `/readyz` fails: balancers see it."),
        Variable("JITACCESS_STOP_SECONDS", "seconds", "`10`; `2` for `jitaccess up`",
            "How long calls in flight may go on after that. What is cut is recorded as `call.outcome_unknown`."),
        Variable("JITACCESS_HEALTH_PORT", "port", "none",
            "Where `worker` and `beat` answer `/healthz`, `/readyz` and `/metrics`, on all addresses."),
        Variable("JITACCESS_MIGRATE", "true or false", "`false`",
            "Read by the container's entry point: `jitaccess migrate` first, then the command, if there is one."),
        Variable("JITACCESS_RUNNING_ROLE", "name", "none",
            "Read by the container's entry point: after migrating, `jitaccess database grant` for this role."),
        Variable("JITACCESS_DEBUG", "true or false", "`false`",
            "Django's debug pages. Never where others can reach it."),
        # what limits it
        Variable("JITACCESS_EGRESS_ALLOW", "hosts, networks, host:port, comma-separated", "none",
            "What jitaccess's own requests may reach although it is not public, or not over https."),
        Variable("JITACCESS_CATALOGUE_SECONDS", "seconds", "`300`",
            "How often each MCP server is asked what it offers, besides when it says that this has changed."),
        Variable("JITACCESS_RATE_PER_MINUTE", "number", "`6000`",
            "Requests of one agent (for one person) to one gateway process; beyond it is answered with 429."),
        Variable("JITACCESS_RATE_BURST", "number", "`1000`", "So many of them may come at once after a pause."),
        Variable("JITACCESS_API_READS_PER_MINUTE", "number", "`600`", "Of one caller of the REST API."),
        Variable("JITACCESS_API_WRITES_PER_MINUTE", "number", "`60`", "Of one caller of the REST API."),
        Variable("JITACCESS_AUTHZEN_FILE", "file", "`authzen.yaml` in `JITACCESS_VAR`, if there is one",
            "What the words of other systems mean here, for the AuthZEN API and for forward-auth."),
        # whom the command line asks
        Variable("JITACCESS_URL", "URL", "none",
            "The installation that `jitaccess request` and the other verbs of agents ask."),
        Variable("JITACCESS_TOKEN", "text", "none",
            "The agent's token they do it with. `requests` and `grants` read over the API where it is set.",
            secret=True),
        # what it says
        Variable("JITACCESS_LOG_LEVEL", "DEBUG, INFO, WARNING or ERROR", "`INFO`", "How much is logged."),
        Variable("JITACCESS_LOG_FORMAT", "json or line", "`json` for separate processes, `line` for `up` and terminals",
            "One JSON object a line, or lines for people."),
        Variable("JITACCESS_EMAIL_URL", "URL", "none: notices go to the log only",
            "`smtp://user:password@host:587` (with `?starttls=true`: TLS) or `smtps://…:465`.",
            secret=True),
        Variable("JITACCESS_EMAIL_FROM", "address", "`jitaccess@` the public host", "The sender of e-mail."),
        # how people sign in
        Variable("JITACCESS_OIDC_ISSUER", "URL", "none", "The OpenID Connect provider that people may sign in with."),
        Variable("JITACCESS_OIDC_CLIENT_ID", "text", "none", "What jitaccess is called there."),
        Variable("JITACCESS_OIDC_CLIENT_SECRET", "text", "none", "Its secret there.", secret=True),
        Variable("JITACCESS_OIDC_NAME", "text", "`single sign-on`", "What the button on the sign-in page says."),
        Variable("JITACCESS_OIDC_CREATE", "true or false", "`false`",
            "Whether somebody who signs in there for the first time gets an account here, without any rights."),
        Variable("JITACCESS_OIDC_SCOPES", "words, comma-separated", "`openid, profile, email`", "What is asked of it."),
        Variable("JITACCESS_LOCAL_PASSWORDS", "true or false", "`true`", "Whether people may have a password here."),
        Variable("JITACCESS_MFA_REQUIRED", "none, admins or all", "`none`", "Who needs a second factor."),
        Variable("JITACCESS_STEP_UP_SECONDS", "seconds", "`300`",
            "How long somebody who proved who they are may approve what asks for that."),
        Variable("JITACCESS_STEP_UP_WITH", "of password, totp, webauthn", "all of them", "What counts as proof."),
        # whom it tells
        Variable("JITACCESS_SLACK_BOT_TOKEN", "text", "none: no Slack", "The app's bot token, `xoxb-…`.", secret=True),
        Variable("JITACCESS_SLACK_APP_TOKEN", "text", "none", "Its app-level token, `xapp-…`, for Socket Mode.",
            secret=True),
        Variable("JITACCESS_SLACK_SIGNING_SECRET", "text", "none", "What Slack signs its requests with, for HTTP.",
            secret=True),
        Variable("JITACCESS_SLACK_APP_ID", "id", "none", "`A…`: nothing from another app is listened to."),
        Variable("JITACCESS_SLACK_TEAM_ID", "id", "none", "`T…`: nothing from other workspaces is listened to."),
        Variable("JITACCESS_SLACK_ENTERPRISE_ID", "id", "none", "`E…`, where the workspace is part of a grid."),
        Variable("JITACCESS_SLACK_CHANNELS", "ids, comma-separated", "none", "Where new requests are posted: `C…`."),
        Variable("JITACCESS_SLACK_MODE", "socket or http", "`socket`", "How Slack reaches jitaccess."),
        Variable("JITACCESS_SLACK_API_URL", "URL", "`https://slack.com/api/`", "Another address of its API."),
        Variable("JITACCESS_WEBHOOK_DAYS", "number", "`1`", "After so many days a webhook's delivery is given up."),
        Variable("OTEL_EXPORTER_OTLP_ENDPOINT", "URL", "none: no traces",
            "Sends traces of calls there (OTLP over HTTP); needs `pip install 'jitaccess[otel]'`."),
    )
}  # fmt: skip

_KEPT_FOR_TESTS = ("JITACCESS_TEST_", "JITACCESS_HYPOTHESIS")


def strangers(names: Iterable[str]) -> list[str]:
    """A sentence for each JITACCESS_ variable that nobody reads, with what was probably meant."""
    found = []
    for name in sorted(names):
        known = name.removesuffix("_FILE") if name.endswith("_FILE") and name not in VARIABLES else name
        if not name.startswith("JITACCESS_") or name.startswith(_KEPT_FOR_TESTS) or known in VARIABLES:
            continue
        meant = get_close_matches(name, VARIABLES, n=1, cutoff=0.75)
        found.append(f"{name} is set, but nobody reads it{f': did you mean {meant[0]}?' if meant else '.'}")
    return found


def as_markdown() -> str:
    """docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "All settings are environment variables. This page is made from the code by `jitaccess settings --markdown`.",
        "Any of them can come from a file instead, which is the way for secrets: `NAME_FILE=/run/secrets/name`.",
        "A `JITACCESS_` variable that is not listed here is warned about at start.",
        "",
        "| variable | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for one in VARIABLES.values():
        secret = " **Secret.**" if one.secret else ""
        lines.append(f"| `{one.name}` | {one.kind} | {one.default} | {one.meaning}{secret} |")
    return "\n".join(lines) + "\n"
