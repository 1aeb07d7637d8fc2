"""Where every server is: the operator's file and the rows of HTTP servers, followed while they change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import cast

from jitaccess.catalog.credentials import credentials_of
from jitaccess.catalog.models import Server, Transport
from jitaccess.gateway.upstream.config import Era, HttpServer, ServerConfig, load_servers_file
from jitaccess.kernel.errors import JitAccessError

log = logging.getLogger("jitaccess.servers")


@dataclass(frozen=True, slots=True)
class Listing:
    """The servers at one moment. `troubles` say, by slug, why one is not used as it is written down ("" is the file);
    `disabled` are not used by anybody.
    """

    configs: Mapping[str, ServerConfig] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    troubles: Mapping[str, str] = field(default_factory=dict)


class Directory:
    """Gives the present configuration of a server. Calling it and `all` ask nobody; `follow` looks at file and rows.

    `follow` belongs to one thread at a time, the rest to any.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listing = Listing()
        self._from_file: Mapping[str, ServerConfig] = {}
        self._file_trouble = ""
        self._mark: object = None
        self._opened: dict[str, tuple[object, ServerConfig | JitAccessError]] = {}

    def __call__(self, slug: str) -> ServerConfig | None:
        listing = self._listing
        return None if slug in listing.disabled else listing.configs.get(slug)

    @property
    def listing(self) -> Listing:
        """All of it, as last seen."""
        return self._listing

    def all(self) -> dict[str, ServerConfig]:
        """Every server that may be used, by slug."""
        listing = self._listing
        return {slug: config for slug, config in listing.configs.items() if slug not in listing.disabled}

    def in_file(self, slug: str) -> bool:
        """Whether the operator's file names it."""
        return slug in self._from_file

    def follow(self) -> Directory:
        """Take over what has changed in the file and the rows. Raises DatabaseError, and keeps what was known then."""
        self._read_file()
        rows = list(Server.objects.prefetch_related("credentials"))
        troubles = {"": self._file_trouble} if self._file_trouble else {}
        configs = dict(self._from_file)
        for row in rows:
            if row.transport != Transport.HTTP or not row.enabled:
                continue
            if row.slug in configs:
                troubles[row.slug] = (
                    f'"{row.slug}" is both in {self._path} and an HTTP server in the database. The file is used; '
                    "remove one of them"
                )
                continue
            config = self._config(row)
            if isinstance(config, JitAccessError):
                troubles[row.slug] = config.detail
            else:
                configs[row.slug] = config
        self._opened = {slug: known for slug, known in self._opened.items() if slug in configs or slug in troubles}
        disabled = frozenset(row.slug for row in rows if not row.enabled)
        self._tell(troubles)
        self._listing = Listing(MappingProxyType(configs), disabled, MappingProxyType(troubles))
        return self

    def _read_file(self) -> None:
        """The file, if it changed. One that is wrong changes nothing: a slip must not take every server away."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._mark, self._from_file, self._file_trouble = None, {}, ""
            return
        except OSError as error:
            self._file_trouble = f"{self._path} cannot be read: {error.strerror}. What it said before is still used"
            return
        mark = (found.st_mtime_ns, found.st_size, found.st_ino)
        if mark == self._mark:
            return
        try:
            self._from_file, self._file_trouble = load_servers_file(self._path), ""
        except JitAccessError as error:
            self._file_trouble = f"{error.detail.rstrip('.')}. What the file said before is still used"
        self._mark = mark

    def _config(self, row: Server) -> ServerConfig | JitAccessError:
        """Opened once for each state of the row: a failure of a missing key is tried anew, the key may be back."""
        sealed = tuple((credential.header, credential.sealed) for credential in row.credentials.all())
        mark = (row.pk, row.url, row.era, row.shared, sealed)
        known = self._opened.get(row.slug)
        if known is not None and known[0] == mark and not isinstance(known[1], JitAccessError):
            return known[1]
        config: ServerConfig | JitAccessError
        try:
            config = http_config(row)
        except JitAccessError as error:
            config = error
        self._opened[row.slug] = mark, config
        return config

    def _tell(self, troubles: Mapping[str, str]) -> None:
        """One line when it begins and one when it is over, not one each second."""
        before = self._listing.troubles
        for slug, trouble in troubles.items():
            if before.get(slug) != trouble:
                log.error("%s.", trouble.rstrip("."))
        for slug in before.keys() - troubles.keys():
            log.info("%s is all right again.", f'The server "{slug}"' if slug else self._path)


def http_config(row: Server) -> HttpServer:
    """How to reach an HTTP server, with its secrets. Raises Unavailable when one cannot be opened."""
    headers = MappingProxyType(credentials_of(row))
    return HttpServer(slug=row.slug, url=row.url, headers=headers, era=cast(Era, row.era), shared=row.shared)
