"""What becomes of a response that is not wanted: a small one is read, so that its connection can be used again."""

from __future__ import annotations

from typing import Any

import pytest
import tenacity

from resilience import Retry, Timeout, remaining
from tests.http.scripted import ORIGIN, Answer, Kit
from tests.http_servers import PATIENCE, Http, Peer, ScriptedServer

LENGTH = "Content-Length"


def read_entries(server: Any) -> list[Any]:
    """What was read of the first response."""
    entries: list[Any] = server.streams[0].played
    return entries


def prompt(kit: Kit) -> Retry:
    return Retry(kit.library.TransportError, attempts=6, wait=tenacity.wait_none())


async def unwilling(peer: Peer) -> None:
    while True:
        request = await peer.request()
        if peer.path(request).startswith("/flaky") and b"X-Request-Attempt: 6" not in request:
            await peer.answer(b"x" * 3000, "503 Service Unavailable")
        else:
            await peer.answer(b"at last")


def resilient(http: Http) -> Any:
    retry = Retry(http.client_module.TransportError, attempts=6, wait=tenacity.wait_none())
    return http.client(http.library.bound.ResilientTransport(http.transport(), retry=retry, breaker=None, budget=None))


def test_five_refusals_cost_one_connection(http: Http) -> None:
    with ScriptedServer(unwilling) as server:
        client = resilient(http)
        assert http.get(client, f"{server.url}/flaky").text == "at last"
        assert (len(server.requests), server.accepted) == (6, 1)
        http.close(client)
        server.settle()


def test_a_server_that_stops_in_the_middle_of_a_refusal_is_not_waited_for(http: Http) -> None:
    async def stuck(peer: Peer) -> None:
        while True:
            await peer.request()
            if peer.number == 1:
                await peer.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nx")
                await peer.reader.read()  # until the client hangs up
            await peer.answer()

    with ScriptedServer(stuck) as server:
        client = resilient(http)
        # A thread waits for as long as its read timeout says.
        response = http.get(client, server.url, timeout=http.client_module.Timeout(PATIENCE, read=0.2))
        assert response.text == "ok"
        assert server.accepted == 2


def test_a_small_body_of_known_length_is_read(kit: Kit) -> None:
    server = kit.server(Answer(503, "ab", "cd", headers={LENGTH: "4"}), Answer(200))
    kit.request(kit.transport(server, retry=prompt(kit)))
    assert read_entries(server) == ["ab", "cd"]
    assert server.log[:3] == ["request", "closed", "request"]


@pytest.mark.parametrize("headers", [{}, {LENGTH: "65537"}, {LENGTH: "-4"}, {LENGTH: "9" * 30}, {LENGTH: "x"}])
def test_what_is_large_or_of_unknown_length_is_closed_at_once(kit: Kit, headers: dict[str, str]) -> None:
    server = kit.server(Answer(503, "ab", "cd", headers=headers), Answer(200))
    kit.request(kit.transport(server, retry=prompt(kit)))
    assert read_entries(server) == []
    assert server.log[:3] == ["request", "closed", "request"]


def test_a_body_that_is_longer_than_announced_is_not_read_to_its_end(kit: Kit) -> None:
    chunk = "x" * 40_000
    server = kit.server(Answer(503, chunk, chunk, chunk, headers={LENGTH: "40000"}), Answer(200))
    kit.request(kit.transport(server, retry=prompt(kit)))
    assert len(read_entries(server)) == 2
    assert server.streams[0].closed


def test_a_body_of_exactly_the_limit_is_read_to_its_end(kit: Kit) -> None:
    server = kit.server(Answer(503, "x" * 65_536, "", headers={LENGTH: "65536"}), Answer(200))
    kit.request(kit.transport(server, retry=prompt(kit)))
    assert len(read_entries(server)) == 2


def test_reading_takes_half_a_second_at_most(kit: Kit) -> None:
    server = kit.server(Answer(503, "a", 0.4, "b", 0.4, "c", 0.4, "d", headers={LENGTH: "4"}), Answer(200))
    assert kit.request(kit.transport(server, retry=prompt(kit))).status_code == 200
    # A thread notices between two chunks, a task at once.
    assert read_entries(server) == (["a", 0.4, "b", 0.4] if kit.colour.is_async else ["a", 0.4, "b", 0.4, "c"])
    assert kit.clock.now() == pytest.approx(1000.5 if kit.colour.is_async else 1000.8, abs=0.02)
    assert server.streams[0].closed


def test_reading_takes_a_tenth_of_the_time_left_at_most(kit: Kit) -> None:
    server = kit.server(Answer(503, "a", 0.1, "b", 0.1, "c", 0.1, "d", headers={LENGTH: "4"}), Answer(200))
    assert kit.request(kit.transport(server, timeout=1.5, retry=prompt(kit))).status_code == 200
    assert kit.clock.now() == pytest.approx(1000.15 if kit.colour.is_async else 1000.2, abs=0.02)


def test_without_any_limit_reading_has_one(kit: Kit) -> None:
    server = kit.server(Answer(503, "a", 0.4, "b", 0.4, "c", 9.0, headers={LENGTH: "4"}), Answer(200))
    kit.request(kit.transport(server, timeout=None, attempt_timeout=None, retry=prompt(kit)))
    assert kit.clock.now() < 1001.0


@pytest.mark.parametrize("error", ["ReadError", "ReadTimeout", "RemoteProtocolError"])
def test_a_body_that_breaks_off_is_no_reason_not_to_try_again(kit: Kit, error: str) -> None:
    server = kit.server(Answer(429, "a", kit.error(error), headers={LENGTH: "4"}), Answer(200))
    transport = kit.transport(server, retry=prompt(kit))
    assert kit.request(transport).status_code == 200
    assert server.streams[0].closed
    # Nor does it say anything about the server that the answer has not said.
    assert transport.breaker(ORIGIN).statistics().failures == 0
    assert transport.statistics().in_use == 0


def test_a_body_of_somebodys_own_making_is_read_too(kit: Kit) -> None:
    """Its iterator has only what an iterator must have."""
    left = ["ab", "cd"]

    class Own:
        def __iter__(self) -> Any:
            return self

        __aiter__ = __iter__

        def __next__(self) -> bytes:
            if not left:
                raise StopIteration
            return left.pop().encode()

        async def __anext__(self) -> bytes:
            if not left:
                raise StopAsyncIteration
            return left.pop().encode()

        def close(self) -> None:
            pass

        async def aclose(self) -> None:
            pass

    server = kit.server(Answer(503, headers={LENGTH: "4"}), Answer(200))
    made = server._response
    own = type("Stream", (Own, kit.library.AsyncByteStream, kit.library.SyncByteStream), {})

    def response(answer: Answer) -> Any:
        if answer.status == 200:
            return made(answer)
        return kit.library.Response(503, headers=answer.headers, stream=own())

    server._response = response  # type: ignore[method-assign]
    assert kit.request(kit.transport(server, retry=prompt(kit))).status_code == 200
    assert left == []


def test_a_deadline_around_the_request_stays_in_force_while_a_body_is_read(kit: Kit) -> None:
    seen: list[float | None] = []

    def noted(request: Any) -> Answer:
        seen.append(remaining())
        return Answer(503, "a", headers={LENGTH: "1"}) if len(seen) == 1 else Answer(200)

    transport = kit.transport(kit.server(noted), timeout=None, attempt_timeout=None, retry=prompt(kit))
    assert kit.under(Timeout(5.0), lambda: kit.client(transport).get("https://a.example/")).status_code == 200
    assert seen == [5.0, 5.0]


def test_a_response_that_cannot_be_closed_is_no_reason_not_to_try_again(kit: Kit) -> None:
    server = kit.server(Answer(503, "a"), Answer(200))
    transport = kit.transport(server, retry=prompt(kit))

    def refuse() -> None:
        raise kit.error("ReadError")

    first = server._response

    def response(answer: Answer) -> Any:
        made = first(answer)
        if len(server.streams) == 1:
            server.streams[0].close = refuse
        return made

    server._response = response  # type: ignore[method-assign]
    assert kit.request(transport).status_code == 200
    assert transport.statistics().in_use == 0


def test_a_connection_is_told_how_long_a_body_may_take(kit: Kit) -> None:
    """A thread that read what it did not want was held up for a whole read timeout by a server that stopped."""
    told: list[float | None] = []

    class Asks:
        def __iter__(self) -> Any:
            told.append(remaining())
            yield b"x"

        async def __aiter__(self) -> Any:
            told.append(remaining())
            yield b"x"

    server = kit.server(Answer(503), Answer(200))
    stream = type("Stream", (Asks, kit.library.AsyncByteStream, kit.library.SyncByteStream), {})
    refusal = kit.library.Response(503, headers={LENGTH: "1"}, stream=stream())
    made = server._response
    server._response = lambda answer: made(answer) if answer.status == 200 else refusal  # type: ignore[method-assign]
    assert kit.request(kit.transport(server, retry=prompt(kit))).status_code == 200
    assert told == [0.5]
    assert remaining() is None
