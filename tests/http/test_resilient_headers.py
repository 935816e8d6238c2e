"""What travels along with a request, and what stays as the caller has set it."""

from __future__ import annotations

from typing import Any

import httpx
import httpx2
import pytest
from resilience_http import _headers
from resilience_http.trace_context import TraceContext, parse_traceparent, traced

from resilience import bound
from tests.http.scripted import URL, Answer, Kit

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_the_correlation_id_travels(kit: Kit) -> None:
    server = kit.server(Answer(200))
    with bound("order-7"):
        kit.request(kit.transport(server))
    kit.request(kit.transport(server))
    assert server.requests[0].headers["X-Request-ID"] == "order-7"
    assert "X-Request-ID" not in server.requests[1].headers


def test_the_remaining_time_travels(kit: Kit) -> None:
    server = kit.server(Answer(503, headers={"Retry-After": "25"}), Answer(200))
    kit.request(kit.transport(server))
    first, second = (int(request.headers["X-Request-Timeout-Ms"]) for request in server.requests)
    assert 9_990 <= first <= 10_000
    assert 3_900 <= second <= 5_000


def test_without_a_deadline_no_remaining_time_is_claimed(kit: Kit) -> None:
    server = kit.server(Answer(200))
    kit.request(kit.transport(server, timeout=None, attempt_timeout=None))
    assert "X-Request-Timeout-Ms" not in server.requests[0].headers


def test_further_attempts_are_numbered(kit: Kit) -> None:
    server = kit.server(Answer(503), Answer(503), Answer(200))
    kit.request(kit.transport(server))
    assert [request.headers.get("X-Request-Attempt") for request in server.requests] == [None, "2", "3"]


def test_each_attempt_is_a_new_place_in_the_same_trace(kit: Kit) -> None:
    server = kit.server(Answer(503), Answer(200))
    with traced(TraceContext(TRACE, PARENT, 1, (("b", "2"), ("a", "1")))):
        kit.request(kit.transport(server))
    contexts = [parse_traceparent(request.headers["traceparent"]) for request in server.requests]
    assert [context.trace_id for context in contexts if context] == [TRACE, TRACE]
    assert len({PARENT, *(context.parent_id for context in contexts if context)}) == 3
    assert all(context.sampled for context in contexts if context)
    assert {request.headers["tracestate"] for request in server.requests} == {"b=2,a=1"}


def test_without_a_trace_none_is_begun(kit: Kit) -> None:
    """Whoever begins one and records nothing would switch off the sampling of everybody behind."""
    server = kit.server(Answer(200))
    with bound():
        kit.request(kit.transport(server))
    assert "traceparent" not in server.requests[0].headers


def test_what_the_caller_has_set_stays(kit: Kit) -> None:
    mine = {
        "x-request-id": "mine",
        "X-REQUEST-TIMEOUT-MS": "77",
        "x-request-attempt": "9",
        "traceparent": f"00-{TRACE}-{PARENT}-01",
    }
    server = kit.server(Answer(503), Answer(200))
    with bound("ours"), traced(TraceContext(TRACE, "1" * 16, 0, (("a", "1"),))):
        kit.request(kit.transport(server), headers=mine)
    for request in server.requests:
        assert {name: request.headers.get_list(name) for name in mine} == {name: [mine[name]] for name in mine}
        assert "tracestate" not in request.headers


def test_a_tracestate_of_the_callers_stays_too(kit: Kit) -> None:
    server = kit.server(Answer(200))
    with traced(TraceContext(TRACE, PARENT, 0, (("a", "1"),))):
        kit.request(kit.transport(server), headers={"tracestate": "mine=1"})
    assert server.requests[0].headers.get_list("tracestate") == ["mine=1"]


def test_the_request_of_the_caller_is_not_changed(kit: Kit) -> None:
    server = kit.server(Answer(503), Answer(200))
    client = kit.client(kit.transport(server))
    request = client.build_request("GET", URL)
    before = (list(request.headers.raw), dict(request.extensions))
    with bound("ours"):
        response = kit.colour.run(client.send(request))
    assert (list(request.headers.raw), dict(request.extensions)) == before
    assert response.request is request


@pytest.mark.parametrize(
    "settings,extensions", [({"propagate": False}, {}), ({}, {"resilience": {"propagate": False}})]
)
def test_nothing_travels_where_it_is_not_wanted(kit: Kit, settings: Any, extensions: Any) -> None:
    server = kit.server(Answer(503), Answer(200))
    with bound("ours"), traced(TraceContext(TRACE, PARENT)):
        kit.request(kit.transport(server, **settings), extensions=extensions)
    for request in server.requests:
        assert not {name for name in request.headers if name.startswith(("x-", "trace"))}


def test_a_redirect_carries_its_own_numbers_and_not_those_of_the_request_before(kit: Kit) -> None:
    server = kit.server(Answer(503), Answer(302, headers={"Location": "https://other.example/"}), Answer(200))
    client = kit.client(kit.transport(server), follow_redirects=True)
    with traced(TraceContext(TRACE, PARENT)):
        kit.colour.run(client.get(URL))
    attempts = [request.headers.get("X-Request-Attempt") for request in server.requests]
    assert attempts == [None, "2", None]
    assert len({request.headers["traceparent"] for request in server.requests}) == 3


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_the_list_in_which_the_libraries_keep_headers_is_where_it_was(library: Any) -> None:
    """If this fails, every request takes 3 µs more: see `resilience_http._headers`."""
    assert library.Headers({"A-b": "c"})._list == [(b"A-b", b"a-b", b"c")]


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize("name", ["_list", "_no_such_list"])
def test_headers_are_read_and_extended_with_that_list_and_without(
    library: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_headers, "_LIST", name)
    headers = library.Headers([("Host", "a"), ("x-TWICE", "1"), ("X-Twice", "2")])
    assert _headers.names_of(headers) == [b"host", b"x-twice", b"x-twice"]
    more = _headers.extended(headers, [("X-One", b"x-one", "1"), ("X-Two", b"x-two", "\u00fc")])
    assert type(more) is library.Headers
    assert more.raw == [*headers.raw, (b"X-One", b"1"), (b"X-Two", "\u00fc".encode())]
    assert (more["x-one"], more["X-TWO"], len(headers.raw)) == ("1", "\u00fc", 3)
