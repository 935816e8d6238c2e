"""The live view: a bar on a terminal, and everywhere a line for what has happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from .measures import success_rate
from .report import share
from .script import Script
from .traffic import Call, Outcome


class Live:
    """A pass as it goes: a bar on a terminal, and everywhere a line for each phase once all its calls have ended."""

    def __init__(self, console: Console, title: str, script: Script, instants: Sequence[float]) -> None:
        self._title = title
        self._script = script
        self._calls: dict[str, list[Call]] = {phase.name: [] for phase in script.phases}
        self._due = Counter(script.at(instant)[0].name for instant in instants)
        self._outcomes: Counter[Outcome] = Counter()
        # Drawn by hand: a drawing thread would take its time from the calls that are being measured.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            console=console,
            transient=True,
            auto_refresh=False,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task(f"{title:<15}", total=len(instants), counts="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, call: Call) -> None:
        """Take in a call that has ended."""
        name = self._script.at(call.due)[0].name
        self._outcomes[call.outcome] += 1
        self._calls[name].append(call)
        if len(self._calls[name]) == self._due[name]:
            self._progress.console.print(self._line(name, self._calls[name]))

    def say(self, event: str) -> None:
        """Print what has just happened."""
        self._progress.console.print(f"{self._title:<13}  {event}", style="cyan")

    def draw(self, phase: str) -> None:
        """Bring the bar up to date."""
        counts = "  ".join(f"{self._outcomes[outcome]:,} {outcome.value}" for outcome in Outcome)
        self._progress.update(
            self._bar,
            description=f"{phase:<15}",
            completed=self._outcomes.total(),
            counts=counts,
            refresh=True,
        )

    def _line(self, name: str, calls: Sequence[Call]) -> Text:
        rate = success_rate(calls)
        style = "green" if rate >= 0.99 else "yellow" if rate >= 0.5 else "red"
        refused = sum(call.outcome is Outcome.REFUSED for call in calls)
        return Text.assemble(
            f"{self._title:<13}  {name:<15} {len(calls):>5,} calls  ",
            (f"{share(rate):>7} answered", style),
            f"  {refused:>5,} refused" if refused else "",
        )
