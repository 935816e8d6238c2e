"""An httpx client that survives a server in trouble: one line makes it so.

python -m examples.http_client
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
from resilience_httpx import HTTPCircuitOpenError, ResilientTransport

from resilience import bound


class Shop(BaseHTTPRequestHandler):
    """`/prices` fails twice before it works, `/orders` and `/stock` are down."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[Counter[str]] = Counter()
    identities: ClassVar[set[str | None]] = set()

    def do_GET(self) -> None:
        self.seen[self.path] += 1
        self.identities.add(self.headers["X-Request-ID"])
        works = self.path == "/prices" and self.seen[self.path] > 2
        body = b"42" if works else b"sorry"
        self.send_response(200 if works else 503)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the names are those of http.server

    def log_message(self, format: str, *args: object) -> None:
        """Not on this terminal."""


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client may close a connection."""


@contextmanager
def shop() -> Iterator[str]:
    """A real server on a free port."""
    Shop.seen.clear()
    with Server(("127.0.0.1", 0), Shop) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def main() -> None:
    """Meet a flaky page, one that must not be asked twice, and an outage."""
    with shop() as url, httpx.Client(transport=ResilientTransport(), base_url=url) as client, bound("cart-7"):
        print("prices:", client.get("/prices").text, "after", Shop.seen["/prices"], "requests")
        print("order:", client.post("/orders").status_code, "after", Shop.seen["/orders"], "request")
        try:
            for _ in range(100):
                client.get("/stock")
        except HTTPCircuitOpenError as error:
            print("stock:", type(error).__name__, "- and httpx knows it too:", isinstance(error, httpx.TransportError))
        print("the server was asked", Shop.seen["/stock"], "times in place of 300, always for", *Shop.identities)


if __name__ == "__main__":
    main()
