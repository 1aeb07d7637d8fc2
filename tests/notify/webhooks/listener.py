"""A program that takes webhooks, on loopback. It checks nothing: the tests do, with a library that is not ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Listener:
    """`say` is what it answers next: a status, and then 200; `headers` and `text` go along."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.say: list[int] = []
        self.always: int = 200
        self.headers: dict[str, str] = {}
        self.text = "thank you"
        self.let_go = threading.Event()
        self.let_go.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
                outer.let_go.wait(30)
                text = outer.text.encode()
                self.send_response(outer.say.pop(0) if outer.say else outer.always)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/hook?key=hidden"

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.heard]


@contextmanager
def listening() -> Iterator[Listener]:
    listener = Listener()
    thread = threading.Thread(target=listener.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield listener
    listener.let_go.set()
    listener.server.shutdown()
    listener.server.server_close()
    thread.join(5)
