"""The run: the same traffic through every caller at the same time, each against a service of its own.

At the same time, because it takes a third of the time, and because whatever else this machine does then disturbs all
callers alike.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Mapping
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
from .script import SCRIPTS, Script
from .traffic import Call, arrivals, drive
from .wire import Wire

Caller = Callable[[httpx.AsyncClient, Script, Callable[[Event], None]], Quote]

CALLERS: dict[str, Caller] = {
    "naked": lambda client, script, _: naked(client, script),
    "naive retries": lambda client, script, _: stubborn(client, script),
    "guarded": lambda client, script, listener: guarded(client, script, [listener]),
}
WIDTH = 100  # where there is no terminal to ask


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
    script = SCRIPTS[name]
    passes = await side_by_side(name, console)
    if report.busy(passes, script):
        console.print("\nThis machine was too busy for these figures: once more.", style="yellow")
        passes = min(passes, await side_by_side(name, console), key=lateness)
    console.print()
    console.print(report.table(passes, script))
    console.print(report.notes(passes, script), style="dim")


def lateness(passes: Mapping[str, Measures]) -> float:
    """How much the machine has disturbed the worst of the passes, in seconds."""
    return max(measures.late for measures in passes.values())


async def side_by_side(name: str, console: Console) -> dict[str, Measures]:
    """The measures of all callers, who made the same calls in the same moments."""
    script = SCRIPTS[name]
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
            drawing = asyncio.create_task(live.draw(asyncio.get_running_loop().time()))
            try:
                await asyncio.wait(passes.values())
            finally:
                drawing.cancel()
    return {title: task.result() for title, task in passes.items()}


async def _pass(
    title: str, caller: Caller, name: str, instants: list[float], live: Live, ready: asyncio.Barrier
) -> Measures:
    script = SCRIPTS[name]
    now = asyncio.get_running_loop().time
    calls: list[Call] = []
    openings: list[float] = []
    wire = Wire()

    def done(call: Call) -> None:
        calls.append(call)
        live.add(title, call)

    def heard(event: Event) -> None:
        instant = now() - began
        if isinstance(event, CircuitOpened):
            openings.append(instant)
            live.say(title, instant, f"the circuit opened ({event.reason})")
        elif isinstance(event, CircuitClosed):
            live.say(title, instant, "the circuit closed")

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
