"""What the demo's table compares, in virtual time: the callers, the traffic and the service as they are, no machine."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import random
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from rich.console import Console

from examples.demo import passes, report
from examples.demo.callers import guarded
from examples.demo.live import Live
from examples.demo.measures import Measures, measure
from examples.demo.passes import CALLERS
from examples.demo.script import SCRIPTS, SLOWED, Script
from examples.demo.service import Service
from examples.demo.traffic import Call, Outcome, arrivals, drive
from resilience import CircuitClosed, CircuitOpened, Event
from resilience.testing import run

SCRIPT = SCRIPTS["full"]
OUTAGE = "full outage"


class VirtualWire(httpx.AsyncBaseTransport):
    """Hands requests to the service in this process; a caller that hangs up is not noticed there."""

    def __init__(self, service: Service) -> None:
        self.sent: set[str] = set()
        self._service = service
        self._working: set[asyncio.Task[httpx.Response]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.add(request.url.path)
        task = asyncio.create_task(self._answer(request.url.path))
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        try:
            async with asyncio.timeout(request.extensions["timeout"]["read"]):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise httpx.ReadTimeout("", request=request) from error

    async def _answer(self, path: str) -> httpx.Response:
        messages: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        await self._service({"path": path}, None, send)
        return httpx.Response(messages[0]["status"], content=messages[1]["body"])

    async def aclose(self) -> None:
        await asyncio.gather(*self._working)


@dataclasses.dataclass
class Pass:
    """One caller's pass: what came back, what the breaker did and when, and the measures of it all."""

    calls: list[Call]
    events: list[tuple[float, Event]]
    measures: Measures


async def one_pass(title: str, script: Script) -> Pass:
    callers = CALLERS | {"guarded": lambda client, script, hear: guarded(client, script, [hear], random.Random(1))}
    began = 0.0
    now = asyncio.get_running_loop().time
    service = Service(script)
    calls: list[Call] = []
    events: list[tuple[float, Event]] = []
    async with httpx.AsyncClient(base_url="http://service", transport=(wire := VirtualWire(service))) as client:
        quote = callers[title](client, script, lambda event: events.append((now() - began, event)))
        await client.get("/start")
        began = now()
        await drive(quote, arrivals(script.rate, script.seconds), wire.sent, calls.append, began)
        seen = (await client.get("/report")).json()
    openings = [instant for instant, event in events if isinstance(event, CircuitOpened)]
    return Pass(calls, events, measure(script, calls, seen["requests"], seen["overtime"], openings))


@pytest.fixture(scope="module")
def day() -> dict[str, Pass]:
    """The demo's own day, once through each caller."""
    return {title: run(one_pass(title, SCRIPT)) for title in CALLERS}


def in_phase(day: Mapping[str, Pass], name: str) -> dict[str, float]:
    return {title: each.measures.success_by_phase[name] for title, each in day.items()}


def test_the_demo_makes_thousands_of_calls_the_same_ones_for_every_caller(day: dict[str, Pass]) -> None:
    dues = [sorted(call.due for call in each.calls) for each in day.values()]
    assert dues[0] == dues[1] == dues[2]
    assert sum(map(len, dues)) >= 3_000


def test_a_healthy_service_answers_everybody(day: dict[str, Pass]) -> None:
    assert set(in_phase(day, "healthy").values()) == {1.0}


def test_the_guarded_caller_succeeds_most_often_of_all(day: dict[str, Pass]) -> None:
    success = {title: each.measures.success for title, each in day.items()}
    assert success["guarded"] > success["naked"] + 0.05
    assert success["guarded"] > success["naive retries"] + 0.05


def test_retries_get_through_the_errors_that_fail_the_naked_caller(day: dict[str, Pass]) -> None:
    answered = in_phase(day, "30 % errors")
    assert answered["naked"] < 0.75
    assert answered["guarded"] > 0.95
    assert answered["naive retries"] > 0.95


def test_only_naive_retries_multiply_the_load(day: dict[str, Pass]) -> None:
    requests = {title: each.measures.requests for title, each in day.items()}
    in_outage = {title: each.measures.requests_in_outage for title, each in day.items()}
    assert requests["naked"] == in_outage["naked"] == 1.0
    assert requests["naive retries"] > 1.7
    assert in_outage["naive retries"] > 2.0
    assert requests["guarded"] < 1.1
    assert in_outage["guarded"] < 0.3


def test_only_the_guarded_caller_notices_the_outage_and_at_once(day: dict[str, Pass]) -> None:
    noticed = {title: each.measures.noticed for title, each in day.items()}
    assert noticed["naked"] is noticed["naive retries"] is None
    assert noticed["guarded"] is not None
    assert 0.0 < noticed["guarded"] < 2 * SCRIPT.attempt


def test_the_guarded_caller_recovers_first(day: dict[str, Pass]) -> None:
    recovered = {title: each.measures.recovered for title, each in day.items()}
    assert recovered["guarded"] is not None
    assert recovered["naked"] is not None
    assert recovered["guarded"] < recovered["naked"]
    assert recovered["naive retries"] is None or recovered["naive retries"] > recovered["naked"]
    closings = [instant for instant, event in day["guarded"].events if isinstance(event, CircuitClosed)]
    assert SCRIPT.outage()[1] < closings[-1] < SCRIPT.outage()[1] + 1.5


def test_only_the_guarded_caller_refuses_and_in_no_time(day: dict[str, Pass]) -> None:
    assert day["naked"].measures.refused == day["naive retries"].measures.refused == 0
    refused = [call for call in day["guarded"].calls if call.outcome is Outcome.REFUSED]
    assert len(refused) > 130
    assert day["guarded"].measures.refused_at_once > 0.95 * len(refused)


def test_nobody_waits_longer_than_promised(day: dict[str, Pass]) -> None:
    longest = {title: max(call.seconds for call in each.calls) for title, each in day.items()}
    assert longest["naked"] <= SCRIPT.patience + 0.001
    assert longest["naive retries"] <= 3 * SCRIPT.patience + 0.001
    assert longest["guarded"] <= 1.05 * SCRIPT.patience


def test_virtual_machines_are_never_late(day: dict[str, Pass]) -> None:
    measures = {title: each.measures for title, each in day.items()}
    assert [each.late for each in measures.values()] == pytest.approx([0.0] * 3, abs=1e-6)
    assert report.busy(measures, SCRIPT) == {}


def test_phases_show_their_times_next_to_what_the_breaker_did_and_when(day: dict[str, Pass]) -> None:
    console = Console(file=io.StringIO(), width=passes.WIDTH, highlight=False)
    live = Live(console, tuple(CALLERS), SCRIPT, arrivals(SCRIPT.rate, SCRIPT.seconds))
    ended = [(call.due + call.seconds, title, call) for title, each in day.items() for call in each.calls]
    with live:
        live.say("guarded", 9.5, "the circuit opened")
        for _, title, call in sorted(ended, key=lambda end: end[0]):
            live.add(title, call)
        live.say("guarded", 12.25, "the circuit closed")
    assert isinstance(console.file, io.StringIO)
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    events = [line for line in lines if "–" not in line]
    assert events == [
        "9.00 s the service goes down",
        "9.50 s guarded: the circuit opened, 0.50 s into full outage",
        "12.00 s the service is back",
        "12.25 s guarded: the circuit closed, 0.25 s into recovery",
    ]
    spans = [line.partition(" s ")[0] for line in lines if "–" in line]
    assert spans == ["0.00 – 1.00", "1.00 – 6.00", "6.00 – 9.00", "9.00 – 12.00", "12.00 – 15.00"]
    assert "0.00 – 1.00 s healthy 100.0 % 100.0 % 100.0 %" in lines


# --- a machine that is too busy --------------------------------------------------------------------------------------


class Told:
    """A console that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.runs: list[tuple[str, bool]] = []

    def print(self, what: object = "", **_: object) -> None:
        self.lines.append(str(what))

    def __contains__(self, words: str) -> bool:
        return any(words in line for line in self.lines)


def told(day: Mapping[str, Pass], lateness: list[float | None], monkeypatch: pytest.MonkeyPatch) -> Told:
    """What the demo says if its runs are that many seconds late; None is a run that was given up."""
    console = Told()

    async def made(name: str, _: object, *, insist: bool) -> dict[str, Measures] | None:
        console.runs.append((name, insist))
        late = lateness.pop(0)
        if late is None:
            return None
        return {title: dataclasses.replace(each.measures, late=late) for title, each in day.items()}

    monkeypatch.setattr(passes, "side_by_side", made)
    run(passes._run("full", console))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return console


def test_a_run_on_a_quiet_machine_is_the_only_one(day: dict[str, Pass], monkeypatch: pytest.MonkeyPatch) -> None:
    console = told(day, [0.01], monkeypatch)
    assert console.runs == [("full", False)]
    assert "This machine" not in console


@pytest.mark.parametrize("first", [None, 5.0])
def test_a_run_on_a_busy_machine_is_repeated_at_half_the_speed_and_the_repetition_counts(
    day: dict[str, Pass], first: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = told(day, [first, 0.01], monkeypatch)
    assert console.runs == [("full", False), ("full, slowed", True)]
    assert "This machine is too busy for that: once more, at half the speed." in console
    assert "This machine stayed so busy" not in console


def test_a_machine_that_stays_busy_gets_its_figures_with_a_note(
    day: dict[str, Pass], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = told(day, [None, 7.0], monkeypatch)
    assert "This machine stayed so busy that the figures are about it, not about the callers." in console
    assert "naked up to 7.00 s, naive retries up to 7.00 s, guarded up to 7.00 s" in console


@pytest.mark.parametrize("name", SLOWED)
def test_at_half_the_speed_it_is_the_same_day_with_the_same_number_of_calls(name: str) -> None:
    usual, slow = SCRIPTS[name], SCRIPTS[SLOWED[name]]
    assert slow.seconds == 2 * usual.seconds
    assert slow.attempt == 2 * usual.attempt
    assert slow.workers == usual.workers
    assert len(arrivals(slow.rate, slow.seconds)) == len(arrivals(usual.rate, usual.seconds))


def test_a_run_is_given_up_as_soon_as_it_is_sure_to_be_void() -> None:
    instants = [number / 100 for number in range(500)]
    live = Live(Console(file=io.StringIO()), ("naked", "guarded"), SCRIPT, instants)
    for number in range(5):
        live.add("naked", Call(number, instants[number], 1.01 * SCRIPT.tolerance, 0.1, Outcome.ANSWERED))
        live.add("guarded", Call(number, instants[number], 0.99 * SCRIPT.tolerance, 0.1, Outcome.ANSWERED))
        assert not live.is_disturbed  # one in a hundred may be late
    live.add("naked", Call(5, instants[5], 1.01 * SCRIPT.tolerance, 0.1, Outcome.ANSWERED))
    assert live.is_disturbed


def test_what_the_service_tells_of_its_work_being_late_counts_as_well() -> None:
    calls = [Call(number, number / 10, 0.0, 0.1, Outcome.ANSWERED) for number in range(150)]
    measures = measure(SCRIPT, calls, json.loads('{"healthy": 150}'), [0.0, 0.5], [])
    assert measures.late == 0.5
