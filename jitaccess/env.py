"""Settings from the environment: typed, with `NAME_FILE` for secrets, every mistake one clear sentence."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

from jitaccess.kernel import discreet
from jitaccess.kernel.errors import Invalid, JitAccessError
from jitaccess.variables import VARIABLES

_TIMEOUTS = "-c idle_in_transaction_session_timeout=5s -c lock_timeout=5s -c statement_timeout=30s"
# A host that loses its power says no goodbye; by TCP's defaults whoever waits for its answer waits for minutes, or for
# hours. Seconds, and milliseconds for what it did not acknowledge.
_SILENCE = {"keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3", "tcp_user_timeout": "11000"}


def text(name: str, default: str = "") -> str:
    """The value of `name`, or the content of the file that `name`_FILE names, or `default`.

    `jitaccess.variables` declares every name; what it calls a secret stays out of the log from here on.
    """
    value = _text(name) or default
    if name in VARIABLES and VARIABLES[name].secret:
        _hide(value)
    return value.strip()


def _text(name: str) -> str:
    path = os.environ.get(f"{name}_FILE")
    if path:
        try:
            return Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ImproperlyConfigured(f"{name}_FILE names {path}, which cannot be read: {error.strerror}.") from error
    return os.environ.get(name, "")


def _hide(value: str) -> None:
    """Of a URL only its password; of keys each part, with and without its name."""
    if "://" in value:
        password = urlsplit(value).password or ""
        discreet.hide(password, unquote(password))
    else:
        parts = re.split(r"[\s,]+", value)
        discreet.hide(*parts, *(part.partition(":")[2] for part in parts))


def content(path: Path) -> str:
    """What a small file holds, or "" when there is none."""
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def private_folder(path: Path) -> None:
    """Make `path` where there is none, for its owner only: session keys and password hashes lie in it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)


def flag(name: str, *, default: bool) -> bool:
    """A strict boolean: true or false, nothing else."""
    value = text(name).lower()
    if not value:
        return default
    if value not in {"true", "false"}:
        raise ImproperlyConfigured(f"{name} must be true or false, not {value!r}.")
    return value == "true"


def number(name: str, *, default: float) -> float:
    """A number of seconds, a port: not negative."""
    value = text(name)
    try:
        found = float(value or default)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise ImproperlyConfigured(f"{name} must be a number from 0 on, not {value!r}.")
    return found


def networks(name: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """A comma-separated list of networks or addresses."""
    try:
        return [ipaddress.ip_network(part) for part in words(name)]
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} must list networks like 10.0.0.0/8: {error}.") from error


def choice(name: str, *, of: tuple[str, ...], default: str) -> str:
    """One of a few words."""
    value = text(name, default).lower()
    if value not in of:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(of)}, not {value!r}.")
    return value


def whole(name: str, *, default: int) -> int:
    """A whole number from 1 on."""
    value = text(name)
    if not value:
        return default
    if not (value.isascii() and value.isdigit() and int(value)):
        raise ImproperlyConfigured(f"{name} must be a whole number from 1 on, not {value!r}.")
    return int(value)


def ensure(name: str, read: Callable[[], object]) -> None:
    """Say now, and not at the first use, that a setting cannot be read. `read` raises JitAccessError."""
    try:
        read()
    except JitAccessError as error:
        raise ImproperlyConfigured(f"{name}: {error.detail}") from None


def web_address(url: str) -> None:
    """Raises Invalid unless it is what people's browsers and agents can use."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query or parts.username:
        raise Invalid("settings.url", "It must be http://NAME or https://NAME, with a port if need be, and no more.")


def words(name: str) -> list[str]:
    """A comma-separated list."""
    return [part.strip() for part in text(name).split(",") if part.strip()]


def secret(name: str, path: Path, make: str | None = None) -> str:
    """The secret `name` from the environment, else from `path`, created there (mode 0600) the first time.

    Two processes that start together must end with the same secret: the file is linked into place,
    which only one of them can do, and the loser reads the winner's.
    """
    value = text(name)
    if value:
        return value
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(make or secrets.token_urlsafe(48))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    value = path.read_text(encoding="utf-8").strip()
    _hide(value)
    return value


def secret_file(name: str, path: Path) -> Path | None:
    """The file that `secret` reads `name` from, or None when its value stands in the environment."""
    if named := os.environ.get(f"{name}_FILE"):
        return Path(named)
    return None if text(name) else path


def postgres(url: str) -> dict[str, object]:
    """A Django DATABASES entry from postgresql://user:password@host:port/name?host=/socket-directory."""
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"} or not parts.path.strip("/"):
        raise ImproperlyConfigured(
            "DATABASE_URL must look like postgresql://user:password@host:5432/name; "
            "leave it out to run on SQLite in var/."
        )
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    host = query.pop("host", unquote(parts.hostname or ""))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or ""),
        "CONN_HEALTH_CHECKS": True,
        "CONN_MAX_AGE": 60,
        # A session that hangs must not hold a lock that a revoke waits for, nor a server that is away a thread.
        "OPTIONS": {"connect_timeout": "5", "options": _TIMEOUTS} | _SILENCE | query,
    }
