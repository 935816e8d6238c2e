"""The live view: bars on a terminal, and everywhere a line for what has happened and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from .measures import success_rate
from .report import share
from .script import Script
from .traffic import Call, Outcome


class Live:
    """A run as it goes: a line for each phase once all its calls have ended, and in between what breakers do.

    On a terminal there is also a bar for each caller. All times are seconds from the start of the script.
    """

    def __init__(self, console: Console, titles: Sequence[str], script: Script, instants: Sequence[float]) -> None:
        self._titles = titles
        self._script = script
        self._due = Counter(script.at(instant)[0].name for instant in instants)
        self._calls: dict[str, dict[str, list[Call]]] = {
            phase.name: {title: [] for title in titles} for phase in script.phases
        }
        self._late = dict.fromkeys(titles, 0)
        down, back = script.outage()
        self._marks = [(down, "the service goes down"), (back, "the service is back")]
        self._outcomes: dict[str, Counter[Outcome]] = {title: Counter() for title in titles}
        # Drawn by hand: a drawing thread would take its time from the calls that are being measured.
        self._progress = Progress(
            TextColumn("{task.description:<15}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[counts]}"),
            console=console,
            transient=True,
            auto_refresh=False,
            disable=not console.is_terminal,
        )
        self._day = self._progress.add_task("", total=script.seconds, counts="")
        self._bars = {title: self._progress.add_task(title, total=len(instants), counts="") for title in titles}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def ready(self, title: str, port: int, pid: int) -> None:
        """A caller has a service."""
        self._progress.console.print(f"{title:<13}  calls the service on port {port}, process {pid}", style="cyan")

    def heading(self) -> None:
        """What stands above the lines of the phases: the callers, whose answered calls are counted there."""
        titles = "".join(f"{title:>16}" for title in self._titles)
        self._progress.console.print(f"\n{'answered calls':<31}{titles}", style="bold")

    def add(self, title: str, call: Call) -> None:
        """Take in a call that has ended."""
        name = self._script.at(call.due)[0].name
        self._outcomes[title][call.outcome] += 1
        self._late[title] += call.late > self._script.tolerance
        of_phase = self._calls[name]
        of_phase[title].append(call)
        if all(len(calls) == self._due[name] for calls in of_phase.values()):
            self._progress.console.print(self._line(name))

    def say(self, title: str, instant: float, event: str) -> None:
        """Print what has just happened to a caller, and where in the script that was."""
        self._mark(instant)
        phase, _ = self._script.at(instant)
        since = instant - self._script.span(phase.name)[0]
        self._progress.console.print(
            f"{instant:5.2f} s  {title}: {event}, {since:.2f} s into {phase.name}", style="cyan"
        )

    @property
    def is_disturbed(self) -> bool:
        """Whether so many calls began late that the measures are sure to say so in the end."""
        return any(late > 0.01 * self._due.total() for late in self._late.values())

    def draw(self, instant: float) -> None:
        """Bring the bars up to date."""
        instant = min(instant, self._script.seconds)
        self._mark(instant)
        self._progress.update(
            self._day,
            description=self._script.at(instant)[0].name,
            completed=instant,
            counts=f"{instant:.1f} of {self._script.seconds:.1f} s",
        )
        for title, bar in self._bars.items():
            outcomes = self._outcomes[title]
            counts = "  ".join(f"{outcomes[outcome]:>5,} {outcome.value}" for outcome in Outcome)
            self._progress.update(bar, completed=outcomes.total(), counts=counts)
        self._progress.refresh()

    def _mark(self, instant: float) -> None:
        while self._marks and self._marks[0][0] <= instant:
            when, what = self._marks.pop(0)
            self._progress.console.print(f"{when:5.2f} s  {what}", style="bold")

    def _line(self, name: str) -> Text:
        begin, end = self._script.span(name)
        line = Text(f"{begin:5.2f} – {end:5.2f} s  {name:<14}")
        for title in self._titles:
            rate = success_rate(self._calls[name][title])
            style = "green" if rate >= 0.99 else "yellow" if rate >= 0.5 else "red"
            line.append(f"{share(rate):>16}", style)
        return line
