"""Which URLs may be fetched: one strict reading of a URL, and a judgement of the address behind it.

Two parsers that read one URL in two ways are how such checks are passed. So a URL is read here once, by a narrow
grammar, and only the canonical spelling made from that reading is ever handed on.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

import idna

from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import visible

from .errors import SETTING, EgressRefused

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

MAX_URL = 2048
# Others carry another protocol as likely as not (25, 6379): a request there needs the operator's word.
USUAL_PORTS = frozenset({443, 8443})

_URL = re.compile(r"(https?)://([^/?#]+)(/[^?#]*)?(\?[^#]*)?(#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:@]*)(?::([0-9]*))?")
_FORBIDDEN = re.compile(r'[\x00-\x20\x7f-\xa0\\<>"^`{|}]')
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: what DNS64 answers for every host of IPv4
_UNIQUE_LOCAL = ipaddress.IPv6Network("fc00::/7")
_UNICAST = ipaddress.IPv6Network("2000::/3")
_TRANSITION = (
    ipaddress.IPv6Network("2001::/32"),  # Teredo: an IPv4 address inside, reached through a relay
    ipaddress.IPv6Network("2002::/16"),  # 6to4: the same
    ipaddress.IPv4Network("192.88.99.0/24"),
)
# RFC 6890, IETF protocol assignments; 192.0.0.192 is a cloud's metadata service. Older Pythons call most of it global.
_ASSIGNMENTS = ipaddress.IPv4Network("192.0.0.0/24")
_CGNAT = ipaddress.IPv4Network("100.64.0.0/10")  # RFC 6598
# Where clouds hand out credentials to whoever asks from a machine of theirs, in addresses that look merely private:
# AWS and Google over IPv6, Alibaba. The others are link-local or in the assignments above.
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200")))


_HERE = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
_HERE_TOO = frozenset({"ip6-localhost", "ip6-loopback"})  # of the hosts file of Debian and others


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be reached although it is not public: names, and networks, each for one port or (None) for all.

    A name covers private, loopback and carrier-grade NAT addresses that it resolves to, but not link-local ones, a
    cloud's metadata service, or those that are no host at all: only a network covers these.
    """

    names: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[tuple[Network, int | None], ...] = field(default=())

    @classmethod
    def parse(cls, words: Iterable[str]) -> Allowance:
        """Read "127.0.0.1/32", "10.1.0.0/16", "::1", "mcp.internal", "mcp.internal:8080", "[::1]:8080".

        Raises Invalid "egress.bad_allowance" with the word.
        """
        names: set[tuple[str, int | None]] = set()
        networks: list[tuple[Network, int | None]] = []
        for word in words:
            try:
                networks.append((ipaddress.ip_network(word), None))
                continue
            except ValueError:
                pass
            try:
                host, port = _authority(word)
            except EgressRefused:
                shown = visible(word, limit=80)
                detail = f'{SETTING}: "{shown}" is no host, host:port, address or network (with no host bits set).'
                raise Invalid("egress.bad_allowance", detail) from None
            if isinstance(host, str):
                names.add((host, port))
            else:
                networks.append((ipaddress.ip_network(host), port))
        return cls(frozenset(names), tuple(networks))

    def has_name(self, name: str, port: int) -> bool:
        return (name, port) in self.names or (name, None) in self.names

    def has_address(self, address: Address, port: int) -> bool:
        return any(address in network and only in (None, port) for network, only in self.networks)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that was read: `url` is canonical, `host` a lower-case ASCII name or `address`."""

    url: str = field(repr=False)  # a query may hold a key
    scheme: str
    host: str
    port: int
    address: Address | None

    @property
    def origin(self) -> str:
        return f"{self.host}:{self.port}"


def read_url(url: str) -> Target:
    """Read a URL without judging where it leads. Raises EgressRefused "egress.bad_url"."""
    if len(url) > MAX_URL:
        _bad(f"it has more than {MAX_URL} characters")
    if _FORBIDDEN.search(url):
        _bad("it holds spaces, control characters, backslashes or other characters that no URL has")
    found = _URL.fullmatch(url)
    if not found:
        _bad('it must begin with "https://" and a host')
    scheme, authority, path, query, fragment = found.groups()
    if "@" in authority:
        _bad("it must not hold a user name or password")
    if fragment is not None:
        _bad('it must not have a fragment ("#")')
    host, port = _authority(authority)
    scheme = scheme.lower()
    usual = 443 if scheme == "https" else 80
    port = port or usual
    name = str(host)
    shown = f"[{name}]" if isinstance(host, ipaddress.IPv6Address) else name
    rest = _ascii((path or "/") + (query or ""))
    canonical = f"{scheme}://{shown}{'' if port == usual else f':{port}'}{rest}"
    return Target(canonical, scheme, name, port, None if isinstance(host, str) else host)


def check_url(url: str, allowance: Allowance) -> Target:
    """Read a URL and judge all that can be judged before its name is resolved.

    https to a public host at a usual port is fine; plain http, other ports, and addresses that are not public need
    the host in `allowance`. Raises EgressRefused.
    """
    target = read_url(url)
    if target.address is not None:
        check_address(target.address, target, allowance)
        listed = allowance.has_address(effective(target.address), target.port)
    else:
        listed = allowance.has_name(target.host, target.port)
        if _is_here(target.host) and not listed and not any(allowance.has_address(one, target.port) for one in _HERE):
            _refused(target, f'"{target.host}" is this machine')
    if not listed and target.scheme != "https":
        _refused(target, f'"{target.host}" may be reached over https only')
    if not listed and target.port not in USUAL_PORTS:
        _refused(target, f'the port {target.port} of "{target.host}" is not one where https usually is')
    return target


def check_address(address: Address, target: Target, allowance: Allowance) -> None:
    """Judge one address that `target` leads to. Raises EgressRefused unless it is public or allow-listed."""
    address = effective(address)
    problem = _problem(address)
    if problem is None or allowance.has_address(address, target.port):
        return
    if problem in _NAMEABLE and target.address is None and allowance.has_name(target.host, target.port):
        return
    where = "is" if target.address is not None else f"leads to {address}, which is"
    entry = None if problem in _NAMEABLE and target.address is None else str(address)
    _refused(target, f'"{target.host}" {where} {problem}', entry=entry)


def _is_here(name: str) -> bool:
    """Whether it can be nothing else than a loopback address (RFC 6761 section 6.3): known before it is resolved."""
    return name in _HERE_TOO or f".{name}".endswith((".localhost", ".localhost.localdomain"))


def effective(address: Address) -> Address:
    """The IPv4 address inside an IPv4-mapped or NAT64 one: that is the host which is reached."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


_LOOPBACK, _PRIVATE, _SHARED = "a loopback address", "a private address", "a carrier-grade NAT address"
_NAMEABLE = frozenset({_LOOPBACK, _PRIVATE, _SHARED})


def _problem(address: Address) -> str | None:
    """Why an effective address is not public. The order matters: a link-local address is also a private one."""
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_link_local or (isinstance(address, ipaddress.IPv6Address) and address.is_site_local):
        return "a link-local address"
    if address in _METADATA:
        return "a cloud's metadata service"
    if address.is_multicast:
        return "a multicast address"
    if address.is_loopback:
        return _LOOPBACK
    if address in _CGNAT:
        return _SHARED
    if any(address in network for network in _TRANSITION):
        return "an address of an IPv6 transition mechanism"
    if address.is_reserved or address in _ASSIGNMENTS or address in _THIS_NETWORK:
        return "a reserved address"
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return _PRIVATE if address in _UNIQUE_LOCAL else "a reserved address"
    return None if address.is_global else _PRIVATE


def _authority(text: str) -> tuple[str | Address, int | None]:
    found = _AUTHORITY.fullmatch(text)
    if not found or not found[1]:
        _bad("its host and port cannot be read")
    host, digits = found[1], found[2]
    if digits is not None and not (digits and len(digits) <= 5 and 0 < int(digits) < 65536):
        _bad("its port must be a number from 1 to 65535")
    return _host(host), int(digits) if digits else None


def _host(text: str) -> str | Address:
    if text.startswith("["):
        try:
            if "%" in text:  # a zone id: another interface, another machine
                _bad("an IPv6 address must not have a zone")
            return ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            _bad("its IPv6 address cannot be read")
    if not text.isascii():
        try:
            text = idna.encode(text, uts46=True, std3_rules=True).decode()
        except (idna.IDNAError, UnicodeError):
            _bad("its host is no valid international name")
    labels = text.lower().removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # What inet_aton takes for an address is one, however it is spelt (WHATWG URL, "ends in a number").
        return _ipv4(labels)
    if not all(_LABEL.fullmatch(label) for label in labels) or len(".".join(labels)) > 253:
        _bad("its host is no valid name")
    return ".".join(labels)


def _ipv4(parts: list[str]) -> ipaddress.IPv4Address:
    """Read one to four numbers, each decimal, octal (0…) or hexadecimal (0x…); the last fills what is left."""
    problem = "its host ends in a number but is no IPv4 address"
    if len(parts) > 4 or any(len(part) > 16 or not _NUMBER.fullmatch(part) for part in parts):
        _bad(problem)
    try:
        *heads, last = [_number(part) for part in parts]
    except ValueError:  # 08 is octal, and is not
        _bad(problem)
    if any(head > 255 for head in heads) or last >= 256 ** (4 - len(heads)):
        _bad(problem)
    return ipaddress.IPv4Address(sum(head << 8 * (3 - place) for place, head in enumerate(heads)) + last)


def _number(part: str) -> int:
    if part[:2] == "0x":
        return int(part[2:] or "0", 16)
    return int(part, 8 if part[0] == "0" else 10)


def _ascii(text: str) -> str:
    """Percent-encode what is not ASCII (RFC 3987, section 3.1); escapes that are there stay as they are."""
    try:
        return "".join(char if char < "\x80" else "".join(f"%{byte:02X}" for byte in char.encode()) for char in text)
    except UnicodeEncodeError:
        _bad("it holds a lone surrogate")


def _bad(problem: str) -> NoReturn:
    raise EgressRefused("egress.bad_url", f"The URL cannot be used: {problem}.")


def _refused(target: Target, problem: str, *, entry: str | None = None) -> NoReturn:
    host = f"[{target.host}]" if isinstance(target.address, ipaddress.IPv6Address) else target.host
    entry = entry or f"{host}:{target.port}"
    detail = f"Not allowed: {problem}. If that is meant, the operator adds {entry} to {SETTING}."
    raise EgressRefused("egress.refused", detail, setting=SETTING, entry=entry, host=target.host)
