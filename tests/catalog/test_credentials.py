"""Credentials of servers: sealed, bound to where they belong, rotated without a moment in which they do not open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from jitaccess.audit.models import Entry
from jitaccess.catalog.credentials import (
    checked_header,
    credentials_of,
    remove_credential,
    rotate_credentials,
    sealed_with,
    set_credential,
)
from jitaccess.catalog.http_servers import add_http_server, change_http_server, checked_url, make_stdio
from jitaccess.catalog.models import Server, ServerCredential
from jitaccess.catalog.services import register_server
from jitaccess.egress.errors import EgressRefused
from jitaccess.kernel.errors import Conflict, Invalid, JitAccessError, NotFound, Unavailable
from jitaccess.kernel.secretbox import KeyRing, generate_key
from jitaccess.store import sealing
from tests.cast import OPERATOR

SECRET = "Bearer abc-very-secret-123"
URL = "https://files.example/mcp"


@pytest.fixture
def server(db: None) -> Server:
    return add_http_server(slug="files", url=URL, headers={"authorization": SECRET}, operator=OPERATOR)


@pytest.fixture
def keys(settings: Any, tmp_path: Path) -> Path:
    """A ring in a file of its own."""
    path = tmp_path / "keys"
    path.write_text(generate_key("k1"))
    settings.SEALING_KEYS_FILE = path
    return path


def entries(event: str) -> list[dict[str, Any]]:
    return [
        json.loads(data) for data in Entry.objects.filter(event=event).order_by("uid").values_list("data", flat=True)
    ]


def test_a_credential_is_sealed_and_the_ledger_says_by_whom_and_with_which_key(server: Server) -> None:
    row = ServerCredential.objects.get()
    assert (row.header, row.key) == ("Authorization", sealing.ring().ids[0])
    assert credentials_of(server) == {"Authorization": SECRET}
    assert entries("credential.set") == [{"header": "Authorization", "key": row.key}]
    assert Entry.objects.get(event="credential.set").user_name == "operator"
    for text in (row.sealed, repr(row), str(row), *Entry.objects.values_list("data", flat=True)):
        assert "abc-very-secret" not in text


def test_a_second_value_takes_the_place_of_the_first(server: Server) -> None:
    set_credential(server=server, header="AUTHORIZATION", value="Bearer new", operator=OPERATOR)
    assert credentials_of(server) == {"Authorization": "Bearer new"}
    remove_credential(server=server, header="authorization", operator=OPERATOR)
    assert credentials_of(server) == {}
    with pytest.raises(NotFound):
        remove_credential(server=server, operator=OPERATOR)
    assert entries("credential.removed") == [{"header": "Authorization"}]


@pytest.mark.parametrize("change", ["server", "header", "address", "damage"])
def test_a_sealed_value_opens_only_where_it_belongs(server: Server, change: str) -> None:
    other = add_http_server(slug="other", url=URL, operator=OPERATOR)
    row = ServerCredential.objects.filter(server=server)
    if change == "server":
        row.update(server=other)
        server = other
    elif change == "header":
        row.update(header="X-Other")
    elif change == "address":
        Server.objects.filter(pk=server.pk).update(url="https://evil.example/mcp")
    else:
        row.update(sealed=row.get().sealed[:-4] + "AAAA")
    with pytest.raises(Unavailable) as caught:
        credentials_of(Server.objects.get(pk=server.pk))
    assert "Set it again" in caught.value.detail
    assert "secret" not in caught.value.detail


def test_a_new_address_takes_the_credentials_away_and_a_new_path_does_not(server: Server) -> None:
    assert change_http_server(server=server, url="https://FILES.example:443/other", operator=OPERATOR) == []
    assert credentials_of(server) == {"Authorization": SECRET}
    assert change_http_server(server=server, url="https://evil.example/other", operator=OPERATOR) == ["Authorization"]
    assert credentials_of(server) == {}
    assert entries("configuration.changed")[-1]["changes"]["url"] == {
        "from": "https://files.example/other", "to": "https://evil.example/other",
    }  # fmt: skip
    make_stdio(server=server, operator=OPERATOR)
    assert (server.transport, server.url) == ("stdio", "")


@pytest.mark.parametrize("value", ["", " x", "x ", "a\r\nX-Evil: 1", "a\nb", "é", "x" * 8193, "\0"])
def test_a_value_that_is_no_header_is_refused_and_not_repeated(server: Server, value: str) -> None:
    with pytest.raises(Invalid) as caught:
        set_credential(server=server, header="X-Key", value=value, operator=OPERATOR)
    assert not value.strip() or value not in caught.value.detail
    assert not ServerCredential.objects.filter(header="X-Key").exists()


@pytest.mark.parametrize("name", ["", "a b", "é", "X:Y", "Host", "content-length", "Mcp-Session-Id", "Accept", "a\n"])
def test_headers_that_are_not_for_credentials_are_refused(name: str) -> None:
    with pytest.raises(Invalid):
        checked_header(name)


def test_a_program_has_no_credentials_here(db: None) -> None:
    server = register_server(slug="files", operator=OPERATOR)
    with pytest.raises(Invalid):
        set_credential(server=server, value="x", operator=OPERATOR)
    assert not ServerCredential.objects.exists()


@pytest.mark.parametrize(
    "url",
    [
        "", "files.example", "ftp://files.example/", "https://", "https://user:pass@files.example/mcp",
        "https://files.example/mcp#x", "https://files.example/mcp?api_key=1", "https://files.example/mcp?Token=1",
        "https://10.0.0.1/mcp", "https://169.254.169.254/", "http://files.example/mcp", "https://127.0.0.1/",
        "https://files.example/" + "x" * 600, "javascript:alert(1)",
    ],
)  # fmt: skip
def test_an_address_that_may_not_be_used_is_refused_before_anything_is_stored(db: None, url: str) -> None:
    with pytest.raises((Invalid, EgressRefused)):
        add_http_server(slug="files", url=url, headers={"Authorization": SECRET}, operator=OPERATOR)
    assert not Server.objects.exists()
    assert not Entry.objects.exists()


def test_what_the_operator_allows_may_be_used(settings: Any) -> None:
    settings.EGRESS_ALLOW = ["127.0.0.1"]
    assert checked_url(" http://127.0.0.1:9/mcp ") == "http://127.0.0.1:9/mcp"


def test_a_taken_name_or_a_bad_credential_leaves_nothing_behind(server: Server) -> None:
    with pytest.raises(Conflict):
        add_http_server(slug="files", url=URL, operator=OPERATOR)
    with pytest.raises(Invalid):
        add_http_server(slug="more", url=URL, headers={"Host": "x"}, operator=OPERATOR)
    assert Server.objects.count() == 1
    assert Entry.objects.filter(event="server.registered").count() == 1


@pytest.mark.parametrize("fields", [{"transport": "http"}, {"url": URL}, {"transport": "ftp", "url": URL}])
def test_the_database_itself_knows_that_http_means_a_url(db: None, fields: dict[str, str]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Server.objects.create(slug="x", **fields)


def test_a_ring_in_a_file_is_followed_and_a_broken_one_changes_nothing(
    server: Server, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    set_credential(server=server, value="one", operator=OPERATOR)
    old = keys.read_text()
    keys.write_text(f"{generate_key('k2')},{old}")
    assert sealing.ring().ids == ("k2", "k1")
    keys.write_text("nonsense")
    assert sealing.ring().ids == ("k2", "k1")
    assert sealing.ring().ids == ("k2", "k1")
    assert len([text for text in caplog.messages if "cannot be used" in text]) == 1
    keys.unlink()
    assert credentials_of(server) == {"Authorization": "one"}


def test_without_its_key_a_credential_is_closed_and_says_which_key_is_missing(server: Server, keys: Path) -> None:
    set_credential(server=server, value="one", operator=OPERATOR)
    old = keys.read_text()
    keys.write_text(generate_key("k9"))
    with pytest.raises(Unavailable) as caught:
        credentials_of(server)
    assert "k1, which is not in the key ring" in caught.value.detail
    done = rotate_credentials(sealing.ring(), operator=OPERATOR)
    assert (done.resealed, done.unreadable) == (0, ("Authorization of files",))
    keys.write_text(old)
    assert credentials_of(server) == {"Authorization": "one"}, "what cannot be opened is not touched"


@pytest.mark.django_db(transaction=True)
@given(data=st.data())
@hypothesis_settings(max_examples=15)
def test_before_during_and_after_a_rotation_everything_opens(data: st.DataObject) -> None:
    values = data.draw(
        st.dictionaries(
            st.sampled_from(["Authorization", "X-Api-Key", "Cookie"]),
            st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40),
            min_size=1,
        )
    )
    rings = [generate_key("k1")]
    with pytest.MonkeyPatch.context() as patch:
        from django.conf import settings

        patch.setattr(settings, "SEALING_KEYS_FILE", None)
        patch.setattr(settings, "SEALING_KEYS", rings[0])
        Server.objects.all().delete()
        server = add_http_server(slug="files", url=URL, headers=values, operator=OPERATOR)
        for number in range(2, 2 + data.draw(st.integers(1, 3))):
            rings.insert(0, generate_key(f"k{number}"))
            ring = ",".join(rings)
            patch.setattr(settings, "SEALING_KEYS", ring)
            assert credentials_of(server) == values, "with the new key in front"
            done = rotate_credentials(KeyRing.from_text(ring), operator=OPERATOR)
            assert (done.resealed, done.current, done.unreadable) == (len(values), 0, ())
            assert credentials_of(server) == values, "sealed anew"
            assert not sealed_with(f"k{number - 1}")
            again = rotate_credentials(KeyRing.from_text(ring), operator=OPERATOR)
            assert (again.resealed, again.current) == (0, len(values))
        patch.setattr(settings, "SEALING_KEYS", rings[0])
        assert credentials_of(server) == values, "without the old keys"


def test_a_rotation_that_fails_half_way_has_not_happened(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    set_credential(server=server, header="X-Key", value="two", operator=OPERATOR)
    before = list(ServerCredential.objects.values_list("sealed", flat=True))
    ring = KeyRing.from_text(f"{generate_key('k7')},{sealing.ring_text()}")
    monkeypatch.setattr(
        "jitaccess.catalog.credentials.record", lambda facts: (_ for _ in ()).throw(JitAccessError("x", "y"))
    )
    with pytest.raises(JitAccessError), transaction.atomic():
        rotate_credentials(ring, operator=OPERATOR)
    assert list(ServerCredential.objects.values_list("sealed", flat=True)) == before


def test_an_address_that_cannot_be_read_closes_its_credential_and_holds_up_no_other(server: Server, keys: Path) -> None:
    set_credential(server=server, value=SECRET, operator=OPERATOR)
    other = add_http_server(slug="other", url=URL, headers={"X-Key": "k-123456"}, operator=OPERATOR)
    Server.objects.filter(pk=server.pk).update(url="https://user@files.example/")
    server.refresh_from_db()
    with pytest.raises(Unavailable, match="cannot be opened"):
        credentials_of(server)
    keys.write_text(f"{generate_key('k2')},{keys.read_text()}")
    done = rotate_credentials(sealing.ring(), operator=OPERATOR)
    assert (done.resealed, done.unreadable) == (1, ("Authorization of files",))
    assert credentials_of(other) == {"X-Key": "k-123456"}


def test_a_ring_that_was_never_readable_closes_credentials_with_a_sentence(
    server: Server, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_seen", None)
    settings.SEALING_KEYS_FILE = tmp_path / "nowhere"
    with pytest.raises(Invalid, match="cannot be read: No such file"):
        credentials_of(server)
    settings.SEALING_KEYS_FILE.write_bytes(b"\xff")
    with pytest.raises(Invalid, match="it is not text"):
        credentials_of(server)
