"""Two instances of a small web service behind one limit in Redis; one is restarted in the middle, and nothing resets.

python -m examples.two_instances redis://localhost:6379/0
"""

from __future__ import annotations

import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from resilience_redis import RedisStore

from resilience import RateLimiter, RateLimitExceededError


def serve(url: str, prefix: str) -> None:
    """One instance: ten searches an hour, whoever answers them."""
    store = RedisStore(url, prefix=prefix, store_timeout=1.0)
    limiter = RateLimiter(10, 3600.0, name="search", store=store)

    @limiter
    def search() -> bytes:
        return b"found\n"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                status, body = 200, search()
            except RateLimitExceededError as rejection:
                status, body = 429, str(rejection).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Not to the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


class Instance:
    def __init__(self, url: str, prefix: str) -> None:
        command = [sys.executable, "-m", "examples.two_instances", url, "--serve", prefix]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self._port = int(self._process.stdout.readline())

    def get(self) -> int:
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/") as response:
                return int(response.status)
        except HTTPError as error:
            error.close()
            return error.code

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


def main(url: str, prefix: str = "two-instances") -> None:
    first, second = Instance(url, prefix), Instance(url, prefix)
    print("both, in turns:", [instance.get() for instance in (first, second) * 4])
    second.stop()
    second = Instance(url, prefix)
    print("one restarted: ", [instance.get() for instance in (first, second) * 2])
    for instance in (first, second):
        instance.stop()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[3]) if "--serve" in sys.argv else main(sys.argv[1])
