"""`jitaccess check [--deploy]`: Django's system checks and ours. Every finding says what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.core import checks
from django.db import Error, connection

from jitaccess import env, variables
from jitaccess.audit.triggers import TABLES as LEDGER
from jitaccess.kernel.errors import JitAccessError
from jitaccess.runtime.preflight import ensure_current

Found = Iterator[checks.CheckMessage]
CERTAIN = {"verify-full", "verify-ca"}
SHORTEST_TOKEN = 20


@dataclass(frozen=True, slots=True)
class Report:
    lines: list[str]
    errors: int


def report(*, deploy: bool) -> Report:
    """Everything there is to say, worst first. The database is looked at with `deploy` only."""
    found = list(checks.run_checks(include_deployment_checks=deploy))
    found += [checks.Warning(sentence, id="jitaccess.W001") for sentence in variables.strangers(os.environ)]
    if deploy:
        found += [message for check in _CHECKS for message in check()]
    found = [one for one in found if one.id not in settings.SILENCED_SYSTEM_CHECKS]
    found.sort(key=lambda one: -one.level)
    errors = sum(one.level >= checks.ERROR for one in found)
    lines = [f"{_word(one)}: {one.msg}{f' {one.hint}' if one.hint else ''} ({one.id})" for one in found]
    lines.append(f"{errors} errors, {len(found) - errors} warnings." if found else "Nothing to say.")
    return Report(lines, errors)


def _word(message: checks.CheckMessage) -> str:
    return "ERROR" if message.level >= checks.ERROR else "WARNING"


def _reached() -> Found:
    if urlsplit(settings.PUBLIC_URL).scheme != "https":
        yield checks.Error(
            f"{settings.PUBLIC_URL} is not https: tokens and sign-in links travel readable.",
            hint="Put a reverse proxy with TLS in front, and set JITACCESS_PUBLIC_URL=https://….",
            id="jitaccess.E001",
        )
    elif not settings.TRUSTED_PROXIES:
        yield checks.Warning(
            "No reverse proxy is trusted, so the record has its address and not the client's.",
            hint="Set JITACCESS_TRUSTED_PROXIES to its network.",
            id="jitaccess.W002",
        )
    if settings.DEBUG:
        yield checks.Error(
            "Debug pages show settings to strangers.", hint="Unset JITACCESS_DEBUG.", id="jitaccess.E002"
        )
    if any("*" in host for host in settings.ALLOWED_HOSTS):
        yield checks.Error(
            "Every Host name is served: pages elsewhere can reach the gateway by DNS rebinding.",
            hint="List the names in JITACCESS_ALLOWED_HOSTS.",
            id="jitaccess.E003",
        )


def _doors() -> Found:
    everything = {"0.0.0.0/0", "::/0"}
    if any(str(network) in everything for network in settings.TRUSTED_PROXIES):
        yield checks.Error(
            "Every address is a trusted proxy: anybody can forge whose address the record has.",
            hint="List the networks of your proxies in JITACCESS_TRUSTED_PROXIES.",
            id="jitaccess.E010",
        )
    if everything & set(settings.EGRESS_ALLOW):
        yield checks.Error(
            "Servers may be anywhere, this machine and the cloud's metadata service included.",
            hint="List what is meant in JITACCESS_EGRESS_ALLOW.",
            id="jitaccess.E011",
        )
    if len(settings.METRICS_TOKEN) < SHORTEST_TOKEN:
        yield checks.Error(
            f"The token for /metrics has less than {SHORTEST_TOKEN} characters.",
            hint="Set JITACCESS_METRICS_TOKEN to a long random text.",
            id="jitaccess.E012",
        )


def _secrets() -> Found:
    """Several processes on several hosts must have the same; a folder that each makes for itself gives each its own."""
    if not settings.ON_POSTGRESQL:
        return
    for name in ("JITACCESS_SECRET_KEY", "JITACCESS_KEYS"):
        if not env.text(name):
            yield checks.Error(
                f"{name} comes from {settings.VAR}/secrets: another host would make its own.",
                hint=f"Set {name} or {name}_FILE to the same for every process.",
                id="jitaccess.E004",
            )
    if not env.text("JITACCESS_CHECKPOINT_KEYS"):
        yield checks.Error(
            f"The keys that sign the ledger are in {settings.CHECKPOINT_KEYS}, which another host would make anew.",
            hint="Set JITACCESS_CHECKPOINT_KEYS to a file that every process that signs shares.",
            id="jitaccess.E004",
        )


def _files() -> Found:
    for path in sorted({*_below(settings.VAR / "secrets"), settings.CHECKPOINT_KEYS}):
        if path.is_file() and path.stat().st_mode & 0o077:
            yield checks.Error(f"Others can read {path}.", hint=f"chmod 600 {path}", id="jitaccess.E005")
    if settings.VAR.is_dir() and settings.VAR.stat().st_mode & 0o007:
        yield checks.Error(
            f"Others can look into {settings.VAR}.", hint=f"chmod 700 {settings.VAR}", id="jitaccess.E005"
        )
    if _same_volume(settings.CHECKPOINTS, settings.VAR):
        yield checks.Warning(
            f"Checkpoints are on the same volume as {settings.VAR}: who can change one can change the other.",
            hint="Set JITACCESS_CHECKPOINTS to another volume, and copy it to where administrators cannot write.",
            id="jitaccess.W003",
        )


def _below(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _same_volume(one: Path, other: Path) -> bool:
    while not one.exists():
        one = one.parent
    return other.exists() and one.stat().st_dev == other.stat().st_dev


def _redis() -> Found:
    url = urlsplit(settings.REDIS_URL)
    if not settings.REDIS_URL:
        return
    if not url.password and not _local(url.hostname or ""):
        yield checks.Error("Redis needs no password.", hint="Set one, and put it into REDIS_URL.", id="jitaccess.E006")
    if url.scheme != "rediss" and not _local(url.hostname or ""):
        yield checks.Warning(
            "The way to Redis is not encrypted. It carries the names of sweeps and nothing else.",
            hint="Use rediss:// unless the network is yours alone.",
            id="jitaccess.W004",
        )


def _database() -> Found:
    if not settings.ON_POSTGRESQL:
        yield checks.Warning(
            "SQLite serves one process on one machine.", hint="Set DATABASE_URL for more.", id="jitaccess.W005"
        )
        return
    url = urlsplit(settings.DATABASE_URL)
    query = parse_qs(url.query)
    host = query.get("host", [url.hostname or ""])[0]
    mode = query.get("sslmode", ["prefer"])[0]
    if not _local(host) and mode not in CERTAIN:
        make = checks.Warning if mode == "require" else checks.Error
        yield make(
            f"sslmode={mode} lets somebody in between pretend to be {host}.",
            hint="Add ?sslmode=verify-full&sslrootcert=… to DATABASE_URL.",
            id="jitaccess.E007" if make is checks.Error else "jitaccess.W006",
        )
    try:
        ensure_current()
        owner = _may_change_the_ledger()
    except JitAccessError as error:
        yield checks.Error(error.detail, id="jitaccess.E008")
    except Error as error:
        yield checks.Error(f"The database cannot be used: {error}", id="jitaccess.E008")
    else:
        if owner:
            yield checks.Error(
                f"This database role is a superuser, or may change the ledger ({owner}).",
                hint="CREATE ROLE another, run `jitaccess database grant` for it as the owner, and connect as it.",
                id="jitaccess.E009",
            )


def _may_change_the_ledger() -> str:
    """A table of the ledger that this role owns or may change, "" when there is none."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM unnest(%s::text[]) AS name JOIN pg_class ON oid = to_regclass(name) "
            "WHERE pg_has_role(current_user, relowner, 'USAGE') "
            "OR has_table_privilege(current_user, oid, 'UPDATE, DELETE, TRUNCATE') ORDER BY name LIMIT 1",
            [list(LEDGER)],
        )
        found = cursor.fetchone()
    return str(found[0]) if found else ""


def _told() -> Found:
    if "email" not in settings.NOTIFY_CHANNELS:
        yield checks.Warning(
            "Nobody is told by e-mail: requests wait until somebody looks.",
            hint="Set JITACCESS_EMAIL_URL.",
            id="jitaccess.W007",
        )


def _local(host: str) -> bool:
    """On this machine: a socket's folder, localhost, a loopback address."""
    if not host or host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


_CHECKS: tuple[Callable[[], Found], ...] = (_reached, _doors, _secrets, _files, _redis, _database, _told)
