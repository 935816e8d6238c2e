"""Whose timeout it was, and what it has cut short: the limit of an attempt, and the phases of the library."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience import CallTimedOut, Timeout
from resilience.testing import recorded_events
from tests.http.scripted import ORIGIN, URL, Answer, Kit
from tests.http_servers import Http, ScriptedServer, keep_alive

# -- the body ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "own, around, left",
    [(30.0, None, 28.0), (30.0, 20.0, 18.0), (None, 20.0, 18.0), (None, None, 60.0), (90.0, None, 60.0)],
)
def test_the_limit_of_an_attempt_is_not_that_of_the_body(
    own: float | None, around: float | None, left: float, kit: Kit
) -> None:
    """A stream that had been freed from the timeout ended in a ReadTimeout, once it paused as long as an attempt may
    take: the read timeout of the body was still the one that had been cut to the attempt.
    """
    server = kit.server(Answer(200, "a", after=2.0))
    client = kit.client(kit.transport(server, timeout=own), timeout=60.0)
    read: list[float | None] = []

    def noted(response: Any) -> None:
        read.append(response.request.extensions["timeout"]["read"])  # what the client asked for
        read.append(server.requests[0].extensions["timeout"]["read"])

    if kit.colour.is_async:

        async def anoted(response: Any) -> None:
            noted(response)
            await response.aread()
            noted(response)

        client.event_hooks = {"response": [anoted]}
    else:
        client.event_hooks = {"response": [noted, lambda response: response.read(), noted]}
    kit.under(Timeout(around), lambda: client.get(URL))
    assert server.phases[0] == {"connect": 10.0, "read": 10.0, "write": 10.0, "pool": 10.0}
    assert read == [60.0, 10.0, 60.0, pytest.approx(left)]


@pytest.mark.parametrize("around, left", [(4.0, 4.0), (90.0, 30.0)])
def test_a_body_has_no_more_time_than_its_reader(around: float, left: float, kit: Kit) -> None:
    server = kit.server(Answer(200, "a"))
    transport = kit.transport(server)
    client = kit.client(transport, timeout=60.0)
    response = kit.colour.run(client.send(client.build_request("GET", URL), stream=True))
    kit.under(Timeout(around), response.aread if kit.colour.is_async else response.read)
    assert server.requests[0].extensions["timeout"]["read"] == pytest.approx(left)


def test_a_body_without_any_limit_has_none(kit: Kit) -> None:
    server = kit.server(Answer(200, "a"))
    client = kit.client(kit.transport(server), timeout=None)
    kit.colour.run(client.get(URL, extensions={"resilience": {"timeout": None}}))
    assert server.phases[0]["read"] == 10.0
    assert server.requests[0].extensions["timeout"]["read"] is None


def test_a_request_without_timeouts_has_none_in_its_body(kit: Kit) -> None:
    server = kit.server(Answer(200, "a"))
    transport = kit.transport(server, timeout=None)
    request = kit.library.Request("GET", URL)
    handle = transport.handle_async_request if kit.colour.is_async else transport.handle_request
    response = kit.colour.run(handle(request))
    kit.read(response)
    assert server.phases[0]["read"] == 10.0
    assert server.requests[0].extensions["timeout"] == {}


@pytest.mark.parametrize("whose", ["ours", "the library's"])
def test_the_core_library_learns_that_the_body_has_more_time(http: Http, whose: str) -> None:
    """It looks the timeouts up again when it begins to read the body; here one sees what it will find."""
    seen: list[tuple[str, Any]] = []

    def note(step: str, facts: Any) -> None:
        if step in ("http11.receive_response_headers.started", "http11.receive_response_body.started"):
            seen.append((step.split(".")[1], facts["request"].extensions["timeout"]["read"]))

    async def anote(step: str, facts: Any) -> None:
        note(step, facts)

    kind = "AsyncHTTPTransport" if http.is_async else "HTTPTransport"
    inner = http.transport() if whose == "ours" else getattr(http.client_module, kind)(trust_env=False)
    transport = http.library.bound.ResilientTransport(inner, timeout=None, attempt_timeout=15.0)
    with ScriptedServer(keep_alive) as server:
        client = http.client(transport)
        assert http.get(client, server.url, extensions={"trace": anote if http.is_async else note}).text == "/"
        http.close(client)
    assert seen == [("receive_response_headers", 15.0), ("receive_response_body", 20.0)]


# -- the attempt -------------------------------------------------------------------------------------------------------


def at_the_deadline(kit: Kit, error: str) -> Any:
    """What an inner transport does whose own timer is as exact as ours."""

    def answer(request: Any) -> Any:
        kit.clock.advance(request.extensions["timeout"]["read"])
        return kit.error(error)

    return answer


@pytest.mark.parametrize("error", ["ReadTimeout", "WriteTimeout", "ConnectTimeout"])
def test_a_phase_that_the_limit_of_the_attempt_has_cut_short_is_our_timeout(kit: Kit, error: str) -> None:
    """In a thread it was always the library's error, and in a task now this and now that one."""
    transport = kit.transport(kit.server(at_the_deadline(kit, error)), attempt_timeout=2.0)
    with pytest.raises(kit.package.HTTPCallTimeoutError) as caught, recorded_events(CallTimedOut) as events:
        kit.request(transport)
    assert (caught.value.policy, caught.value.timeout) == ("attempt timeout", 2.0)
    assert isinstance(caught.value.__cause__, getattr(kit.library, error))
    assert [(event.policy, event.timeout) for event in events] == [("attempt timeout", 2.0)] * 3
    assert transport.breaker(ORIGIN).statistics().failures == 3
    assert transport.statistics().in_use == 0


def test_a_timeout_of_the_library_within_the_attempt_is_the_librarys(kit: Kit) -> None:
    transport = kit.transport(kit.server(at_the_deadline(kit, "ReadTimeout")), attempt_timeout=2.0, retry=None)
    with pytest.raises(kit.library.ReadTimeout) as caught, recorded_events(CallTimedOut) as events:
        kit.request(transport, timeout=1.0)
    assert type(caught.value) is kit.library.ReadTimeout
    assert events == []


@pytest.mark.parametrize("error, sent", [("ConnectTimeout", 2), ("ReadTimeout", 1)])
def test_a_post_is_sent_again_if_the_limit_of_the_attempt_has_cut_connecting_short(
    kit: Kit, error: str, sent: int
) -> None:
    server = kit.server(at_the_deadline(kit, error), Answer(200))
    transport = kit.transport(server, attempt_timeout=2.0)
    if sent == 2:
        assert kit.request(transport, "POST").status_code == 200
    else:
        with pytest.raises(kit.package.HTTPCallTimeoutError):
            kit.request(transport, "POST")
    assert len(server.requests) == sent


# -- a cancellation that says what it has cut short --------------------------------------------------------------------


class Explained:
    """An inner transport that is cut off, and then says what it was waiting for."""

    def __init__(self, kit: Kit, error: str) -> None:
        self._kit = kit
        self._error = error
        self.count = 0

    async def handle_async_request(self, request: Any) -> Any:
        self.count += 1
        try:
            await self._kit.clock.asleep(100.0)
        except asyncio.CancelledError as error:
            raise error from self._kit.error(self._error)


@pytest.mark.parametrize("around, reason", [(None, "attempt timeout"), (1.0, "around")])
def test_a_wait_for_a_connection_that_is_cut_off_is_no_failure_of_the_server(
    kit: Kit, around: float | None, reason: str
) -> None:
    """The timer of the wait and that of the attempt are due at one instant. When the latter came first, a pool that was
    full opened the circuit of a server that was not even asked.
    """
    if not kit.colour.is_async:
        return
    transport = kit.transport(Explained(kit, "PoolTimeout"), attempt_timeout=2.0, retry=None)
    client = kit.client(transport)
    with pytest.raises(TimeoutError, match=f"^{reason}: "):
        kit.under(Timeout(around, name="around"), lambda: client.get(URL))
    assert transport.breaker(ORIGIN).statistics().calls == 0
    assert transport.statistics().in_use == 0


@pytest.mark.parametrize("error, count, calls", [("PoolTimeout", 3, 0), ("ConnectTimeout", 3, 3)])
def test_what_was_cut_off_before_it_was_sent_is_sent_again_whatever_its_method(
    kit: Kit, error: str, count: int, calls: int
) -> None:
    if not kit.colour.is_async:
        return
    inner = Explained(kit, error)
    transport = kit.transport(inner, attempt_timeout=2.0)
    with pytest.raises(kit.package.HTTPCallTimeoutError):
        kit.request(transport, "POST")
    assert inner.count == count
    assert transport.breaker(ORIGIN).statistics().calls == calls
