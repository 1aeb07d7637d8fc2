from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from jitaccess.egress.addresses import Allowance
from jitaccess.egress.blocking import fetch
from jitaccess.egress.errors import EgressFailed, EgressRefused
from jitaccess.egress.for_requests import session


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/json")
        else:
            self.send_response(429)
            self.send_header("Retry-After", "7")
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b'{"a": 1}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


LOCAL = Allowance.parse(["127.0.0.1"])


def test_one_answer_with_what_has_to_be_known_of_it(address: str) -> None:
    status, headers, body = fetch("GET", f"{address}/json", {}, seconds=5, allowance=LOCAL)
    assert (status, headers["retry-after"], body) == (429, "7", b'{"a": 1}')
    assert fetch("POST", address, {}, b"hello", seconds=5, allowance=LOCAL)[2] == b"hello"
    with pytest.raises(EgressFailed, match="larger"):
        fetch("GET", f"{address}/json", {}, seconds=5, allowance=LOCAL, limit=4)


def test_what_is_not_allowed_is_not_reached_by_a_library_either(address: str) -> None:
    with pytest.raises(EgressRefused):
        fetch("GET", address, {}, seconds=5, allowance=Allowance.parse([]))
    with pytest.raises(EgressRefused):
        session(lambda: Allowance.parse([])).get(address)


def test_a_library_gets_its_answers_and_follows_nothing(address: str) -> None:
    with session(lambda: LOCAL) as talks:
        answer = talks.get(f"{address}/json")
        assert (answer.status_code, answer.json(), answer.headers["Retry-After"]) == (429, {"a": 1}, "7")
        assert talks.post(address, data={"a": "b"}).text == "a=b"
        with pytest.raises(requests.TooManyRedirects):
            talks.get(f"{address}/moved")
        with pytest.raises(requests.ConnectionError):
            talks.get("http://127.0.0.1:1/")
