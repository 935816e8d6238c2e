"""The run: the same traffic once through each caller, each time against a fresh service."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

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
FRAME = 0.2  # seconds between two pictures of the bar


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
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def _run(name: str, console: Console) -> None:
    run = asyncio.current_task()
    assert run is not None
    with suppress(NotImplementedError):  # on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, run.cancel)
    script = SCRIPTS[name]
    instants = arrivals(script.rate, script.seconds)
    passes = {title: await _pass(title, caller, name, instants, console) for title, caller in CALLERS.items()}
    console.print()
    console.print(report.table(passes, script))
    console.print(report.notes(passes, script), style="dim")


async def _pass(title: str, caller: Caller, name: str, instants: list[float], console: Console) -> Measures:
    script = SCRIPTS[name]
    calls: list[Call] = []
    openings: list[float] = []
    wire = Wire()

    def done(call: Call) -> None:
        calls.append(call)
        live.add(call)

    def heard(event: Event) -> None:
        instant = time.perf_counter() - began
        if isinstance(event, CircuitOpened):
            openings.append(instant)
            live.say(f"the circuit opened at {instant:.2f} s: {event.reason}")
        elif isinstance(event, CircuitClosed):
            live.say(f"the circuit closed at {instant:.2f} s: {event.reason}")

    async with (
        serving(name) as child,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{child.port}", transport=wire) as client,
    ):
        with Live(console, title, script, instants) as live:
            live.say(f"calls the service on port {child.port}, process {child.pid}")
            quote = caller(client, script, heard)
            await _ask(client, "/start")
            began = time.perf_counter()
            drawing = asyncio.create_task(_draw(live, script, began))
            await drive(quote, instants, wire.sent, done, began)
            drawing.cancel()
        requests = await _ask(client, "/report")
    return measure(script, calls, requests, openings)


async def _ask(client: httpx.AsyncClient, path: str) -> dict[str, int]:
    try:
        answer: dict[str, int] = (await client.get(path, timeout=10.0)).json()
    except httpx.HTTPError as error:
        raise ServiceError("the service has gone") from error
    return answer


async def _draw(live: Live, script: Script, began: float) -> None:
    while True:
        live.draw(script.at(time.perf_counter() - began)[0].name)
        await asyncio.sleep(FRAME)
