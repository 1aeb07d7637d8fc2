from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from jitaccess.egress.addresses import Allowance, check_address, check_url, effective, read_url
from jitaccess.egress.errors import EgressRefused
from jitaccess.kernel.errors import Invalid

pytestmark = pytest.mark.pure

NOTHING = Allowance()
PUBLIC = ipaddress.ip_network("93.184.216.0/24")


def refused(url: str, allowance: Allowance = NOTHING) -> EgressRefused:
    with pytest.raises(EgressRefused) as caught:
        check_url(url, allowance)
    return caught.value


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://EXAMPLE.com.:443/Mcp?A=b", "https://example.com/Mcp?A=b"),
        ("https://example.com:8443/a//b/../c", "https://example.com:8443/a//b/../c"),
        ("https://bücher.example/ä", "https://xn--bcher-kva.example/%C3%A4"),
        ("https://8.8.8.8/x", "https://8.8.8.8/x"),
        ("https://0x08080808/", "https://8.8.8.8/"),
        ("https://134744072/", "https://8.8.8.8/"),
        ("https://010.8.8.8/", "https://8.8.8.8/"),
        ("https://8.8.2056", "https://8.8.8.8/"),
        ("https://[2606:4700::0001]/", "https://[2606:4700::1]/"),
        ("https://[64:ff9b::8.8.8.8]/", "https://[64:ff9b::808:808]/"),
        ("https://a_b.example/%2F", "https://a_b.example/%2F"),
    ],
)
def test_a_public_https_url_is_fine_and_gets_one_spelling(url: str, canonical: str) -> None:
    target = check_url(url, NOTHING)
    assert target.url == canonical
    assert read_url(canonical) == target
    # What is connected to is what was read.
    understood = URL(canonical, encoded=True)
    assert (understood.raw_host, understood.port, understood.scheme) == (target.host, target.port, target.scheme)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("example.com", "https"),
        ("ftp://example.com/", "https"),
        ("file:///etc/passwd", "https"),
        ("javascript:alert(1)", "https"),
        ("https:///path", "https"),
        ("https://", "https"),
        ("https://user@example.com/", "user name"),
        ("https://user:word@example.com/", "user name"),
        ("https://example.com@127.0.0.1/", "user name"),
        ("https://example.com/#x", "fragment"),
        ("https://example.com#", "fragment"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:/", "port"),
        ("https://example.com:443:80/", "read"),
        ("https://example.com:\uff14\uff14\uff13/", "read"),
        ("https://exa mple.com/", "characters"),
        ("https://example.com\\@127.0.0.1/", "characters"),
        ("https://example.com/\r\nX: y", "characters"),
        ("https://example.com/\0", "characters"),
        ("\thttps://example.com/", "characters"),
        ("https://example.com/a\u00a0b", "characters"),
        ("https://a..b/", "name"),
        ("https://-a.example/", "name"),
        ("https://%31%32%37.0.0.1/", "IPv4"),
        ("https://a%2eb/", "name"),
        ("https://" + "a" * 64 + ".example/", "name"),
        ("https://" + "a." * 127 + "example/", "name"),
        ("https://1.2.3.4.5/", "IPv4"),
        ("https://256.1.1.1/", "IPv4"),
        ("https://1.2.3.08/", "IPv4"),
        ("https://example.123/", "IPv4"),
        ("https://4294967296/", "IPv4"),
        ("https://[::1/", "read"),
        ("https://[fe80::1%25eth0]/", "zone"),
        ("https://[fe80::1%eth0]/", "zone"),
        ("https://[v1.x]/", "IPv6"),
        ("https://[127.0.0.1]/", "IPv6"),
        ("https://☃☃.ex\u200bample\u2488/", "name"),
        ("https://example.com/\ud800", "surrogate"),
        ("https://example.com/" + "a" * 2048, "2048"),
    ],
)
def test_a_url_that_two_readers_might_read_in_two_ways_is_refused(url: str, problem: str) -> None:
    error = refused(url)
    assert error.code == "egress.bad_url"
    assert problem in error.detail


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/",
        "https://0177.0.0.1/", "https://017700000001/", "https://127.0.0.1./", "https://\uff11\uff12\uff17.0.0.1/", "https://①②⑦.0.0.1/",
        "https://[::1]/", "https://[0:0:0:0:0:0:0:1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/",
        "https://[::127.0.0.1]/", "https://[64:ff9b::127.0.0.1]/", "https://[64:ff9b:1::1]/",
        "https://[2002:7f00:1::]/", "https://[2001:0:7f00:1::]/", "https://[::ffff:0:127.0.0.1]/",
        "https://0/", "https://0.0.0.0/", "https://0.1.2.3/", "https://[::]/",
        "https://10.0.0.1/", "https://172.16.0.1/", "https://172.31.255.255/", "https://192.168.1.1/",
        "https://[fc00::1]/", "https://[fd12:3456::1]/",
        "https://169.254.169.254/", "https://169.254.170.2/", "https://0xa9fea9fe/", "https://[fe80::1]/",
        "https://[fd00:ec2::254]/", "https://[fec0::1]/", "https://[::ffff:169.254.169.254]/",
        "https://100.64.0.1/", "https://100.100.100.200/", "https://192.0.0.192/", "https://192.0.0.8/",
        "https://192.88.99.1/", "https://198.18.0.1/", "https://192.0.2.1/", "https://203.0.113.7/",
        "https://224.0.0.1/", "https://239.255.255.250/", "https://[ff02::1]/", "https://[2001:db8::1]/",
        "https://240.0.0.1/", "https://255.255.255.255/", "https://[4000::1]/",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused_however_it_is_spelt(url: str) -> None:
    error = refused(url)
    assert error.code == "egress.refused"
    assert error.params["setting"] == "JITACCESS_EGRESS_ALLOW"
    assert str(error.params["entry"]) in error.detail
    # What the message tells to add is what opens it, and opens only it.
    allowance = Allowance.parse([str(error.params["entry"])])
    assert check_url(url, allowance).host == error.params["host"]
    refused("https://10.99.99.99/", allowance)


@given(st.integers(0, 2**32 - 1), st.data())
def test_every_spelling_of_an_address_is_that_address(number: int, data: Any) -> None:
    def spell(value: int) -> str:
        form = data.draw(st.sampled_from(["{}", "0x{:x}", "0X{:X}", "0{:o}"]))
        return str(form.format(value))

    parts = data.draw(st.integers(1, 4))
    heads = [(number >> (24 - 8 * place)) & 255 for place in range(parts - 1)]
    last = number & (256 ** (5 - parts) - 1)
    host = ".".join(map(spell, [*heads, last])) + data.draw(st.sampled_from(["", "."]))
    assert read_url(f"https://{host}/").address == ipaddress.IPv4Address(number)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_what_is_allowed_without_the_operator_is_global_unicast(address: Any) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    try:
        check_url(f"https://{host}/", NOTHING)
    except EgressRefused:
        return
    inner = effective(address)
    assert inner.is_global
    assert not any((inner.is_multicast, inner.is_private, inner.is_loopback, inner.is_link_local, inner.is_reserved))


@pytest.mark.parametrize("port", [22, 25, 80, 6379, 9200, 444])
def test_a_port_where_no_https_is_expected_needs_the_operator(port: int) -> None:
    error = refused(f"https://example.com:{port}/")
    assert error.params["entry"] == f"example.com:{port}"
    assert check_url(f"https://example.com:{port}/", Allowance.parse([f"example.com:{port}"])).port == port
    assert check_url(f"https://example.com:{port}/", Allowance.parse(["example.com"])).port == port
    refused(f"https://example.com:{port + 1}/", Allowance.parse([f"example.com:{port}"]))


def test_http_is_for_hosts_the_operator_listed() -> None:
    for url in ("http://example.com/", "http://8.8.8.8/"):
        assert "https only" in refused(url).detail
    allowance = Allowance.parse(["mcp.internal", "10.1.0.0/16", "[::1]:8080"])
    for url in ("http://mcp.internal/x", "http://MCP.internal:9000/", "http://10.1.2.3:3000/", "http://[::1]:8080/"):
        assert check_url(url, allowance).scheme == "http"
    for url in ("http://other.internal/", "http://mcp.internal.example.com/", "http://10.2.0.1/", "http://[::1]:8081/"):
        refused(url, allowance)


def test_a_listed_name_covers_private_addresses_but_never_the_metadata_service() -> None:
    target = read_url("https://mcp.internal/")
    by_name, by_network = Allowance.parse(["mcp.internal"]), Allowance.parse(["169.254.169.254"])
    for text in ("10.0.0.1", "127.0.0.1", "::1", "fd00::1", "100.64.0.1", "::ffff:10.0.0.1"):
        check_address(ipaddress.ip_address(text), target, by_name)
        with pytest.raises(EgressRefused, match="leads to"):
            check_address(ipaddress.ip_address(text), target, NOTHING)
    clouds = ("169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200")
    for text in (*clouds, "fe80::1", "0.0.0.0", "224.0.0.1"):
        with pytest.raises(EgressRefused):
            check_address(ipaddress.ip_address(text), target, by_name)
    check_address(ipaddress.ip_address("169.254.169.254"), target, by_network)


@pytest.mark.parametrize(
    "word", ["", "*", "10.0.0.1/8", "a b", "http://x", "x/y", "[::1", "host:0", "host:99999", "@", "1.2.3.4.5"]
)
def test_an_entry_that_cannot_be_read_is_named(word: str) -> None:
    with pytest.raises(Invalid) as caught:
        Allowance.parse(["127.0.0.1", word])
    assert caught.value.code == "egress.bad_allowance"
    assert f'"{word}"' in caught.value.detail


def test_no_refusal_shows_a_key_in_the_query() -> None:
    error = refused("https://127.0.0.1/mcp?key=hush")
    assert "hush" not in str(error) + repr(error.params)
    assert "hush" not in repr(read_url("https://example.com/?key=hush"))


@pytest.mark.parametrize("host", ["localhost", "LocalHost.", "a.localhost", "localhost.localdomain", "ip6-localhost"])
def test_a_name_of_this_machine_is_refused_before_it_is_resolved(host: str) -> None:
    error = refused(f"https://{host}/")
    assert error.code == "egress.refused"
    for entry in (str(error.params["entry"]), "127.0.0.0/8", "[::1]:443"):
        check_url(f"https://{host}/", Allowance.parse([entry]))
    assert refused(f"https://{host}/", Allowance.parse(["10.0.0.0/8", "[::1]:8443"]))
    for other in ("notlocalhost", "localhost.example"):
        check_url(f"https://{other}/", NOTHING)
