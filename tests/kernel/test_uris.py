from __future__ import annotations

import pytest

from jitaccess.kernel.uris import is_normal


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/reports/a.txt", "test://static-text", "test://template/{id}/data", "https://example.com/a?b=c%20d",
        "urn:isbn:0451450523", "file:///caf%C3%A9", "postgres://db.internal:5432/public/users", "note://a_b~c",
        "test://x/{?q}", "http://[::1]:8080/x", "file:///",
    ],
)  # fmt: skip
def test_one_spelling_is_taken(uri: str) -> None:
    assert is_normal(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///ok/../secret", "file:///ok/%2e%2e/secret", "file:///ok/%2E%2E/secret", "file:///ok/..%2fsecret",
        "file:///ok/..%2Fsecret", "file:///ok/x\n../secret", "FILE:///secret", "file:///./secret", "file://localhost/secret",
        "file:////secret", "file:///%73ecret", "file:///secret?", "file:///secret#a", "file:///privat%65/x", "file:///a\\b",
        "file:///a b", "file:///café", "file:///%c3%a9", "file:///a%", "file:///a%4", "file:///a%zz", "https://Example.com/",
        "https://example.com:443/", "https://example.com:/", "secret", "", "/etc/passwd", "file:///a//b", "file:///a%00b",
        "file:///a/..", "test://a/b/./c", "file:///secret?x", "test://x?", "file:///a\x7f",
    ],
)  # fmt: skip
def test_what_a_server_could_read_as_another_is_not(uri: str) -> None:
    assert not is_normal(uri)
