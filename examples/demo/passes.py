"""The run: the same traffic through every caller at the same time, each against a service of its own.

At the same time, because it takes a third of the time, and because whatever else this machine does then disturbs all
callers alike. If it does so much that calls or answers are late, the run is given up and repeated at half the speed.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
from rich.console import Console

from resilience import CircuitClosed, CircuitOpened, Event

from . import report
from .callers import Quote, guarded, naked, stubborn
from .child import ServiceError, serving
from .live import Live
from .measures import Measures, measure
from .script import SCRIPTS, SLOWED, Script
from .traffic import Call, arrivals, drive
from .wire import Wire

Caller = Callable[[httpx.AsyncClient, Script, Callable[[Event], None]], Quote]

CALLERS: dict[str, Caller] = {
    "naked": lambda client, script, _: naked(client, script),
    "naive retries": lambda client, script, _: stubborn(client, script),
    "guarded": lambda client, script, listener: guarded(client, script, [listener]),
}
WIDTH = 100  # where there is no terminal to ask
FRAME = 0.2  # seconds between two pictures of the bars


def main() -> int:
    """Run the demo; returns the exit status, or raises KeyboardInterrupt."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="A service's bad day, three ways.")
    parser.add_argument("--quick", action="store_true", help="a run of a few seconds; its numbers mean little")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    try:
        asyncio.run(_run("quick" if options.quick else "full", console))
    except asyncio.CancelledError:  # SIGTERM, see _run
        return 143
    except ExceptionGroup as group:
        troubles, others = group.split(ServiceError)
        if troubles is None or others is not None:
            raise
        print(troubles.exceptions[0], file=sys.stderr)
        return 1
    return 0


async def _run(name: str, console: Console) -> None:
    run = asyncio.current_task()
    assert run is not None
    with suppress(NotImplementedError):  # on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, run.cancel)
    passes = await side_by_side(name, console, insist=False)
    if passes is None or report.busy(passes, SCRIPTS[name]):
        console.print("\nThis machine is too busy for that: once more, at half the speed.\n", style="yellow")
        name = SLOWED[name]
        passes = await side_by_side(name, console, insist=True)
    assert passes is not None
    console.print()
    console.print(report.table(passes, SCRIPTS[name]))
    console.print(report.notes(SCRIPTS[name]), style="dim")
    if reservation := report.reservation(passes, SCRIPTS[name]):
        console.print(reservation, style="bold yellow")


async def side_by_side(name: str, console: Console, *, insist: bool) -> dict[str, Measures] | None:
    """The measures of all callers, who made the same calls in the same moments.

    None if the machine is so busy that they would be void; `insist` has them all the same.
    """
    script = SCRIPTS[name]
    now = asyncio.get_running_loop().time
    instants = arrivals(script.rate, script.seconds)
    ready = asyncio.Barrier(len(CALLERS) + 1)
    with Live(console, tuple(CALLERS), script, instants) as live:
        async with asyncio.TaskGroup() as group:
            passes = {
                title: group.create_task(_pass(title, caller, name, instants, live, ready))
                for title, caller in CALLERS.items()
            }
            await ready.wait()
            live.heading()
            began = now()
            going: set[asyncio.Task[Measures]] = set(passes.values())
            while going and (insist or not live.is_disturbed):
                live.draw(now() - began)
                _, going = await asyncio.wait(going, timeout=FRAME)
            for task in going:
                task.cancel()
    return None if going else {title: task.result() for title, task in passes.items()}


async def _pass(
    title: str, caller: Caller, name: str, instants: list[float], live: Live, ready: asyncio.Barrier
) -> Measures:
    script = SCRIPTS[name]
    now = asyncio.get_running_loop().time
    calls: list[Call] = []
    openings: list[float] = []
    rounds = 0
    wire = Wire()

    def done(call: Call) -> None:
        calls.append(call)
        live.add(title, call)

    def heard(event: Event) -> None:
        nonlocal rounds
        instant = now() - began
        if isinstance(event, CircuitOpened):
            openings.append(instant)
            if rounds == 0:
                live.say(title, instant, f"the circuit opened ({event.reason})")
            rounds += 1
        elif isinstance(event, CircuitClosed):
            live.say(title, instant, f"the circuit closed (round {rounds} of probes succeeded)")
            rounds = 0

    async with (
        serving(name) as child,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{child.port}", transport=wire) as client,
    ):
        live.ready(title, child.port, child.pid)
        quote = caller(client, script, heard)
        await ready.wait()
        await _ask(client, "/start")
        began = now()
        await drive(quote, instants, wire.sent, done, began)
        seen = await _ask(client, "/report")
    return measure(script, calls, seen["requests"], seen["overtime"], openings)


async def _ask(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = (await client.get(path, timeout=10.0)).json()
    except httpx.HTTPError as error:
        raise ServiceError("the service has gone") from error
    return answer
