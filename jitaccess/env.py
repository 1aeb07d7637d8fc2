"""Settings from the environment: typed, with `NAME_FILE` for secrets, every mistake one clear sentence."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

_TIMEOUTS = "-c idle_in_transaction_session_timeout=5s -c lock_timeout=5s -c statement_timeout=30s"


def text(name: str, default: str = "") -> str:
    """The value of `name`, or the content of the file that `name`_FILE names, or `default`."""
    path = os.environ.get(f"{name}_FILE")
    if path:
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ImproperlyConfigured(f"{name}_FILE names {path}, which cannot be read: {error.strerror}.") from error
    return os.environ.get(name, default).strip()


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
    return path.read_text(encoding="utf-8").strip()


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
        "OPTIONS": {"connect_timeout": "5", "options": _TIMEOUTS} | query,
    }
