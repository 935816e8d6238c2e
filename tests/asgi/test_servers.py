"""The middleware under uvicorn, hypercorn and granian: real processes, real sockets, clients that misbehave."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0  # seconds until something that has to happen counts as not happening; on most machines it takes a tenth
COMMANDS: dict[str, Callable[[int], list[str]]] = {
    "uvicorn": lambda port: ["uvicorn", "--port", str(port), "--log-level", "critical", "--http", "h11"],
    "hypercorn": lambda port: ["hypercorn", "--bind", f"127.0.0.1:{port}", "--log-level", "critical"],
    "granian": lambda port: ["granian", "--interface", "asgi", "--port", str(port), "--no-log", "--workers", "1"],
}
PROGRAMS: dict[str, Callable[[int], list[str]]] = {
    "uvicorn": COMMANDS["uvicorn"],
    "hypercorn": lambda port: ["tests.asgi.embedded", "hypercorn", str(port)],
    "granian": lambda port: ["tests.asgi.embedded", "granian", str(port)],
}


def until(condition: Callable[[], Any]) -> Any:
    """What `condition` returns once it is true."""
    end = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return result


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def state(self) -> Any:
        return httpx.get(f"{self.url}/state", timeout=PATIENCE).json()

    def send(self, head: str, body: bytes = b"") -> socket.socket:
        """A connection on which a request was sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(f"{head} HTTP/1.1\r\nHost: test\r\n".encode() + body)
        return connection

    def at_rest(self) -> None:
        until(lambda: self.state()["in_use"] == 0)


@contextlib.contextmanager
def running(name: str, commands: dict[str, Callable[[int], list[str]]] = COMMANDS) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", *commands[name](port), "tests.asgi.service:app"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server(name, port, process)

    def serves() -> bool:
        assert process.poll() is None, f"{name} has ended with {process.returncode}"
        try:
            return httpx.get(f"{server.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(serves)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module", params=COMMANDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


def test_requests_on_one_connection_have_an_id_each(server: Server) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        for number in range(3):
            response = client.get("/state", headers={"X-Request-ID": f"r-{number}"})
            assert response.headers.get_list("x-request-id") == [f"r-{number}"]
            assert response.json()["client"] == "127.0.0.1"
        assert client.get("/nowhere").headers["x-request-id"]  # a 500 that no framework has answered


def test_a_client_that_leaves_cancels_the_work_and_frees_its_slot(server: Server) -> None:
    for path in ("/hang", "/events"):
        before = server.state()["cancelled"]
        connection = server.send(f"GET {path}", b"\r\n")
        until(lambda: server.state()["in_use"] == 1)
        connection.close()
        until(lambda before=before: server.state()["cancelled"] == before + 1)  # type: ignore[misc]
        server.at_rest()


def test_a_client_that_does_not_read_and_leaves_frees_its_slot(server: Server) -> None:
    connection = server.send("GET /flood", b"\r\n")
    assert connection.recv(100)
    until(lambda: server.state()["in_use"] == 1)
    connection.close()
    server.at_rest()


def test_an_upload_is_read_whole_and_an_aborted_one_frees_its_slot(server: Server) -> None:
    body = b"x" * 300_000
    response = httpx.post(f"{server.url}/upload", content=body, timeout=PATIENCE)
    assert response.text == "300000"
    connection = server.send("POST /upload", b"Content-Length: 1000000\r\n\r\n" + body[:1000])
    until(lambda: server.state()["in_use"] == 1 and server.state()["body"] == 1000)
    connection.close()
    server.at_rest()


def test_too_many_requests_are_refused_on_a_connection_that_stays_open(server: Server) -> None:
    hanging = [server.send("GET /hang", b"\r\n") for _ in range(2)]
    until(lambda: server.state()["in_use"] == 2)
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        response = client.post("/upload", content=b"x" * 100)
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["correlation_id"] == response.headers["x-request-id"]
        assert client.head("/upload").status_code == 503
        for connection in hanging:
            connection.close()
        server.at_rest()
        assert client.post("/upload", content=b"x" * 100).text == "100"


def test_a_deadline_of_the_client_is_kept(server: Server) -> None:
    for value in ("0", "100"):
        response = httpx.get(f"{server.url}/hang", headers={"X-Request-Timeout-Ms": value}, timeout=PATIENCE)
        assert response.status_code == 504
    server.at_rest()


def test_background_work_outlives_the_timeout_and_holds_no_slot(server: Server) -> None:
    before = server.state()["background"]
    assert httpx.get(f"{server.url}/background", timeout=PATIENCE).text == "accepted"
    assert server.state()["in_use"] == 0
    until(lambda: server.state()["background"] == before + 1)


def test_an_error_in_the_middle_of_a_response_aborts_the_connection(server: Server) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{server.url}/torn", timeout=PATIENCE)
    server.at_rest()


def test_a_websocket_has_an_id_and_is_refused_when_there_are_too_many(server: Server) -> None:
    url = server.url.replace("http", "ws")
    with connect(f"{url}/ws-limited", additional_headers={"X-Request-ID": "ws-1"}) as websocket:
        websocket.send("hello")
        assert websocket.recv(timeout=PATIENCE) == "ws-1 hello"
    with pytest.raises(InvalidStatus) as caught:
        connect(f"{url}/ws-limited")
    assert caught.value.response.status_code == 429  # all three offer the denial response


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_signal_drains_a_server_before_it_stops(name: str) -> None:
    with running(name, PROGRAMS) as server:
        stream = server.send("GET /events", b"\r\n")
        slow = server.send("GET /hang?seconds=2", b"\r\n")
        until(lambda: server.state()["in_use"] == 2)
        server.process.send_signal(signal.SIGTERM)

        def flipped() -> bool:
            return httpx.get(f"{server.url}/readyz", timeout=PATIENCE).status_code == 503

        until(flipped)
        refused = httpx.get(f"{server.url}/hang", timeout=PATIENCE)
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert httpx.get(f"{server.url}/healthz", timeout=PATIENCE).status_code == 200
        assert _whole(stream).endswith(b"0\r\n\r\n")  # the stream has ended, it was not cut off
        assert _whole(slow).endswith(b"late")
        ended = server.process.wait(PATIENCE)
    # Threads of granian's own may abort the interpreter when that has ended already.
    assert ended in (0, -signal.SIGTERM, *([-signal.SIGABRT] if name == "granian" else []))


def _whole(connection: socket.socket) -> bytes:
    """What arrives until the server closes the connection or the response is complete."""
    received = b""
    while not received.endswith((b"\r\n0\r\n\r\n", b"late")):  # not where an id ends with a zero and the headers do
        part = connection.recv(65536)
        if not part:
            break
        received += part
    connection.close()
    return received
