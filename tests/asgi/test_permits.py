"""How long a request holds what it holds, and what its end counts as."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
from resilience_asgi import ResilienceMiddleware, ResponseOutcome, path_key
from resilience_asgi.protocol import Message, Receive, Scope, Send

from resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    Keyed,
    RateLimiter,
    Timeout,
    remaining,
)
from resilience._machine import SUCCESS, Verdict
from resilience.testing import ManualClock, run

from .wire import Connection, answering, raising, respond, served

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
PART: Message = {"type": "http.response.body", "body": b"part", "more_body": True}
END: Message = {"type": "http.response.body", "body": b""}


def in_use(bulkhead: Bulkhead) -> int:
    return bulkhead.statistics().in_use


def test_a_slot_is_held_until_the_last_part_was_sent_and_not_during_background_work(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (START, PART, END):
            await send(message)
            seen.append(in_use(bulkhead))
        await clock.asleep(5.0)

    assert served(ResilienceMiddleware(app, layers=[bulkhead]), clock).complete
    assert seen == [1, 1, 0]


def test_a_stream_of_events_holds_its_slot(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for _ in range(5):
            await send(PART)
            await clock.asleep(10.0)
        await send(END)

    app = ResilienceMiddleware(stream, layers=[bulkhead], timeout=1.0)

    async def main() -> list[Connection]:
        first, second = Connection(app), Connection(app)
        task = asyncio.ensure_future(first.serve())
        await clock.asleep(30.0)
        await second.serve()
        await task
        return [first, second]

    first, second = run(main(), clock)
    assert (first.status, second.status) == (200, 503)
    assert first.body == b"part" * 5
    assert in_use(bulkhead) == 0


@pytest.mark.parametrize(
    "error", [ValueError("app"), CircuitOpenError(), KeyboardInterrupt(), asyncio.CancelledError()]
)
@pytest.mark.parametrize("before", [[], [START], [START, PART], [START, END]])
def test_a_slot_comes_back_when_the_application_raises(
    clock: ManualClock, error: BaseException, before: list[Message]
) -> None:
    bulkhead = Bulkhead(1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        raise error

    connection = Connection(ResilienceMiddleware(app, layers=[bulkhead], timeout=5.0))
    caught: list[BaseException] = []

    async def main() -> None:
        try:
            await connection.serve()
        except BaseException as raised:
            caught.append(raised)

    run(main(), clock)
    assert in_use(bulkhead) == 0
    rendered = isinstance(error, CircuitOpenError) and not before
    assert caught == ([] if rendered else [error])
    assert connection.kinds.count("http.response.start") == (1 if before or rendered else 0)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_slot_comes_back_when_send_raises_and_the_breaker_does_not_count_it(clock: ManualClock, at: int) -> None:
    bulkhead, breaker = Bulkhead(1), CircuitBreaker("app", failure_threshold=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for number, message in enumerate((START, PART, END)):
            if number == at:
                connection.broken = OSError("gone")
            await send(message)

    connection = Connection(ResilienceMiddleware(app, layers=[breaker, bulkhead]))
    with pytest.raises(OSError, match="gone"):
        run(connection.serve(), clock)
    assert in_use(bulkhead) == 0
    assert breaker.statistics().failures == 0
    assert breaker.state.value == "closed"


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_error_of_the_server_that_is_no_broken_connection_is_a_failure(clock: ManualClock, at: int) -> None:
    breaker = CircuitBreaker("app", failure_threshold=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for number, message in enumerate((START, PART, END)):
            if number == at:
                connection.broken = RuntimeError("not now")
            await send(message)

    connection = Connection(ResilienceMiddleware(app, layers=[breaker]))
    with pytest.raises(RuntimeError, match="not now"):
        run(connection.serve(), clock)
    assert breaker.state.value == "open"


def test_a_slot_comes_back_when_the_application_sends_nothing(clock: ManualClock) -> None:
    bulkhead, breaker = Bulkhead(1), CircuitBreaker("app", failure_threshold=9)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/half":
            await send(START)

    guarded = ResilienceMiddleware(app, layers=[breaker, bulkhead])
    for path in ("/", "/half"):
        served(guarded, clock, path=path)
    assert in_use(bulkhead) == 0
    assert breaker.statistics().failures == 2


def test_a_second_start_and_a_second_end_are_for_the_server_to_judge(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in scope["messages"]:
            await send(message)

    guarded = ResilienceMiddleware(app, layers=[bulkhead], timeout=5.0, body_timeout=5.0)
    for messages in ([START, START], [START, END, END], [END]):
        connection = Connection(guarded, messages=messages)
        with pytest.raises(RuntimeError):
            run(connection.serve(), clock)
        assert in_use(bulkhead) == 0


@pytest.mark.parametrize("survives,failures", [(True, 0), (False, 1)])
def test_an_application_that_starts_twice_is_judged_by_what_the_client_got(
    clock: ManualClock, survives: bool, failures: int
) -> None:
    breaker = CircuitBreaker("app", failure_threshold=9)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        try:
            await send({**START, "status": 500})
        except RuntimeError:
            if not survives:
                raise
        await send(END)

    connection = Connection(ResilienceMiddleware(app, layers=[breaker]))

    async def main() -> None:
        try:
            await connection.serve()
        except RuntimeError:
            assert not survives

    run(main(), clock)
    assert breaker.statistics().failures == failures


def test_layers_admitted_before_a_refusal_get_their_permits_back(clock: ManualClock) -> None:
    outer, inner = Bulkhead(5), RateLimiter(1, 60.0)
    breaker = CircuitBreaker("app", failure_threshold=1)
    app = ResilienceMiddleware(answering(), layers=[breaker, outer, inner])
    assert [served(app, clock).status for _ in range(3)] == [200, 429, 429]
    assert in_use(outer) == 0
    assert breaker.state.value == "closed"


def test_every_policy_behind_one_that_lets_the_request_wait_is_passed_too(clock: ManualClock) -> None:
    """A wait, a second one, a Keyed, and what comes behind each."""
    first, second, behind, last = (Bulkhead(1, max_queue=1) for _ in range(4))
    layers = [first, second, Keyed(lambda key: behind, key=path_key()), RateLimiter(1, 5.0, max_wait=60.0), last]
    seen: list[tuple[float, list[int]]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((clock.now() - 1000.0, [in_use(bulkhead) for bulkhead in (first, second, behind, last)]))
        await respond(send)

    middleware = ResilienceMiddleware(app, layers=layers)

    async def main() -> None:
        held = [(bulkhead, bulkhead.admit()) for bulkhead in (first, second)]
        served = asyncio.ensure_future(Connection(middleware).serve())
        for bulkhead, permit in held:
            await clock.asleep(1.0)
            bulkhead.settle(permit)
        await served
        await Connection(middleware).serve()

    run(main(), clock)
    assert [when for when, _ in seen] == [pytest.approx(2.0), pytest.approx(7.0)]
    assert [held for _, held in seen] == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert [in_use(bulkhead) for bulkhead in (first, second, behind, last)] == [0, 0, 0, 0]


def test_a_bulkhead_alone_gets_its_slot_back_when_the_server_cannot_deliver(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)

    connection = Connection(ResilienceMiddleware(answering(), layers=[bulkhead]))
    connection.broken = OSError("gone")
    with pytest.raises(OSError, match="gone"):
        run(connection.serve(), clock)
    assert in_use(bulkhead) == 0


@pytest.mark.parametrize("status,failures", [(200, 0), (404, 0), (499, 0), (500, 1), (503, 1)])
def test_a_status_of_500_and_above_is_a_failure(clock: ManualClock, status: int, failures: int) -> None:
    breakers: dict[str, Any] = {}
    plain = CircuitBreaker("plain", failure_threshold=9)
    keyed = Keyed(lambda path: breakers.setdefault(path, CircuitBreaker(path, failure_threshold=9)), path_key())
    served(ResilienceMiddleware(answering(b"", status), layers=[plain, keyed]), clock, path="/x")
    assert plain.statistics().failures == failures
    assert breakers["/x"].statistics().failures == failures


def test_layers_that_look_at_results_see_the_response(clock: ManualClock) -> None:
    seen: list[Any] = []

    def failed_login(outcome: Any) -> bool:
        seen.append(outcome)
        return isinstance(outcome, ResponseOutcome) and outcome.status == 401

    logins = RateLimiter(2, 60.0, charge_if=failed_login)
    for status in (200, 401, 500, 401):
        app = ResilienceMiddleware(answering(b"", status, [(b"x", b"y")]), layers=[logins])
        assert served(app, clock).status == status
    assert served(ResilienceMiddleware(answering(), layers=[logins]), clock).status == 429
    assert seen[0] == ResponseOutcome(200, [(b"x", b"y")])
    error = ValueError("app")
    clock.advance(60.0)
    with pytest.raises(ValueError):
        served(ResilienceMiddleware(raising(error), layers=[logins]), clock)
    assert seen[-1] is error


def test_a_response_that_was_not_completed_counts_as_a_failure_of_the_server(clock: ManualClock) -> None:
    seen: list[Any] = []

    def failed(outcome: Any) -> bool:
        seen.append(outcome)
        return True

    breaker = CircuitBreaker("app", failure_threshold=9, failure_if=failed)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)

    served(ResilienceMiddleware(app, layers=[breaker]), clock)
    assert [outcome.status for outcome in seen] == [500]


@pytest.mark.parametrize("fails", [False, True])
def test_a_judge_that_raises_keeps_no_permit(clock: ManualClock, fails: bool) -> None:
    def judge(outcome: Any) -> bool:
        raise LookupError("judge")

    bulkhead, keyed = Bulkhead(1), Keyed(lambda _: Bulkhead(1), path_key())
    breakers = [CircuitBreaker("a", failure_if=judge, failure_on=judge) for _ in range(2)]
    connection = Connection(
        ResilienceMiddleware(
            raising(ValueError("app")) if fails else answering(), layers=[bulkhead, *breakers, keyed], timeout=5.0
        )
    )

    async def main() -> None:
        with pytest.raises(LookupError, match="judge"):
            await connection.serve()
        assert remaining() is None

    run(main(), clock)
    assert in_use(bulkhead) == 0
    assert keyed.statistics().in_use == 0


def test_a_judge_behind_a_keyed_sees_the_response(clock: ManualClock) -> None:
    seen: list[ResponseOutcome] = []

    def failed(outcome: ResponseOutcome) -> bool:
        seen.append(outcome)
        return True

    breakers = Keyed(lambda path: CircuitBreaker(path, failure_if=failed, failure_threshold=1), path_key())
    app = ResilienceMiddleware(answering(headers=[(b"x-cache", b"stale")]), layers=[breakers])
    assert [served(app, clock, path="/items").status for _ in range(2)] == [200, 503]
    assert seen == [ResponseOutcome(200, [(b"x-cache", b"stale")])]


class Ordered(CircuitBreaker):
    """Says when it settles."""

    def __init__(self, name: str, settled: list[str]) -> None:
        super().__init__(name)
        self.settled = settled

    def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None:
        super().settle(permit, verdict)
        self.settled.append(str(self.name))


@pytest.mark.parametrize("status", [200, 404, 500])
def test_permits_are_given_back_innermost_first(clock: ManualClock, status: int) -> None:
    settled: list[str] = []
    layers = [Ordered(name, settled) for name in "abc"]
    assert served(ResilienceMiddleware(answering(status=status), layers=layers), clock).status == status
    assert settled == ["c", "b", "a"]


@pytest.mark.parametrize("status", [200, 404, 500])
def test_an_application_that_fails_after_the_end_has_answered_once(clock: ManualClock, status: int) -> None:
    settled: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, status=status)
        raise ValueError("in the background")

    with pytest.raises(ValueError, match="background"):
        served(ResilienceMiddleware(app, layers=[Ordered("a", settled)]), clock)
    assert settled == ["a"]


class Interrupted(CircuitBreaker):
    """Ctrl-C comes while it settles."""

    def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None:
        super().settle(permit, verdict)
        raise KeyboardInterrupt


@pytest.mark.parametrize("swallowed", [False, True])
def test_an_interrupt_while_permits_are_given_back_keeps_none_of_them(clock: ManualClock, swallowed: bool) -> None:
    outer, inner, caught = Bulkhead(1), Bulkhead(1), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await respond(send)
        except KeyboardInterrupt as error:
            caught.append(error)
            assert in_use(outer) == in_use(inner) == 0
            if not swallowed:
                raise ValueError("app") from error

    connection = Connection(ResilienceMiddleware(app, layers=[outer, Interrupted(), inner], timeout=5.0))

    async def main() -> None:
        with nullcontext() if swallowed else pytest.raises(ValueError, match="app"):
            await connection.serve()
        assert remaining() is None

    run(main(), clock)
    assert connection.complete
    assert len(caught) == 1
    assert in_use(outer) == in_use(inner) == 0


def test_what_is_sent_after_the_application_has_ended_is_for_the_server_to_judge(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)
    sends: list[Send] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sends.append(send)

    connection = Connection(
        ResilienceMiddleware(app, layers=[bulkhead], timeout=5.0, body_timeout=5.0, watch_after=0.1)
    )

    async def main() -> None:
        await connection.serve()
        await respond(sends[0], b"late")
        await clock.asleep(60.0)

    run(main(), clock)
    assert connection.body == b"late"
    assert in_use(bulkhead) == 0


def test_a_request_without_a_key_is_not_guarded(clock: ManualClock) -> None:
    app = ResilienceMiddleware(
        answering(), layers=[RateLimiter(1, 60.0, key=lambda scope: None), Keyed(lambda _: Bulkhead(1), lambda _: None)]
    )
    assert [served(app, clock).status for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("layer", [Timeout(1.0)])
def test_a_keyed_layer_cannot_smuggle_in_what_is_refused_plainly(clock: ManualClock, layer: Any) -> None:
    keyed = Keyed(lambda _: layer, path_key())
    with pytest.raises(TypeError, match="behind a Keyed neither"):
        served(ResilienceMiddleware(answering(), layers=[keyed]), clock)
    assert keyed.statistics().in_use == 0


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.response.pathsend", "path": "/x"}],
        [{"type": "http.response.zerocopysend", "file": 1, "more_body": True}, {"type": "http.response.zerocopysend"}],
    ],
)
def test_extensions_that_send_the_body_in_another_way_end_the_response(
    clock: ManualClock, messages: list[Message]
) -> None:
    bulkhead = Bulkhead(1)
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for message in messages:
            seen.append(in_use(bulkhead))
            await send(message)
        seen.append(in_use(bulkhead))

    served(ResilienceMiddleware(app, layers=[bulkhead]), clock)
    assert seen == [1] * len(messages) + [0]


def test_trailers_end_the_response_that_announced_them(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)
    seen: list[int] = []
    messages: list[Message] = [
        {**START, "trailers": True},
        {"type": "http.response.push", "path": "/x", "headers": []},
        PART,
        {"type": "http.response.zerocopysend", "file": 1},
        {"type": "http.response.trailers", "headers": [], "more_trailers": True},
        {"type": "http.response.trailers", "headers": []},
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
            seen.append(in_use(bulkhead))

    served(ResilienceMiddleware(app, layers=[bulkhead]), clock)
    assert seen == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("error", [None, CircuitOpenError, ValueError])
def test_a_request_leaves_no_reference_cycle(clock: ManualClock, error: type[Exception] | None) -> None:
    import gc

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        if error is not None:
            raise error("fresh")
        await respond(send)

    app = ResilienceMiddleware(inner, layers=[Bulkhead(5), CircuitBreaker("app")], timeout=5.0, body_timeout=5.0)

    async def once() -> None:
        task = asyncio.create_task(Connection(app).serve())
        await asyncio.wait([task])
        assert task.exception() is None or isinstance(task.exception(), ValueError)

    async def main() -> int:
        await once()
        gc.collect()
        gc.disable()
        try:
            await once()
            return gc.collect()
        finally:
            gc.enable()

    assert run(main(), clock) == 0
