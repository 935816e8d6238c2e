"""The mock libraries that people have work as they did, below the transport and in place of it."""

from __future__ import annotations

import httpx
import respx
from pytest_httpx import HTTPXMock
from resilience_httpx import ResilientTransport

from resilience.testing import no_waits
from tests.http.scripted import URL


def test_respx_routes_below_the_transport_are_retried() -> None:
    router = respx.Router(assert_all_called=True)
    route = router.get(URL).mock(side_effect=[httpx.ConnectError, httpx.Response(503), httpx.Response(200, json=[1])])
    with no_waits(), httpx.Client(transport=ResilientTransport(httpx.MockTransport(router.handler))) as client:
        assert client.get(URL).json() == [1]
    assert route.call_count == 3


async def test_respx_routes_work_with_tasks_as_well() -> None:
    router = respx.Router()
    route = router.post(URL).mock(return_value=httpx.Response(201))
    with no_waits():
        transport = ResilientTransport(httpx.MockTransport(router.async_handler))
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.post(URL, json={"a": 1})).status_code == 201
    assert route.calls.last.request.content == b'{"a":1}'


@respx.mock
def test_respx_patching_httpcore_sees_every_attempt() -> None:
    route = respx.get(URL).mock(side_effect=[httpx.Response(502), httpx.Response(200, text="here")])
    with no_waits(), httpx.Client(transport=ResilientTransport(httpx.HTTPTransport())) as client:
        assert client.get(URL).text == "here"
    assert route.call_count == 2


def test_pytest_httpx_sees_every_attempt_and_its_headers(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=URL, status_code=503)
    httpx_mock.add_response(url=URL, text="here")
    with no_waits(), httpx.Client(transport=ResilientTransport(httpx.HTTPTransport())) as client:
        assert client.get(URL).text == "here"
    first, second = httpx_mock.get_requests()
    assert "X-Request-Attempt" not in first.headers
    assert second.headers["X-Request-Attempt"] == "2"


async def test_pytest_httpx_exceptions_are_retried(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_exception(httpx.ReadTimeout("slow"))
    httpx_mock.add_response(stream=httpx.ByteStream(b"here"))
    with no_waits():
        async with httpx.AsyncClient(transport=ResilientTransport(httpx.AsyncHTTPTransport())) as client:
            assert (await client.get(URL)).text == "here"


def test_a_mock_transport_that_returns_one_and_the_same_response_works() -> None:
    answer = httpx.Response(200, text="x")
    transport = ResilientTransport(httpx.MockTransport(lambda request: answer))
    with httpx.Client(transport=transport) as client:
        assert [client.get(URL).text for _ in range(3)] == ["x"] * 3
