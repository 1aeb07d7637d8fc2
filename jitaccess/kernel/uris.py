"""One spelling of a URI: what is decided on must be what a server reads out of it (RFC 3986, section 6.2)."""

from __future__ import annotations

import re

# Printable ASCII without what parsers mend in silence. Braces stay: templates (RFC 6570) are matched too.
_CHARACTERS = re.compile(r"[!-\[\]_a-z{}|~$%&'()*+,;=:@/?#^`]*")
_PARTS = re.compile(r"([a-z][a-z0-9+.-]*):(?://([^/?#]*))?([^?#]*)(\?[^#]*)?")
_ESCAPE = re.compile(r"%(..)?")
_HOST = re.compile(r"(?:[a-z0-9._~!$&'()*+,;={}%-]*|\[[0-9a-f:.]+\])(?::[1-9][0-9]*)?")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HIDING = frozenset("/\\\0")
_DEFAULT_PORTS = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443"}


def is_normal(uri: str) -> bool:
    """Whether no parser would read another URI out of it.

    No control characters, spaces, backslashes or characters beyond ASCII; scheme and host in small letters, no default
    port; no dot segments; nothing escaped that need not be, no escaped separators, escapes in capital letters; no
    fragment and no empty query. A `file:` URI has no host, no query and no empty segment.
    """
    if "\\" in uri or not _CHARACTERS.fullmatch(uri):
        return False
    parts = _PARTS.fullmatch(uri)
    if parts is None or not all(_is_needed(found[1]) for found in _ESCAPE.finditer(uri)):
        return False
    scheme, host, path, query = parts.groups()
    segments = path.split("/")
    if {".", ".."} & set(segments) or query == "?":
        return False
    if host is not None and (not _HOST.fullmatch(host) or host.endswith(_DEFAULT_PORTS.get(scheme, "\0"))):
        return False
    return scheme != "file" or (not host and query is None and "" not in segments[1:-1])


def _is_needed(digits: str | None) -> bool:
    """Whether an escape stands for a byte that can be written in no other way."""
    if digits is None or not re.fullmatch("[0-9A-F]{2}", digits):
        return False
    character = chr(int(digits, 16))
    return character not in _UNRESERVED and character not in _HIDING
