from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.audit.redact import redact
from jitaccess.kernel.canonical import canonical

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PassWord",
        "db_passwd",
        "passphrase",
        "client_secret",
        "token",
        "accessToken",
        "api_key",
        "api-key",
        "APIKEY",
        "credentials",
        "Authorization",
        "Set-Cookie",
        "private_key",
    ],
)
def test_members_that_look_like_secrets_lose_their_value(name: str) -> None:
    assert redact({name: "hunter2", "deep": [{name: {"a": "hunter2"}}]}) == {
        name: "[redacted]",
        "deep": [{name: "[redacted]"}],
    }


def test_the_rest_keeps_its_shape() -> None:
    value = {"path": "/tmp/x", "count": 3, "flag": True, "none": None, "many": [1.5, "a\nb"]}
    assert redact(value) == value


def test_bulk_is_cut() -> None:
    assert len(redact("x" * 100_000)) == 500
    assert len(redact(list(range(1000)))) == 50
    assert len(redact({str(number): number for number in range(1000)})) == 50
    deep: object = "hunter2"
    for _ in range(50):
        deep = {"a": deep}
    assert "hunter2" not in str(redact(deep))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_whatever_comes_in_what_comes_out_can_be_stored(value: object) -> None:
    text = canonical({"arguments": redact(value)}).decode()
    assert "\0" not in text
