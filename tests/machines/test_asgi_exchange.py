"""One request through the middleware against a plain account of what should happen to it.

The application does what the machine tells it, one command at a time, in virtual time; around it the client leaves, the
server cancels and the limits run out. The model knows instants and phases, and nothing of tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from resilience_asgi import ResilienceMiddleware
from resilience_asgi.protocol import Receive, Scope, Send

from resilience import CallTimeoutError, CircuitOpenError, Policy, remaining
from resilience._machine import ABANDONED, FAILURE, SUCCESS, Machine, Verdict
from resilience.testing import ManualClock, VirtualLoop, use_clock
from tests.asgi.wire import Connection

START = 1000.0


class Spy(Policy):
    """A layer that writes down what happens to its permits."""

    def __init__(self) -> None:
        super().__init__("spy", None, ())
        self._machine = Machine()
        self.out = 0
        self.verdicts: list[Verdict] = []

    def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> int:
        self.out += 1
        return self.out

    def settle(self, permit: int, verdict: Verdict = SUCCESS) -> None:
        self.out -= 1
        self.verdicts.append(verdict)


@dataclass
class Model:
    """A request: `phase` is "waiting", "streaming", "background" or "over"; `ending` says how it ended."""

    timeout: float | None
    body_timeout: float | None
    watch_after: float | None
    now: float = START
    phase: str = "waiting"
    status: int | None = None
    complete: bool = False
    unread: bool = True
    left: bool = False  # the client
    noticed: bool = False  # by the application or by the watcher
    stubborn: bool = False  # the application swallows the next cancellation
    armed: float | None = None
    timed_out: bool = False
    chased: bool = False  # cancelled because the client has left
    foreign: int = 0  # cancellations by the server
    verdicts: list[Verdict] = field(default_factory=list)
    ending: str = ""

    def __post_init__(self) -> None:
        self.armed = None if self.timeout is None else START + self.timeout

    def working(self) -> bool:
        return self.phase in ("waiting", "streaming")

    def next_event(self) -> tuple[float, str] | None:
        events = []
        if self.armed is not None and self.working() and not self.timed_out:
            events.append((self.armed, "deadline"))
        if self.watch_after is not None and self.left and not self.noticed and self.working():
            events.append((max(self.now, START + self.watch_after), "client"))
        return min(events, default=None)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while (event := self.next_event()) is not None and event[0] <= until:
            self.now, kind = event
            if kind == "deadline":
                self.timed_out = True
            else:
                self.noticed = self.chased = True
            self.cancelled()
        self.now = until

    def cancelled(self) -> None:
        if self.stubborn:
            self.stubborn = False
            return
        ours = self.foreign == 0
        verdict = FAILURE if self.timed_out else ABANDONED
        if not ours:
            self.over("cancelled", verdict)
        elif self.chased:
            if self.status is None:
                self.status, self.complete = 499, True
            self.over("returned", verdict)
        elif self.status is None:
            self.status, self.complete = 504, True
            self.over("returned", verdict)
        else:
            self.over("timed out", verdict)

    def over(self, ending: str, verdict: Verdict) -> None:
        if self.working():
            self.verdicts.append(verdict)
        self.phase, self.ending = "over", ending

    def starts(self, status: int) -> None:
        self.status, self.phase = status, "streaming"
        if not self.timed_out:
            self.armed = None if self.body_timeout is None else self.now + self.body_timeout

    def ends(self) -> None:
        assert self.status is not None
        self.verdicts.append(SUCCESS if self.status < 500 else FAILURE)
        self.phase, self.complete = "background", True

    def fails(self, rejected: bool) -> None:
        if rejected and self.status is None:
            self.status, self.complete = 503, True
            self.over("returned", ABANDONED)
        else:
            self.over("rejected" if rejected else "failed", ABANDONED if rejected else FAILURE)

    def returns(self) -> None:
        self.over("returned", ABANDONED if self.noticed else FAILURE)


class ExchangeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(START)
        self.using = use_clock(self.clock)
        self.using.__enter__()
        self.loop = VirtualLoop(self.clock)
        self.commands: asyncio.Queue[Callable[..., Any]] = asyncio.Queue()
        self.spy = Spy()

    # The limits lie so far apart that lateness (2 %) cannot change their order, and never on a whole second.
    @initialize(
        timeout=st.sampled_from([None, 2.3, 6.3]),
        body_timeout=st.sampled_from([None, 3.7, 9.7]),
        watch_after=st.sampled_from([None, 1.45, 4.45]),
        by_header=st.booleans(),
    )
    def begin(
        self, timeout: float | None, body_timeout: float | None, watch_after: float | None, by_header: bool
    ) -> None:
        self.model = Model(timeout, body_timeout, watch_after)
        headers = []
        if by_header and timeout is not None:
            headers, timeout = [("x-request-timeout-ms", str(round(timeout * 1000)))], 60.0
        app = ResilienceMiddleware(
            self.application, layers=[self.spy], timeout=timeout, body_timeout=body_timeout, watch_after=watch_after
        )
        self.connection = Connection(app, headers=headers)
        self.cancelling = -1
        self.task = self.loop.create_task(self.serve())
        self.wait(0.0)

    async def serve(self) -> None:
        try:
            await self.connection.serve()
        finally:
            task = asyncio.current_task()
            assert task is not None
            self.cancelling = task.cancelling()
            assert remaining() is None

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.receive, self.send = receive, send
        self.returning = self.swallowing = False
        while not self.returning:
            try:
                command = await self.commands.get()
            except asyncio.CancelledError:
                if not self.swallowing:
                    raise
                self.swallowing = False
                continue
            await command()

    def wait(self, seconds: float) -> None:
        async def passing() -> None:
            if seconds:
                await self.clock.asleep(seconds)
            for _ in range(12):
                await asyncio.sleep(0)

        self.loop.run_until_complete(passing())

    def tell(self, command: Callable[..., Any]) -> None:
        self.commands.put_nowait(command)
        self.wait(0.0)
        self.model.advance(0.0)

    def alive(self) -> bool:
        return self.model.phase != "over"

    # One rule with many cases, because Hypothesis leaves out half of the rules at a time.
    @rule(
        what=st.sampled_from(  # repeated for weight
            ["start", "start", "start", "part", "end", "end", "receive", "stubborn", "client", "client", "server"]
            + ["time"] * 6
            + ["return", "fail", "reject"]
        ),
        status=st.sampled_from([200, 503]),
        seconds=st.sampled_from([1.0, 1.0, 2.0, 5.0, 20.0]),
    )
    def something_happens(self, what: str, status: int, seconds: float) -> None:
        if what == "time":
            self.time_passes(seconds)
        elif self.alive() and what in ("client", "server"):
            self.somebody_leaves(what)
        elif self.alive() and what in ("return", "fail", "reject"):
            self.application_ends(what)
        elif self.alive():
            self.application_acts(what, status)

    def application_acts(self, what: str, status: int) -> None:
        model = self.model
        if what == "start" and model.phase == "waiting":
            model.starts(status)
            self.tell(lambda: self.send({"type": "http.response.start", "status": status, "headers": []}))
        elif what in ("part", "end") and model.phase == "streaming":
            if what == "end":
                model.ends()
            self.tell(lambda: self.send({"type": "http.response.body", "body": b"x", "more_body": what == "part"}))
        elif what == "receive" and (model.unread or model.left):
            expected = "http.request" if model.unread else "http.disconnect"
            if not model.unread:
                model.noticed = True
            model.unread = False
            got: list[str] = []

            async def receive() -> None:
                got.append((await self.receive())["type"])

            self.tell(receive)
            assert got == [expected]
        elif what == "stubborn":
            model.stubborn = self.swallowing = True

    def application_ends(self, how: str) -> None:
        async def command() -> None:
            if how == "return":
                self.returning = True
            else:
                raise ValueError("app") if how == "fail" else CircuitOpenError("db")

        if how == "return":
            self.model.returns()
        else:
            self.model.fails(how == "reject")
        self.tell(command)

    def time_passes(self, seconds: float) -> None:
        self.model.advance(seconds)
        self.wait(seconds)

    def somebody_leaves(self, who: str) -> None:
        if who == "client":
            self.model.left = True
            self.model.advance(0.0)
            self.connection.disconnect()
        else:
            self.model.foreign += 1
            self.model.cancelled()
            self.task.cancel()
        self.wait(0.0)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "model"):
            return
        model, connection = self.model, self.connection
        assert self.task.done() is (model.phase == "over"), model
        assert self.spy.verdicts == model.verdicts, model
        assert self.spy.out == (1 if model.working() else 0), model
        assert (connection.status if connection.sent else None) == model.status, model
        assert connection.complete is model.complete, model
        if model.phase == "over":
            assert self.outcome() == model.ending, model
            assert self.cancelling == model.foreign

    def outcome(self) -> str:
        if self.task.cancelled():
            return "cancelled"
        kinds: dict[type, str] = {ValueError: "failed", CircuitOpenError: "rejected", CallTimeoutError: "timed out"}
        error = self.task.exception()
        return "returned" if error is None else kinds[type(error)]

    def teardown(self) -> None:
        if hasattr(self, "model"):
            if not self.task.done():
                self.swallowing = False
                self.task.cancel()
            self.wait(0.0)
            assert self.task.done()
            assert asyncio.all_tasks(self.loop) == set()
            if not self.task.cancelled():
                self.task.exception()
        self.loop.close()
        self.using.__exit__(None, None, None)


TestExchange = ExchangeMachine.TestCase
TestExchange.settings = settings(max_examples=300, stateful_step_count=12)
