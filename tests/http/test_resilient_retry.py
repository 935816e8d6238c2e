"""What is sent again, what is not, and how long that waits."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tenacity

from resilience import Retry, RetryBudget, RetryScheduled, Timeout, attempt_number
from resilience.testing import recorded_events
from tests.http.scripted import Answer, Kit

NO_WAIT = tenacity.wait_none()


def test_a_get_that_met_a_server_in_trouble_is_sent_again(kit: Kit) -> None:
    server = kit.server(Answer(503, "sorry"), Answer(200, "here"))
    response = kit.request(kit.transport(server))
    assert (response.status_code, response.text) == (200, "here")
    assert len(server.requests) == 2


def test_a_response_is_closed_before_the_request_is_sent_again(kit: Kit) -> None:
    server = kit.server(Answer(503, "sorry"), Answer(200, "here"))
    kit.request(kit.transport(server))
    assert server.log == ["request", "closed", "request", "closed"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_retried(kit: Kit, status: int) -> None:
    server = kit.server(Answer(status), Answer(200))
    assert kit.request(kit.transport(server)).status_code == 200


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 403, 404, 409, 501, 505])
def test_any_other_status_is_an_answer(kit: Kit, status: int) -> None:
    server = kit.server(Answer(status))
    assert kit.request(kit.transport(server)).status_code == status
    assert len(server.requests) == 1


def test_the_last_response_is_returned_when_the_attempts_are_used_up(kit: Kit) -> None:
    server = kit.server(Answer(500), Answer(502), Answer(503, "still down"))
    response = kit.request(kit.transport(server))
    assert (response.status_code, response.text) == (503, "still down")
    assert len(server.requests) == 3


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_a_number_of_attempts_is_all_that_many_users_want_to_say(kit: Kit, attempts: int) -> None:
    server = kit.server(*[Answer(503)] * attempts)
    budget = RetryBudget(ratio=1.0, minimum_per_second=10.0)
    assert kit.request(kit.transport(server, retry=attempts, budget=budget)).status_code == 503
    assert len(server.requests) == attempts


@pytest.mark.parametrize("name", ["ReadError", "ReadTimeout", "WriteError", "RemoteProtocolError", "ConnectError"])
def test_a_get_is_sent_again_after_an_error_of_the_transport(kit: Kit, name: str) -> None:
    server = kit.server(kit.error(name), Answer(200))
    assert kit.request(kit.transport(server)).status_code == 200


def test_the_last_error_is_raised_with_a_note_for_each_attempt(kit: Kit) -> None:
    server = kit.server(kit.error("ReadError", "one"), kit.error("ReadError", "two"), kit.error("ReadError", "three"))
    with pytest.raises(kit.library.ReadError, match="three") as caught:
        kit.request(kit.transport(server))
    assert len(caught.value.__notes__) == 3
    assert str(caught.value.request.url) == "https://api.example.com/things"


@pytest.mark.parametrize("name", ["ConnectError", "ConnectTimeout", "PoolTimeout"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "PURGE"])
def test_what_provably_never_reached_the_server_is_retried_for_any_method(kit: Kit, name: str, method: str) -> None:
    server = kit.server(kit.error(name), Answer(200))
    assert kit.request(kit.transport(server), method, content=b"order").status_code == 200
    assert server.bodies == [b"order"]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_post_is_sent_once(kit: Kit, method: str) -> None:
    server = kit.server(kit.error("ReadError"))
    with pytest.raises(kit.library.ReadError):
        kit.request(kit.transport(server), method)
    assert len(server.requests) == 1
    server = kit.server(Answer(503))
    assert kit.request(kit.transport(server), method).status_code == 503
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "marked", [{"headers": {"Idempotency-Key": '"8e03"'}}, {"extensions": {"resilience": {"idempotent": True}}}]
)
def test_a_post_that_is_marked_as_idempotent_is_repeated(kit: Kit, marked: dict[str, Any]) -> None:
    server = kit.server(Answer(503), kit.error("ReadError"), Answer(201))
    assert kit.request(kit.transport(server), "POST", json={"a": 1}, **marked).status_code == 201
    assert len(server.requests) == 3
    assert len(set(server.bodies)) == 1


def test_a_get_that_is_marked_as_not_idempotent_is_sent_once(kit: Kit) -> None:
    server = kit.server(Answer(503))
    extensions = {"resilience": {"idempotent": False}}
    assert kit.request(kit.transport(server), extensions=extensions).status_code == 503
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["UnsupportedProtocol", "LocalProtocolError", "ProxyError"])
def test_a_mistake_of_the_caller_is_not_repeated(kit: Kit, name: str) -> None:
    server = kit.server(kit.error(name))
    with pytest.raises(getattr(kit.library, name)):
        kit.request(kit.transport(server))
    assert len(server.requests) == 1


def test_an_error_that_is_none_of_the_library_is_not_repeated(kit: Kit) -> None:
    server = kit.server(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        kit.request(kit.transport(server))
    assert len(server.requests) == 1


# --- bodies ----------------------------------------------------------------------------------------------------------


class Unseekable:
    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


class Again:
    """An iterable that is no iterator."""

    async def __aiter__(self) -> Any:
        for chunk in (b"a", b"b"):
            yield chunk


def generator(kit: Kit) -> Any:
    async def pieces() -> Any:
        yield b"a"
        yield b"b"

    return pieces() if kit.colour.is_async else iter([b"a", b"b"])


REPLAYABLE: dict[str, Callable[[Kit], dict[str, Any]]] = {
    "nothing": lambda kit: {},
    "bytes": lambda kit: {"content": b"x" * 100_000},
    "text": lambda kit: {"content": "x"},
    "json": lambda kit: {"json": {"a": 1}},
    "form": lambda kit: {"data": {"a": "1"}},
    "multipart": lambda kit: {"files": {"f": io.BytesIO(b"x" * 1000)}, "data": {"a": "1"}},
    "multipart of bytes": lambda kit: {"files": {"f": b"x" * 1000}},
    "an iterable": lambda kit: {"content": Again() if kit.colour.is_async else [b"a", b"b"]},
}
ONCE: dict[str, Callable[[Kit], dict[str, Any]]] = {
    "an iterator": lambda kit: {"content": generator(kit)},
    "a large multipart": lambda kit: {"files": {"f": io.BytesIO(b"x" * 100_000)}},
    "an unseekable multipart": lambda kit: {"files": {"f": Unseekable(b"x")}},
}


@pytest.mark.parametrize("body", REPLAYABLE)
@pytest.mark.parametrize("failure", ["ReadError", None])
def test_a_body_that_can_be_sent_again_is_the_same_each_time(kit: Kit, body: str, failure: str | None) -> None:
    server = kit.server(kit.error(failure) if failure else Answer(503), Answer(503), Answer(200))
    response = kit.request(kit.transport(server), "PUT", **REPLAYABLE[body](kit))
    assert response.status_code == 200
    assert len(server.requests) == 3
    assert len(set(server.bodies)) == 1
    assert server.bodies[0] or body == "nothing"


@pytest.mark.parametrize("body", ONCE)
def test_a_body_that_cannot_be_sent_again_is_sent_once(kit: Kit, body: str) -> None:
    server = kit.server(Answer(503), Answer(200))
    assert kit.request(kit.transport(server), "PUT", **ONCE[body](kit)).status_code == 503
    assert len(server.requests) == 1


def test_an_open_file_is_sent_once(kit: Kit, tmp_path: Path) -> None:
    if kit.colour.is_async:
        return  # the libraries do not take one there
    path = tmp_path / "upload"
    path.write_bytes(b"x" * 10)
    with path.open("rb") as file:
        server = kit.server(Answer(503), Answer(200))
        assert kit.request(kit.transport(server), "PUT", content=file).status_code == 503
    assert server.bodies == [b"x" * 10]


class Vanishing(io.BytesIO):
    """Closed as soon as it was read."""

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        if not chunk:
            self.close()
        return chunk


def test_a_file_in_a_form_that_was_closed_meanwhile_is_not_sent_again(kit: Kit) -> None:
    server = kit.server(Answer(503))
    assert kit.request(kit.transport(server), "PUT", files={"f": Vanishing(b"x")}).status_code == 503
    assert len(server.requests) == 1


def test_an_iterator_is_still_whole_after_a_connect_error(kit: Kit) -> None:
    server = kit.server(kit.error("ConnectError"), Answer(200))
    assert kit.request(kit.transport(server), "POST", content=generator(kit)).status_code == 200
    assert server.bodies == [b"ab"]


def test_a_stream_of_the_callers_own_making_is_sent_once(kit: Kit) -> None:
    class Own(kit.library.AsyncByteStream, kit.library.SyncByteStream):  # type: ignore[name-defined,misc]
        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

        async def __aiter__(self) -> Any:
            yield b"x"

    server = kit.server(Answer(503), Answer(200))
    client = kit.client(kit.transport(server))
    request = kit.library.Request("PUT", "https://api.example.com/", stream=Own())
    assert kit.colour.run(client.send(request)).status_code == 503


def test_the_limit_for_multipart_forms_can_be_raised(kit: Kit) -> None:
    server = kit.server(Answer(503), Answer(200))
    transport = kit.transport(server, replay_limit=200_000)
    assert kit.request(transport, "PUT", files={"f": io.BytesIO(b"x" * 100_000)}).status_code == 200


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_the_pauses_between_attempts_grow_and_are_random(kit: Kit) -> None:
    server = kit.server(Answer(503))
    kit.request(kit.transport(server))
    first, second = kit.clock.sleeps
    assert 0.0 <= first <= 0.1
    assert 0.0 <= second <= 0.2


@pytest.mark.parametrize(
    "headers,least",
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:47 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 10.0),
        ({"RateLimit": '"p";r=0;t=3'}, 3.0),
    ],
)
def test_nobody_comes_back_earlier_than_asked(kit: Kit, headers: dict[str, str], least: float) -> None:
    server = kit.server(Answer(429, headers=headers), Answer(200))
    assert kit.request(kit.transport(server)).status_code == 200
    assert least <= kit.clock.sleeps[0] <= least + 1.0


def test_a_retry_after_that_is_too_long_ends_the_attempts_now(kit: Kit) -> None:
    server = kit.server(Answer(503, headers={"Retry-After": "120"}))
    assert kit.request(kit.transport(server)).status_code == 503
    assert len(server.requests) == 1
    assert kit.clock.sleeps == []


@pytest.mark.parametrize("value", ["-5", "nan", "99999999999999999999", "soon", "Mon, 99 Foo 2024 00:00:00 GMT"])
def test_an_absurd_retry_after_is_ignored(kit: Kit, value: str) -> None:
    server = kit.server(Answer(503, headers={"Retry-After": value}), Answer(200))
    assert kit.request(kit.transport(server)).status_code == 200
    assert kit.clock.sleeps[0] <= 0.1


def test_a_pause_that_the_deadline_has_no_room_for_ends_the_attempts_now(kit: Kit) -> None:
    server = kit.server(Answer(503, headers={"Retry-After": "7"}))
    assert kit.request(kit.transport(server, timeout=5.0)).status_code == 503
    assert kit.clock.now() == 1000.0


def test_a_deadline_around_the_request_counts_as_well(kit: Kit) -> None:
    server = kit.server(Answer(503, headers={"Retry-After": "7"}))
    client = kit.client(kit.transport(server))
    assert kit.under(Timeout(5.0), lambda: client.get("https://api.example.com/")).status_code == 503
    assert kit.clock.now() == 1000.0


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_budget_is_shared_by_all_requests(kit: Kit) -> None:
    server = kit.server(Answer(503))
    transport = kit.transport(server, budget=RetryBudget(0.0, minimum_per_second=0.3, window=10.0), breaker=None)
    for _ in range(4):
        kit.request(transport)
    assert len(server.requests) == 4 + 3
    assert transport.retry.statistics().retries == 3


def test_the_budget_counts_first_attempts(kit: Kit) -> None:
    budget = RetryBudget(0.5, minimum_per_second=0.0)
    server = kit.server(Answer(503))
    transport = kit.transport(server, budget=budget, breaker=None)
    for _ in range(4):
        kit.request(transport)
    assert (budget.statistics().deposits, budget.statistics().withdrawals) == (4, 2)


def test_a_stop_strategy_counts_from_the_start_of_the_request(kit: Kit) -> None:
    server = kit.server(Answer(503, after=5.0))
    retry = Retry(kit.library.ReadError, attempts=9, wait=NO_WAIT, stop=tenacity.stop_after_delay(8.0))
    kit.request(kit.transport(server, retry=retry))
    assert len(server.requests) == 2


def test_without_a_budget_every_request_has_all_its_attempts(kit: Kit) -> None:
    server = kit.server(Answer(503))
    transport = kit.transport(server, budget=None, breaker=None)
    for _ in range(20):
        kit.request(transport)
    assert len(server.requests) == 60


@pytest.mark.parametrize("retry,attempts", [(False, 1), (True, 3), (1, 1), (2, 2), (5, 5)])
def test_a_request_may_say_how_often_it_is_tried(kit: Kit, retry: Any, attempts: int) -> None:
    server = kit.server(Answer(503))
    kit.request(kit.transport(server), extensions={"resilience": {"retry": retry}})
    assert len(server.requests) == attempts


def test_without_retry_every_request_is_sent_once(kit: Kit) -> None:
    server = kit.server(Answer(503), kit.error("ConnectError"))
    transport = kit.transport(server, retry=None)
    assert transport.retry is None
    assert kit.request(transport).status_code == 503
    with pytest.raises(kit.library.ConnectError):
        kit.request(transport)
    assert len(server.requests) == 2


def test_a_retry_of_ones_own_decides_about_errors_and_gets_the_rest_for_free(kit: Kit) -> None:
    retry = Retry(kit.library.ReadError, attempts=5, wait=NO_WAIT)
    server = kit.server(kit.error("ReadError"), Answer(503), kit.error("WriteError"))
    with pytest.raises(kit.library.WriteError):
        kit.request(kit.transport(server, retry=retry))
    assert len(server.requests) == 3


def test_a_retry_of_ones_own_may_look_at_responses(kit: Kit) -> None:
    retry = Retry(kit.library.ReadError, retry_if=lambda response: response.status_code == 404, wait=NO_WAIT)
    server = kit.server(Answer(404), Answer(503, "x"))
    assert kit.request(kit.transport(server, retry=retry)).status_code == 503
    assert len(server.requests) == 2
    assert server.log == ["request", "closed", "request", "closed"]


def test_a_retry_of_ones_own_keeps_its_stop_strategy_and_its_budget(kit: Kit) -> None:
    budget = RetryBudget()
    retry = Retry(
        kit.library.ReadError,
        attempts=10,
        wait=tenacity.wait_fixed(2.0),
        stop=tenacity.stop_after_delay(3.0),
        budget=budget,
    )
    server = kit.server(kit.error("ReadError"))
    with pytest.raises(kit.library.ReadError):
        kit.request(kit.transport(server, retry=retry))
    assert len(server.requests) == 3
    assert budget.statistics().withdrawals == 2


def test_a_retry_with_a_tenacity_strategy_that_sees_results_sees_responses(kit: Kit) -> None:
    retry = Retry(tenacity.retry_if_result(lambda response: response.status_code == 404), wait=NO_WAIT)
    server = kit.server(Answer(404), Answer(200))
    assert kit.request(kit.transport(server, retry=retry)).status_code == 200


def test_a_retry_that_fails_over_a_response_leaves_it_closed(kit: Kit) -> None:
    def broken(response: Any) -> bool:
        raise ZeroDivisionError

    server = kit.server(Answer(200, "x"))
    transport = kit.transport(server, retry=Retry(kit.library.ReadError, retry_if=broken))
    with pytest.raises(ZeroDivisionError):
        kit.request(transport)
    assert server.log == ["request", "closed"]
    assert transport.statistics().in_use == 0


def test_the_attempt_is_known_inside_and_forgotten_afterwards(kit: Kit) -> None:
    numbers: list[int] = []

    def note(request: Any) -> Answer:
        numbers.append(attempt_number())
        return Answer(503)

    kit.request(kit.transport(kit.server(note)))
    assert numbers == [1, 2, 3]
    assert attempt_number() == 1


def test_inside_a_further_attempt_of_another_retry_the_request_counts_for_itself(kit: Kit) -> None:
    numbers: list[int] = []

    def note(request: Any) -> Answer:
        numbers.append(attempt_number())
        return Answer(503 if len(numbers) % 2 else 200)

    client = kit.client(kit.transport(kit.server(note), breaker=None))
    unhappy = Retry(ValueError, attempts=2, wait=NO_WAIT, retry_if=lambda response: True)
    kit.under(unhappy, lambda: client.get("https://api.example.com/"))
    assert numbers == [1, 2, 1, 2]


def test_retries_tell_the_listeners(kit: Kit) -> None:
    with recorded_events(RetryScheduled) as events:
        kit.request(kit.transport(kit.server(Answer(503), Answer(200))))
    assert [(event.policy, event.attempt) for event in events] == [("requests", 1)]
